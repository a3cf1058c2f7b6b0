"""What the tree costs: appending by chunk size and length of history, committing, memory.

Null gists throughout, so the figures are the tree's own and not a model's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megacontext.core.rng import generator
from megacontext.core.tree import NullGister, Tree, TreeSpec
from megacontext.core.tree.spec import U32

__all__ = ["bench"]

_DIM, _KEY_DIM, _VOCAB = 64, 128, 50_000
_BULK = 5_000
_COMMIT_EVERY = 100_000


def bench(
    histories: Sequence[int] = (4_096, 131_072, 1_000_000),
    chunks: Sequence[int] = (1, 32, 5_000),
    memory_tokens: int = 1_000_000,
    samples: int = 30,
    commits: int = 50,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Medians of appending and committing in memory and on disk; resident memory on disk.

    Args:
        histories: tokens in the tree when appending is measured, ascending.
        chunks: tokens per call of ``append``.
        memory_tokens: length of the tree on disk whose memory is measured in a process of its
            own, with vectors of 64 and keys of 128 values.
        samples: timed runs per case; each appends at least 2,000 tokens.
        commits: timed commits of 32 tokens.
        folder: where trees on disk go; by default the system's temporary folder.

    Returns:
        ``append_us_per_token[place][history][chunk]``, ``commit_us[place]`` (p50, p99) and
        ``memory`` (bytes resident at the end, at most, and before there was a tree).
    """
    append: dict[str, Any] = {}
    commit: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for position, path in (("ram", None), ("disk", Path(scratch) / "tree")):
            with Tree.create(_spec(), NullGister(_DIM, _KEY_DIM), path) as tree:
                append[position] = {}
                for history in histories:
                    _grow(tree, history)
                    append[position][str(history)] = {
                        str(chunk): _append_us(tree, chunk, samples) for chunk in chunks
                    }
                commit[position] = _commit_us(tree, commits)
        memory = _memory(memory_tokens, Path(scratch) / "long")
    return {"append_us_per_token": append, "commit_us": commit, "memory": memory}


def _spec() -> TreeSpec:
    return TreeSpec(32, 3, _DIM, _KEY_DIM, "fp16", "bench", "null", _VOCAB)


def _tokens(n: int) -> U32:
    return generator(0, "bench").integers(0, _VOCAB, n, dtype=np.uint32)


def _grow(tree: Tree, n_tokens: int) -> None:
    """Append in bulk, with a commit now and then, up to ``n_tokens``."""
    bulk = _tokens(_BULK)
    while tree.n_tokens < n_tokens:
        tree.append(bulk[: n_tokens - tree.n_tokens])
        if tree.n_tokens - tree.committed_tokens >= _COMMIT_EVERY:
            tree.commit()


def _append_us(tree: Tree, chunk: int, samples: int) -> float:
    calls = max(2_000 // chunk, 1)
    tokens = _tokens(chunk)
    taken: list[float] = []
    for _ in range(samples):
        begin_ns = time.perf_counter_ns()
        for _ in range(calls):
            tree.append(tokens)
        taken.append((time.perf_counter_ns() - begin_ns) / (1_000 * calls * chunk))
    return round(float(np.median(taken)), 3)


def _commit_us(tree: Tree, commits: int) -> dict[str, float]:
    taken: list[float] = []
    tokens = _tokens(32)
    for _ in range(commits):
        tree.append(tokens)
        begin_ns = time.perf_counter_ns()
        tree.commit()
        taken.append((time.perf_counter_ns() - begin_ns) / 1_000)
    p50, p99 = np.percentile(taken, [50, 99])
    return {"p50": round(float(p50), 1), "p99": round(float(p99), 1)}


def _memory(n_tokens: int, path: Path) -> dict[str, Any]:
    """Run this file in a fresh process, whose memory is then the tree's and the interpreter's."""
    command = [sys.executable, "-m", "megacontext.core.bench.tree", str(n_tokens), str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _report_memory(n_tokens: int, path: Path) -> dict[str, Any]:
    before = _status_bytes("VmRSS")
    with Tree.create(_spec(), NullGister(_DIM, _KEY_DIM), path) as tree:
        _grow(tree, n_tokens)
        tree.commit()
        begin_ns = time.perf_counter_ns()
        checksum = _read_everything(tree)
        read_s = (time.perf_counter_ns() - begin_ns) / 1e9
        return {
            "tokens": n_tokens,
            "resident_bytes": _status_bytes("VmRSS"),
            "peak_bytes": _status_bytes("VmHWM"),
            "before_bytes": before,
            "read_all_s": round(read_s, 3),
            "checksum": checksum,
        }


def _read_everything(tree: Tree) -> int:
    """Touch every token and gist once, in pieces: mapped pages count as resident."""
    total = 0
    for start in range(0, tree.n_tokens, 1 << 20):
        piece: NDArray[np.uint32] = tree.tokens(start, min(start + (1 << 20), tree.n_tokens))
        total += int(piece.sum(dtype=np.uint64))
    for level in range(1, tree.spec.max_levels + 1):
        for start in range(0, tree.n_nodes(level), 1 << 14):
            stop = min(start + (1 << 14), tree.n_nodes(level))
            total += int(tree.gists(level, start, stop).sum())
            total += int(tree.keys(level, start, stop).sum())
    return total


def _status_bytes(field: str) -> int:
    """A field of /proc/self/status in bytes (VmRSS: resident now, VmHWM: at most so far)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise KeyError(field)


if __name__ == "__main__":
    print(json.dumps(_report_memory(int(sys.argv[1]), Path(sys.argv[2]))))
