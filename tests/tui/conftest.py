"""A source without files, a clock that stands still, and small made traces."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megacontext.traces.row import ACTION_DTYPE, REJECTED_DTYPE, TraceRow, heat_of
from megacontext.traces.state import apply_actions, cost_of
from megacontext.traces.synthetic import SyntheticRun, make_small_trace
from megacontext.traces.token_index import TokenIndex
from megacontext.traces.vitals import CHANGE_DTYPE, Vitals
from megacontext.tui.app import InspectorApp
from megacontext.tui.sources.node_history import NodeSnapshot, snapshot_of
from megacontext.tui.sources.row_model import RowModel, swap_rates
from megacontext.tui.sources.row_reader import row_model
from megacontext.tui.sources.source import Scalars
from megacontext.tui.state.frame import Marker, RunInfo, Status
from megacontext.tui.state.score_explanation import Pair
from megacontext.tui.state.turns import Exchange, marker_label, turn_spans
from megacontext.tui.state.view import Node

BLOCK = 8


@dataclass
class FakeControl:
    """Remembers what it was told."""

    sent: list[tuple[object, ...]] = field(default_factory=list)
    paused: bool = False

    waits: bool = False
    now: Exchange | None = None
    failures: list[str] = field(default_factory=list)

    def answers(self) -> list[str]:
        said, self.failures = self.failures, []
        return said

    def pause(self) -> None:
        self.paused = True
        self.sent.append(("pause",))

    def resume(self) -> None:
        self.paused = False
        self.sent.append(("resume",))

    def refocus(self) -> None:
        self.sent.append(("refocus",))

    def knob(self, name: str, value: float) -> None:
        self.sent.append(("knob", name, value))

    def exchange(self) -> Exchange | None:
        return self.now

    def ask(self, text: str) -> None:
        self.sent.append(("ask", text))

    def inject(self, text: str) -> None:
        self.sent.append(("inject", text))

    def marker(self, label: str) -> None:
        self.sent.append(("marker", label))

    def stop(self) -> None:
        self.sent.append(("stop",))

    def detach(self) -> None:
        self.sent.append(("detach",))


def vitals_of(rows: list[RowModel]) -> Vitals:
    """The definition, row by row."""
    changes = []
    for row in rows:
        acts = [(row.number, a.kind, *dataclasses.astuple(a.node), a.score, a.reason, a.forced, 1)
                for a in row.actions]  # fmt: skip
        acts += [(row.number, r.kind, *dataclasses.astuple(r.node), r.score, r.reason, 0, 0)
                 for r in row.refused]  # fmt: skip
        changes += acts[::-1]
    return Vitals(
        np.array([row.nll for row in rows], np.float32),
        swap_rates(rows).astype(np.float32),
        np.array([row.residency for row in rows], np.float32),
        np.array([sum(not a.forced for a in row.actions) for row in rows], np.int32),
        np.array([len(row.refused) for row in rows], np.int32),
        np.array(changes, CHANGE_DTYPE),
    )


class FakeSource:
    """Rows from a list, of which ``visible`` have arrived."""

    def __init__(
        self, rows: Iterable[TraceRow], *, mode: str = "REPLAY", visible: int | None = None
    ) -> None:
        self.raw = list(rows)
        for row in self.raw:
            if not len(row.heat):
                row.heat = heat_of(row.scores, row.levels, BLOCK, row.history_tokens)
        self.visible = len(self.raw) if visible is None else visible
        self.mode = mode
        self.problem = ""
        self.path: Path | None = None
        self.pairs: dict[tuple[int, Node], tuple[Pair, ...]] = {}
        self.control: FakeControl | None = FakeControl() if mode == "LIVE" else None
        self.info = RunInfo(name="made.arrow", block_size=BLOCK, w_max=160)
        self.pieces_by_token = [text for row in self.raw for text in row.new_text]
        self.nll_by_token = np.concatenate([*(row.new_nll for row in self.raw), np.empty(0)])
        self._models: dict[int, RowModel] = {}
        self._known = self.visible
        self.closed = False

    @property
    def num_rows(self) -> int:
        return self.visible

    @property
    def num_tokens(self) -> int:
        return self.raw[self.visible - 1].history_tokens if self.visible else 0

    @property
    def scalars(self) -> Scalars:
        rows = self.raw[: self.visible]
        if not rows:
            return Scalars.empty()
        return Scalars(
            np.array([r.step for r in rows], np.int64),
            np.array([r.t_ns for r in rows], np.int64),
            np.array([r.history_tokens for r in rows], np.int64),
            np.stack([r.heat for r in rows]),
            np.array([r.us_decode for r in rows]),
            np.array([np.nan if r.kv_drift is None else r.kv_drift for r in rows]),
            tuple(Marker(i, marker_label(r.marker)) for i, r in enumerate(rows) if r.marker),
            turns=turn_spans({i: r.marker for i, r in enumerate(rows) if r.marker}),
        )

    def status(self) -> Status:
        growing = self.mode != "REPLAY" and not self.problem
        listening = growing and self.control is not None
        paused = bool(listening and self.control and self.control.paused)
        waits = bool(listening and self.control and self.control.waits)
        return Status(self.mode, growing, listening, paused, self.problem, waits)

    def refresh(self) -> bool:
        grown, self._known = self.visible != self._known, self.visible
        return grown

    def row(self, number: int) -> RowModel:
        if number not in self._models:
            self._models[number] = row_model(self.raw[number], number, BLOCK)
        return self._models[number]

    def cached(self, number: int) -> RowModel | None:
        return None

    def look(self, number: int, node: Node) -> NodeSnapshot:
        return snapshot_of(self.row(number), node)

    def acted(self, node: Node) -> np.ndarray:
        rows = range(self.visible)
        return np.array(
            [n for n in rows if any(act.node == node for act in self.row(n).actions)], np.int64
        )

    def vitals(self) -> Vitals:
        return vitals_of([self.row(n) for n in range(self.visible)])

    def read_vitals(self, enough: Callable[[], bool]) -> bool:
        return True

    def find_all(self, text: str, limit: int) -> np.ndarray:
        found, at = [], 0
        while text and len(found) < limit and (hit := self.find(text, at)) is not None:
            found.append(hit)
            at = hit[1]
        return np.array(found, np.int64).reshape(-1, 2)

    def token_index(self, enough: Callable[[], bool]) -> TokenIndex | None:
        return None

    def recorded_pairs(self, number: int, node: Node) -> tuple[Pair, ...]:
        return self.pairs.get((number, node), ())

    def pieces(self, start: int, stop: int) -> tuple[list[str], np.ndarray]:
        stop = max(start, min(stop, self.num_tokens))
        return self.pieces_by_token[start:stop], self.nll_by_token[start:stop].astype(float)

    def find(self, text: str, start: int) -> tuple[int, int] | None:
        return self._find(text, start, self.num_tokens, str.find)

    def rfind(self, text: str, stop: int) -> tuple[int, int] | None:
        return self._find(text, 0, stop, str.rfind)

    def _find(
        self, text: str, start: int, stop: int, how: Callable[[str, str], int]
    ) -> tuple[int, int] | None:
        pieces = self.pieces_by_token[start:stop]
        at = how("".join(pieces).lower(), text.lower())
        if at < 0:
            return None
        ends = np.cumsum([len(p) for p in pieces])
        first = int(np.searchsorted(ends, at, "right"))
        last = int(np.searchsorted(ends, at + len(text) - 1, "right"))
        return start + first, start + last + 1

    def close(self) -> None:
        self.closed = True


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def made_rows() -> list[TraceRow]:
    """80 rows of a small run with K = 8, three levels, needles and questions."""
    rows = list(SyntheticRun(tokens=640, w_max=160, block_size=BLOCK, seed=3, questions=3).rows())
    return rows[:80]


@pytest.fixture
def fake(made_rows: list[TraceRow]) -> Callable[..., FakeSource]:
    """Makes a source over copies of the made rows, optionally changed one by one."""

    def make(
        *,
        mode: str = "REPLAY",
        visible: int | None = None,
        rows: int | None = None,
        change: Callable[[TraceRow], None] | None = None,
    ) -> FakeSource:
        copies = [replace(row) for row in made_rows[:rows]]
        for row in copies:
            if change is not None:
                change(row)
        return FakeSource(copies, mode=mode, visible=visible)

    return make


@pytest.fixture(scope="session")
def small_trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished trace of 120 rows on disk."""
    path = tmp_path_factory.mktemp("traces") / "small.arrow"
    make_small_trace(path, rows=120)
    return path


