"""Whole sessions that are broken off and go on: the product's loop over a model that is a hash.

Session, script, resume, recorder and tree are the product's; model, tokenizer and window stand in,
so that a session of hundreds of tokens takes milliseconds. The few tokens of the vocabulary make
every n-gram come back, so echoes collide. This module needs torch, as the session does; nothing
else of the simulator imports it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import torch

from megacontext.core.config import Config, parse_config
from megacontext.core.config.load import dump_config
from megacontext.core.focus import smallest_w_max
from megacontext.core.lenses import make_lens
from megacontext.core.rng import generator
from megacontext.core.runtime.build import EngineParts, assemble
from megacontext.core.runtime.pretrained import resolve_kinds
from megacontext.core.runtime.recorder import Recorder
from megacontext.core.runtime.resume import Resumed, restore
from megacontext.core.runtime.script import ScriptRunner
from megacontext.core.runtime.session import Session
from megacontext.core.runtime.skip_replayed import ReplaySkipper
from megacontext.core.sources import Decode, Event, Ingest, Mark, Plant, Question
from megacontext.core.tree import HashGister, Tree, TreeSpec
from megacontext.simulator.checks.invariant import InvariantError
from megacontext.simulator.checks.trace import check_rows_follow
from megacontext.simulator.faults import At, Fate, Killed, SimDisk
from megacontext.simulator.faults.base import is_changing
from megacontext.simulator.faults.kill import die
from megacontext.simulator.session_parts import (
    LETTERS,
    VOCAB,
    DrawnCommands,
    HashWindow,
    LetterTokenizer,
)
from megacontext.traces.errors import SourceError, TraceError
from megacontext.traces.meta import TraceMeta
from megacontext.traces.reader import TraceReader
from megacontext.traces.row import TraceRow
from megacontext.traces.writer import TraceWriter

__all__ = ["SessionLife", "SessionWorld", "check_same_rows"]

_TREE, _TRACE = Path("/sim/tree"), Path("/sim/run.arrow")
_MOST_BLOCKS = 180
"""No drawn source has more."""
_DIM, _KEY_DIM = 4, 2
_COMPARED = ("levels", "new_tokens", "scores", "actions", "rejected", "appended_levels")


@dataclass
class SessionLife:
    """How one life of a session ends.

    Args:
        nth: the changing call of the disk before which the process dies; 0: it does not.
        fate: what a power cut at it leaves; None for a kill.
    """

    nth: int = 0
    fate: Fate | None = None


@dataclass
class SessionWorld:
    """One source, read by a session that is broken off and resumed.

    Args:
        seed: of the source, the settings and the commands.
        prob: that somebody steers before a step; 0: nobody does, and a broken session must end
            with the very rows of an unbroken one.

    Attributes:
        sometimes: what happened, by name.
    """

    seed: int
    prob: float = 0.0
    disk: SimDisk = field(default_factory=SimDisk)
    sometimes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        rng = generator(self.seed, "session.world")
        size, levels = 1 << int(rng.integers(1, 4)), int(rng.integers(1, 4))
        self.config = resolve_kinds(self._settings(rng, size, levels))
        self.events = list(self._draw_events(rng, size))
        self.lives = 0
        self._power_failed = False
        self._typed = 0

    def _settings(self, rng: np.random.Generator, size: int, levels: int) -> Config:
        lens = ("random", "recency", "bm25")[int(rng.integers(3))]
        # The whole history has to fit as nodes of the coarsest level.
        least = smallest_w_max(size, levels, 1) + _MOST_BLOCKS * size // size**levels
        settings = [
            f"seed={self.seed}",
            f"block_size={size}",
            f"w_max={least + int(rng.integers(4 * size))}",
            "focus.protected_blocks=1",
            f"tree.max_levels={levels}",
            "tree.storage=disk",
            f"tree.path={_TREE}",
            f"tree.commit_blocks={int(rng.integers(1, 5))}",
            "model.path=simulator",
            "gist.kind=none",
            f"lens.kind={lens}",
            f"focus.cooldown_steps={int(rng.integers(0, 4))}",
            f"focus.n_diff={int(rng.integers(1, 6))}",
            f"triggers.echo.match={int(rng.integers(0, 4))}",
            f"triggers.echo.min_gap={int(rng.integers(1, 4))}",
            f"triggers.min_gap={int(rng.integers(1, 9))}",
            f"triggers.surprisal={(0.0, 4.5)[int(rng.integers(2))]}",
            f"ingest.chunk={(0, 4 * size)[int(rng.integers(2))]}",
            f"trace.flush_rows={int(rng.integers(1, 9))}",
            f"sampling.temperature={(0.0, 1.0)[int(rng.integers(2))]}",
        ]
        return parse_config("", settings)

    def _draw_events(self, rng: np.random.Generator, size: int) -> Iterator[Event]:
        """Text, much of which was there before; facts, questions, decoding, markers."""
        history: list[int] = []

        def text(most: int) -> np.ndarray:
            count = 1 + int(rng.integers(most))
            if len(history) > count and rng.random() < 0.5:
                at = int(rng.integers(len(history) - count))
                tokens = history[at : at + count]
            else:
                tokens = rng.integers(0, VOCAB - 1, count).tolist()
            history.extend(tokens)
            return np.array(tokens, np.uint32)

        yield Ingest(text(2 * size))
        for number in range(int(rng.integers(6, 16))):
            kind = rng.random()
            if kind < 0.5:
                yield Ingest(text(8 * size))
            elif kind < 0.6:
                yield Mark(f"mark {number}")
            elif kind < 0.7:
                yield Plant(f"fact {number}", text(2 * size))
            elif kind < 0.85:
                yield Question(text(size), f"fact {number}", "", 1 + int(rng.integers(6)), "")
            else:
                yield Decode(1 + int(rng.integers(3 * size)))

    # -- living --------------------------------------------------------------------------------

    def live(self, life: SessionLife) -> bool:
        """Begin, or go on, until the source ends or the process dies; whether it ended."""
        self.lives += 1
        hook = At(life.nth, is_changing, die)
        if life.nth:
            self.disk.hooks.append(hook)
        try:
            self._run()
            ended = True
        except Killed:
            ended = False
            self.sometimes["broken_off"] += 1
        finally:
            self.disk.hooks.clear()
        if life.fate is None:
            self.disk.kill()
        else:
            self.disk.crash(life.fate)
            self._power_failed = True
        return ended

    def _run(self) -> None:
        parts, restored = self._restored()

        writer = TraceWriter(
            _TRACE,
            self._metadata(),
            flush_rows=parts.config.trace.flush_rows,
            files=self.disk,
            threaded=False,
            prefix=_TRACE if restored.rows else None,
            prefix_rows=restored.rows or None,
        )

        with writer:
            hand = DrawnCommands(self.seed * 1009 + self.lives, self.prob)
            session = Session(parts, Recorder(writer), hand)
            session.restore(restored)
            if restored.rows:
                self.sometimes["resumed"] += 1

            # Events that the restored trace holds already are not played a second time.
            skipper = ReplaySkipper(
                restored.source_history,
                restored.positions,
                parts.base.tokenizer,
                session.register_fact,
            )
            try:
                outcome = ScriptRunner(session).run(skipper.remaining(self.events))
            except SourceError as error:
                if not self._typed:
                    raise InvariantError("session", str(error)) from error
                self._typed_text_lost()
            finally:
                self._typed += hand.done["text"] + hand.done["ask"]

        self.sometimes.update(hand.done)
        self.sometimes["stopped"] += outcome.stopped
        parts.close()

    def _restored(self) -> tuple[EngineParts, Resumed]:
        """The parts where the trace and the tree end.

        Rows reach stable storage when a trace is finished, so a power cut may leave none, or
        zeros. That has to be said, and the run begins anew. So it does where the tree has tokens
        and the trace no row yet, as nobody can tell whether this run brought them.
        """
        if self.disk.exists(_TRACE):
            parts = self._parts()
            try:
                return parts, restore(parts, _TRACE, self.disk)
            except TraceError as error:
                no_row = "no whole refocus" in str(error)
                if not no_row and not self._power_failed:
                    raise
                self.sometimes["no_row_yet" if no_row else "trace_lost"] += 1
                parts.close()
        for path in self.disk.files():
            self.disk.unlink(path)
        return self._parts(), Resumed()

    def _typed_text_lost(self) -> NoReturn:
        """The tree holds typed text of which the trace lost the row: no source gives it again.

        The run is refused with a sentence, and begins anew.
        """
        self.sometimes["typed_text_lost"] += 1
        self.disk.hooks.clear()
        for path in self.disk.files():
            self.disk.unlink(path)
        raise Killed("this run cannot go on")

    def _parts(self) -> EngineParts:
        config = self.config

        gister = HashGister(_DIM, _KEY_DIM, "hash", left_context=1)
        spec = TreeSpec(
            config.block_size,
            config.tree.max_levels,
            _DIM,
            _KEY_DIM,
            "fp16",
            "simulator",
            "hash",
            VOCAB,
        )

        # The same folder on the simulated disk: a later life opens what an earlier one wrote.
        if self.disk.exists(_TREE / "manifest.json"):
            tree = Tree.open(_TREE, gister, files=self.disk)
        else:
            tree = Tree.create(spec, gister, _TREE, self.disk, now_ns=0)

        # No model runs here; these are the attributes that a session reads.
        base: Any = SimpleNamespace(
            name="simulator",
            tokenizer=LetterTokenizer(),
            window=1 << 20,
            vocab_size=VOCAB,
            device=torch.device("meta"),  # no core of its own for gists
            dtype=torch.float32,
        )

        lens = make_lens(config.lens.kind, {})
        window = HashWindow(config.w_max)
        return assemble(config, base, gister, tree, lens, window, pieces=list(LETTERS))

    def _metadata(self) -> dict[str, str]:
        config = self.config
        return TraceMeta(
            block_size=config.block_size,
            w_max=config.w_max,
            levels=config.tree.max_levels,
            seed=config.seed,
            config=dump_config(config),
            model="simulator",
            tokenizer="simulator",
            created="1970-01-01T00:00:00Z",
            extra={"mc.lens": config.lens.kind},
        ).to_metadata()

    # -- checking ------------------------------------------------------------------------------

    def rows(self) -> list[TraceRow]:
        """Of the trace, which has to be whole and to follow from row to row."""
        with TraceReader.open(_TRACE, self.disk) as reader:
            damaged = reader.check()
            rows = list(reader.rows())
        if damaged:
            raise InvariantError("trace", f"rows are damaged: {damaged}")
        check_rows_follow(rows, self.config.block_size, self.config.tree.max_levels)
        for row in rows:
            if row.budget_used > row.w_max:
                raise InvariantError("budget", f"{row.budget_used} of {row.w_max} entries used")
        return rows

    def check_tree(self, rows: list[TraceRow]) -> None:
        """The tree holds the tokens of the trace, and is sound."""
        tokens = np.concatenate([row.new_tokens for row in rows])
        with Tree.open(_TREE, files=self.disk, write=False) as reader:
            stored = reader.tokens(0, reader.n_tokens)
            if self._typed:
                stored = stored[: len(tokens)]  # typed text whose row was lost may follow
            if not np.array_equal(stored, tokens):
                raise InvariantError("session", "the tree and the trace hold other tokens")
            if problems := reader.verify():
                raise InvariantError("session", problems[0])

    def trace_bytes(self) -> bytes:
        """The trace as a file, for readers that know no simulated disk."""
        return self.disk.file(_TRACE).cache[: self.disk.files()[_TRACE]].tobytes()


def check_same_rows(broken: list[TraceRow], whole: list[TraceRow]) -> None:
    """A session that was broken off and resumed decided as one that was not.

    What may differ: markers of the row that was being put together when it broke off are missing; a
    question that was half read is asked from there on; a run that is resumed at its very end adds a
    row without tokens.
    """
    for number, (have, expected) in enumerate(zip(broken, whole, strict=False)):
        for name in ("step", "round", "trigger", "history_tokens", "budget_used"):
            if getattr(have, name) != getattr(expected, name):
                raise InvariantError(
                    "session",
                    f"{name} of row {number} is {getattr(have, name)!r}, unbroken "
                    f"{getattr(expected, name)!r}",
                )
        for name in _COMPARED:
            if not np.array_equal(getattr(have, name), getattr(expected, name)):
                raise InvariantError("session", f"{name} of row {number} differ from unbroken ones")
        if _kinds_of_markers(have) - _kinds_of_markers(expected):
            raise InvariantError("session", f"row {number} has the markers {have.marker!r}")
    if len(broken) < len(whole) or any(len(row.new_tokens) for row in broken[len(whole) :]):
        raise InvariantError("session", f"{len(broken)} rows, {len(whole)} of the unbroken session")


def _kinds_of_markers(row: TraceRow) -> set[str]:
    return {text.partition(" @")[0] for text in (row.marker or "").split("; ")} - {""}
