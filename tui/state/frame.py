"""The one immutable view model that every pane draws from; live and replay build the same one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from megacontext.traces.schema import CLOSE_LOOKS, Trigger
from megacontext.traces.vitals import Vitals
from megacontext.tui.sources.node_history import NodeLife
from megacontext.tui.sources.row_model import F64, I64, RowModel
from megacontext.tui.state.action_lines import LogView
from megacontext.tui.state.playback import Playback
from megacontext.tui.state.score_explanation import ScoreExplanation
from megacontext.tui.state.turns import Turn
from megacontext.tui.state.view import ViewState, Window

__all__ = [
    "Frame",
    "Marker",
    "Run",
    "RunInfo",
    "Series",
    "Status",
    "TextSpan",
    "Trail",
    "carried",
]

U8: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class RunInfo:
    """What the trace's metadata says about the run.

    Attributes:
        config: the resolved config, YAML.
        keep_newest: newest blocks that are collapsed by choice only at close looks.
        query_tokens: newest tokens that form the lens's query.
        question_tau_expand, question_n_diff: those of close looks; None where they have none.
    """

    name: str = ""
    model: str = ""
    block_size: int = 32
    w_max: int = 0
    seed: str = ""
    lens: str = ""
    tau_expand: float = 0.20
    tau_collapse: float = 0.20
    n_diff: int = 4
    cooldown_steps: int = 2
    keep_newest: int = 0
    query_tokens: int = 32
    question_tau_expand: float | None = None
    question_n_diff: int | None = None
    config: str = ""

    def at(self, trigger: int) -> RunInfo:
        """With the knobs that a refocus of this trigger goes by."""
        if trigger not in (*CLOSE_LOOKS, Trigger.ECHO):
            return self
        tau = None if trigger == Trigger.ECHO else self.question_tau_expand
        most = self.question_n_diff
        return replace(
            self,
            tau_expand=self.tau_expand if tau is None else tau,
            n_diff=self.n_diff if most is None else most,
            keep_newest=0,
        )


@dataclass(frozen=True)
class Status:
    """Where the rows come from, in words.

    Attributes:
        mode: "REPLAY", "FOLLOW" or "LIVE".
        growing: rows may still arrive.
        controllable: an engine takes commands.
        paused: the engine is paused.
        waits: the engine waits for a person's next turn.
        problem: one sentence where something is wrong ("" when nothing is).
    """

    mode: str = "REPLAY"
    growing: bool = False
    controllable: bool = False
    paused: bool = False
    problem: str = ""
    waits: bool = False


@dataclass(frozen=True)
class Marker:
    """A labelled row: recorded in the trace, or a person's own (``mine``)."""

    row: int
    label: str
    personal: bool = False


@dataclass(frozen=True)
class Series:
    """Scalars of the last rows up to the present one, oldest first; NaN where unknown."""

    nll: F64 = field(default_factory=lambda: np.empty(0))
    swap: F64 = field(default_factory=lambda: np.empty(0))
    residency: F64 = field(default_factory=lambda: np.empty(0))
    latency_us: F64 = field(default_factory=lambda: np.empty(0))
    drift: F64 = field(default_factory=lambda: np.empty(0))


def carried(values: F64, steps: I64) -> F64:
    """``values``, one per row, where a round without one has that of the round before.

    Only the first round of a step brings tokens, and so an NLL.
    """
    known = np.isfinite(values)
    last = np.maximum.accumulate(np.where(known, np.arange(len(values)), 0))
    filled: F64 = np.where(~known & (steps[last] == steps), values[last], values)
    return filled


@dataclass(frozen=True, eq=False)
class Run:
    """All rows known so far, one value per row.

    ``generation`` tells runs apart that took each other's name.
    """

    steps: I64 = field(default_factory=lambda: np.empty(0, np.int64))
    history: I64 = field(default_factory=lambda: np.empty(0, np.int64))
    heat: U8 = field(default_factory=lambda: np.empty((0, 256), np.uint8))
    latency_us: F64 = field(default_factory=lambda: np.empty(0))
    drift: F64 = field(default_factory=lambda: np.empty(0))
    vitals: Vitals = field(default_factory=Vitals.empty)
    generation: int = 0

    @property
    def num_rows(self) -> int:
        return len(self.steps)

    def lane(self, name: str) -> F64:
        """ "nll", "swap", "residency", "latency" or "drift"; NaN where it is not known."""
        if name == "latency":
            return self.latency_us
        if name == "drift":
            return self.drift
        known = getattr(self.vitals, name)[: self.num_rows].astype(np.float64)
        gap = self.num_rows - len(known)
        return np.concatenate([known, np.full(gap, np.nan)]) if gap else known

    def curve(self, name: str) -> F64:
        """:meth:`lane` as it is drawn: without gaps in a step's later rounds."""
        return carried(self.lane(name), self.steps)


