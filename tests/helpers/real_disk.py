"""Lives of a tree, its keys and a trace on a real disk that fails, or under a process that dies.

``python tests/helpers/real_disk.py kill 200 FOLDER`` kills so many writers; ``sync``, ``readonly``
and ``full`` let the n-th call of a life fail, for n = 1, 2, ... until none is left (they need
``disk_shim.c`` under LD_PRELOAD); ``small`` fills the file system that FOLDER lies on. Each prints
one JSON object of figures, and fails where anything that was committed is lost.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np

from megacontext.core.rng import generator
from megacontext.core.tree import HashGister, Tree, TreeSpec
from megacontext.simulator.config import WorldConfig
from megacontext.simulator.keys import HashEncoder, KeyStore
from megacontext.simulator.recording import metadata
from megacontext.simulator.world import World
from megacontext.traces.errors import MegaContextError
from megacontext.traces.reader import TraceReader
from megacontext.traces.row import TraceRow
from megacontext.traces.writer import TraceWriter

HISTORY = generator(0, "real.disk").integers(0, 4096, 200_000, dtype=np.uint32)
SPEC = TreeSpec(8, 3, 16, 4, "fp16", "m", "hash", 4096)
WORLD = WorldConfig(block_size=8, w_max=128, record=True)
KINDS = {"sync": 1, "readonly": 2, "full": 3}


def gister(checkpoint: str = "hash") -> HashGister:
    return HashGister(16, 4, checkpoint, 3)


def rows() -> list[TraceRow]:
    """Rows of a simulated run."""
    world = World(WORLD)
    for _ in range(40):
        world.do(["append", 8])
        world.do(["refocus"])
    return world.recorder.rows


def open_tree(path: Path) -> Tree:
    if not (path / "manifest.json").exists():
        shutil.rmtree(path, ignore_errors=True)
        return Tree.create(SPEC, gister(), path, now_ns=0)
    with Tree.open(path, write=False) as reader:
        checkpoint = reader.spec.gist_checkpoint
    return Tree.open(path, gister(checkpoint))


def live(path: Path, seed: int, commits: int, said: int = -1) -> int:
    """Append, commit, make gists anew; returns the tokens that a commit confirmed.

    Args:
        said: a pipe that is told each of these numbers when it is known.
    """
    rng, confirmed = generator(seed, "real.life"), 0

    def confirm(n_tokens: int) -> None:
        nonlocal confirmed
        confirmed = CONFIRMED[0] = n_tokens
        if said >= 0:
            os.write(said, b"%d\n" % n_tokens)

    with open_tree(path) as tree:
        keys = KeyStore.beside(HashEncoder(), tree)
        confirm(tree.n_tokens)
        for number in range(commits):
            count = int(rng.integers(1, 200))
            tree.append(HISTORY[tree.n_tokens : tree.n_tokens + count])
            keys.follow(tree.tokens, tree.n_tokens, tree.committed_tokens)
            if rng.random() < 0.1:
                tree.regist(gister(f"hash-{seed}-{number}"))
            tree.commit()
            confirm(tree.committed_tokens)
        keys.close()
    return confirmed


CONFIRMED = [0]
"""The newest number that :func:`live` confirmed, also where it then failed."""


def check(path: Path, confirmed: int) -> int:
    """Nothing committed is lost, and all of it is right; returns the tokens that are there."""
    with open_tree(path) as tree:
        n = tree.n_tokens
        assert n >= confirmed, f"{n} tokens, {confirmed} were committed"
        np.testing.assert_array_equal(tree.tokens(0, n), HISTORY[:n])
        result = tree.verify(gister(tree.spec.gist_checkpoint))
        assert result == [], result
        keys = KeyStore.beside(HashEncoder(), tree)
        served = np.array(keys.view(0, keys.count))
        np.testing.assert_array_equal(served, HashEncoder().encode(HISTORY[:n], 0)[: keys.count])
        keys.close()
        return n


def is_sentence(error: MegaContextError) -> bool:
    """Whether a person can read it: one line that says what to do."""
    return "\n" not in str(error) and str(error).endswith(".")


def write_trace(path: Path, wanted: list[TraceRow], confirm: list[int]) -> None:
    with TraceWriter(path, metadata(WORLD), threaded=False, flush_rows=4) as writer:
        for row in wanted:
            writer.put(row)
            confirm[0] += 1


def check_trace(path: Path, wanted: list[TraceRow], confirmed: int) -> int:
    """Every whole batch is there and right; returns the rows that are."""
    if not path.exists() or (path.stat().st_size == 0 and confirmed < 4):
        return 0
    with TraceReader.open(path) as reader:
        damaged = reader.check()
        good = min([reader.num_rows, *(hurt.start for hurt in damaged)])
        assert good >= confirmed // 4 * 4, f"{good} of {confirmed} rows"
        for number in range(good):
            np.testing.assert_array_equal(reader.row(number).levels, wanted[number].levels)
        return good


# -- the ways to fail --------------------------------------------------------------------------


def kill(times: int, folder: Path) -> dict[str, int]:
    """SIGKILL after a drawn number of confirmed commits, and a drawn number of spins."""
    path, confirmed, lost = folder / "tree", 0, 0
    for seed in range(times):
        rng = generator(seed, "real.kill")
        end, begin = os.pipe()
        child = os.fork()
        if not child:
            os.close(end)
            live(path, seed, 1_000_000, begin)
            os._exit(0)
        os.close(begin)
        with os.fdopen(end, "rb") as pipe:
            for _ in range(int(rng.integers(1, 12))):
                confirmed = int(pipe.readline())
            for _ in range(int(rng.integers(0, 40_000))):  # less than a commit takes
                pass
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            rest = pipe.read().split(b"\n")[:-1]
        confirmed = int(rest[-1]) if rest else confirmed
        there = check(path, confirmed)
        lost += there < confirmed
        if there > len(HISTORY) // 2:
            shutil.rmtree(path)
    return {"killed": times, "lost": lost}


def fail_every_call(kind: str, folder: Path) -> dict[str, int]:
    """The n-th call fails, n = 1, 2, ... until a life meets none; then the process starts anew."""
    shim, expected = ctypes.CDLL(None), rows()
    path, trace = folder / "tree", folder / "run.arrow"
    below, struck, sentences = str(folder).encode(), 0, 0
    for nth in range(1, 10_000):
        shutil.rmtree(path, ignore_errors=True)
        trace.unlink(missing_ok=True)
        before, CONFIRMED[0], recorded = live(path, 0, 3), 0, [0]
        shim.mc_arm(below, KINDS[kind], nth)
        try:
            live(path, nth, 3)
            write_trace(trace, expected, recorded)
        except MegaContextError as error:
            sentences += is_sentence(error)
        hit = shim.mc_struck()
        shim.mc_arm(below, 0, 0)
        check(path, max(before, CONFIRMED[0]))

        # A trace is synced when it ends, and promises whole batches to readers until a sync fails.
        lost_sync = kind == "sync" and hit and recorded[0]
        check_trace(trace, expected, 0 if lost_sync else recorded[0])
        live(path, nth + 1, 1)  # and it goes on
        if not hit:
            break
        struck += 1
    return {"calls": struck, "sentences": sentences}


def fill(folder: Path) -> dict[str, int]:
    """Write until the file system is full, again and again, with room made in between."""
    path, ballast, refused = folder / "tree", folder / "ballast", 0
    for seed in range(40):
        CONFIRMED[0] = 0
        try:
            live(path, seed, 4)
        except MegaContextError as error:
            refused += is_sentence(error) and "No space" in str(error)
            ballast.unlink(missing_ok=True)  # the owner makes room
            check(path, CONFIRMED[0])
        free = os.statvfs(folder)
        leave = int(generator(seed, "real.fill").integers(0, 160 << 10))
        with ballast.open("ab") as file:
            left = free.f_bavail * free.f_frsize - leave
            file.write(b"x" * max(0, left))
    ballast.unlink(missing_ok=True)
    return {"refused": refused, "tokens": check(path, CONFIRMED[0])}


def main() -> None:
    kind, *rest = sys.argv[1:]
    folder = Path(rest[-1])
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "kill":
        result = kill(int(rest[0]), folder)
    elif kind == "small":
        result = fill(folder)
    else:
        result = fail_every_call(kind, folder)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