@pytest.fixture
def run_row() -> Callable[..., TraceRow]:
    """Builds one row from keyword arguments with the rest filled in."""

    def make(**fields: object) -> TraceRow:
        base = {"step": 0, "history_tokens": 0, "budget_used": 0, "w_max": 160}
        return TraceRow(**(base | fields))  # type: ignore[arg-type]

    assert dataclasses.is_dataclass(TraceRow)
    return make


def _story_row(step: int, levels: np.ndarray, history: int) -> TraceRow:
    """A row whose numbers follow from ``step`` alone, before any action."""
    n = len(levels)
    scores = 0.25 * np.sin(np.arange(n) / 2.7 + step / 5) - 0.1
    scores[(3 * step // 4) % n] = 0.9
    words = [f" word{(7 * step + i) % 23}" for i in range(BLOCK)]
    return TraceRow(
        step=step,
        t_ns=1_700_000_000_000_000_000 + step * 10**9,
        phase=int(step > 30),
        history_tokens=history,
        levels=levels,
        scores=scores.astype(np.float16),
        appended_levels=np.zeros(1, np.int8),
        new_tokens=np.arange(BLOCK, dtype=np.uint32),
        new_text=words,
        new_nll=(np.arange(BLOCK) * 1.1 + step % 3).astype(np.float32),
        budget_used=0,
        w_max=96,
        us_lens=600.0 + 10 * (step % 5),
        us_decode=9_000.0 + 100 * (step % 7),
        kv_drift=1e-4 * (1 + step % 4) if step % 4 == 0 else None,
    )


def story_rows(count: int = 48) -> list[TraceRow]:
    """A legal run by plain arithmetic, so that pictures of it change only with the inspector.

    Each step closes a block of 8; raw blocks beyond the newest six are folded, eight gists of an
    old group too; at step 36 a question opens block 5, where a needle was planted at step 5.
    """
    rows, levels = [], np.empty(0, np.int8)
    for step in range(count):
        levels = np.concatenate([levels, np.zeros(1, np.int8)])
        row = _story_row(step, levels, (step + 1) * BLOCK)
        score = row.scores
        assert score is not None
        actions: list[tuple[object, ...]] = []
        if step >= 6:
            old = step - 6
            actions.append((1, 1, old, score[-7], 1 - BLOCK, True, 2))
        if step >= 6 and (step - 6) % 8 == 7 and step < 30:
            actions.append((1, 2, (step - 6) // 8, -0.3, 1 - BLOCK, False, 0))
        if step == 36:
            row.marker = "question about the harbour"
            actions += [(0, 2, 0, 0.7, BLOCK - 1, False, 0), (0, 1, 5, 0.9, BLOCK - 1, False, 0)]
            row.new_text = [" Which", " number", " opens", " the", " gate", "?", " Answer", ":"]
        if step == 5:
            row.marker = f"needle planted @{5 * BLOCK}-{6 * BLOCK}"
            row.new_text = [" The", " gate", " opens", " with", " the", " number", " 70956", ".\n"]
        row.actions = np.array(actions, ACTION_DTYPE)
        row.rejected = np.array([(0, 1, step // 2, 0.31, 18), (0, 1, 2, 0.27, 16)], REJECTED_DTYPE)
        levels = apply_actions(levels, row.actions, BLOCK)
        row.budget_used = cost_of(levels, BLOCK, 0)
        rows.append(row)
    return rows


@pytest.fixture
def story() -> Callable[..., FakeSource]:
    """Makes a source over :func:`story_rows`."""

    def make(count: int = 48, **options: object) -> FakeSource:
        source = FakeSource(story_rows(count), **options)  # type: ignore[arg-type]
        source.info = replace(source.info, name="harbour.arrow", w_max=96)
        return source

    return make


@pytest.fixture
def start(clock: Clock) -> Callable[..., InspectorApp]:
    """Makes an app on a source; time stands still unless the clock is moved."""

    def build(source: FakeSource, **options: Any) -> InspectorApp:
        return InspectorApp(source, clock=clock, ticking=False, unhurried=True, **options)

    return build