@dataclass(frozen=True)
class TextSpan:
    """Pieces of the history's text with the NLL of each token.

    Attributes:
        start, stop: tokens [start, stop) that the pane is about.
        pieces: text token by token, possibly only the first of them.
        nll: nats per piece, NaN where not evaluated.
        title: what the span is, in words.
        seen_as: how the model sees it now: "raw", "gist", "open", "inside", "tail", "absent".
        score: the node's score in this row, NaN where it has none.
        before, after: text around the span, for orientation.
    """

    start: int
    stop: int
    pieces: tuple[str, ...]
    nll: F64
    title: str
    seen_as: str
    score: float = float("nan")
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Trail:
    """The rows up to the present one: their heat, and exact rows where they were read."""

    numbers: I64
    history: I64
    heat: U8
    rows: tuple[RowModel | None, ...]
    complete: bool = True

    def __len__(self) -> int:
        return len(self.numbers)

    def actions(self, first: int, stop: int) -> list[tuple[int, int, float]]:
        """(place, kind, token in the middle) of each action in places [first, stop), as read."""
        action_cells = []
        for index in range(max(first, 0), min(stop, len(self))):
            row = self.rows[index]
            for act in row.actions if row is not None else ():
                low, high = act.node.span(row.block_size)  # type: ignore[union-attr]
                action_cells.append((index, act.kind, (low + high) / 2))
        return action_cells

    def heat_of(self, first: int, stop: int, window: Window, width: int) -> F64:
        """Best score per column, [stop - first, width], for places [first, stop).

        NaN outside a row's history and for places before the trail. From the exact scores where
        the row was read and a column is narrower than a heat bin, else from the 256 bins.
        """
        out = np.full((max(stop - first, 0), max(width, 0)), np.nan)
        low = max(first, 0)
        if width < 1 or stop <= low:
            return out

        # From the 256 bins of each row: the best of the bins that a column touches.
        history = np.maximum(self.history[low:stop], 1)
        bins = self.heat.shape[1]
        edges = np.linspace(window.start, window.stop, width + 1) / history[:, None] * bins
        left = np.clip(np.floor(edges[:, :-1]), 0, bins - 1).astype(np.int64)
        right = np.clip(np.ceil(edges[:, 1:]), left + 1, bins).astype(np.int64)
        offsets = (bins + 1) * np.arange(stop - low)[:, None]  # one spare bin after each row
        padded = np.pad(self.heat[low:stop].astype(np.float64), ((0, 0), (0, 1)))
        pairs = np.stack([left + offsets, right + offsets], axis=2).reshape(-1)
        best = np.maximum.reduceat(padded.reshape(-1), pairs)[::2].reshape(stop - low, width)
        out[low - first :] = np.where(edges[:, :-1] < bins, best / 127.5 - 1.0, np.nan)

        # From the exact scores where columns are narrower than bins.
        for index in np.flatnonzero(window.span / width < history / bins / 2).tolist():
            row = self.rows[low + index]
            if row is not None and row.scores is not None:
                fine = row.before.columns(window.start, window.stop, width, row.scores)
                out[low - first + index] = fine.score
        return out

    def detail_of(self, index: int, start: float, stop: float, width: int) -> F64:
        """Finest level of detail per column after the row at ``place``; NaN where not read."""
        row = self.rows[index] if 0 <= index < len(self) else None
        if row is None or width < 1:
            return np.full(max(width, 0), np.nan)
        share = row.after.columns(start, stop, width, None).share > 1e-9
        return np.where(share.any(axis=0), share.argmax(axis=0), np.nan)


@dataclass(frozen=True)
class Frame:
    """All that one screen shows. Equal sources at equal positions give equal frames."""

    row: RowModel | None
    view: ViewState
    playback: Playback
    status: Status
    info: RunInfo
    series: Series
    trail: Trail
    markers: tuple[Marker, ...] = ()
    text: TextSpan | None = None
    life: NodeLife | None = None
    first_step: int = 0
    last_step: int = 0
    notice: str = ""
    turns: tuple[Turn, ...] = ()
    run: Run = field(default_factory=Run)
    log: LogView = field(default_factory=LogView)
    explanation: ScoreExplanation | None = None
    hits: I64 = field(default_factory=lambda: np.empty((0, 2), np.int64))

    def step_of(self, number: int) -> int:
        """The refocus step of row ``number``."""
        return int(self.run.steps[number]) if 0 <= number < self.run.num_rows else number

    def first_row_of(self, step: int) -> int:
        """The first row of a refocus step, its round 0."""
        return int(np.searchsorted(self.run.steps, step, "left"))
