"""A trace file as a source: finished, growing, or growing with an engine to talk to."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from megacontext.traces.errors import MegaContextError, TraceError
from megacontext.traces.meta import TraceMeta
from megacontext.traces.reader import TraceReader
from megacontext.traces.token_index import TokenIndex
from megacontext.traces.vitals import Vitals, VitalsScan
from megacontext.tui.sources.node_history import NOTHING, NodeSnapshot
from megacontext.tui.sources.node_scan import NodeScan
from megacontext.tui.sources.row_model import F64, I64, RowModel
from megacontext.tui.sources.row_reader import damaged_row, row_model, score_pairs
from megacontext.tui.sources.source import Control, Scalars
from megacontext.tui.state.frame import Marker, RunInfo, Status
from megacontext.tui.state.score_explanation import Pair
from megacontext.tui.state.turns import marker_labels, turn_spans
from megacontext.tui.state.view import Node

__all__ = ["FileSource", "run_info"]

CACHED_ROWS = 320
STAGE_COLUMNS = ("us_gist", "us_lens", "us_alloc", "us_kv", "us_decode", "us_record")
SCALAR_COLUMNS = (
    "step",
    "t_ns",
    "history_tokens",
    *STAGE_COLUMNS,
    "kv_drift",
    "heat",
    "marker",
    "knobs",
)
"""What is read of all rows before anything is shown; more columns make opening slower."""


def run_info(meta: TraceMeta, name: str) -> RunInfo:
    """What the panes need of the metadata; a config that cannot be read gives the defaults."""
    try:
        config: Any = yaml.safe_load(meta.config) or {}
    except yaml.YAMLError:
        config = {}
    info = RunInfo(
        name=name,
        model=meta.model,
        block_size=meta.block_size,
        w_max=meta.w_max,
        seed=str(meta.seed),
        lens=meta.extra.get("mc.lens", ""),
        config=meta.config,
    )
    lens = config.get("lens") if isinstance(config, dict) else None
    queries = lens.get("query_tokens") if isinstance(lens, dict) else None
    if isinstance(queries, int) and queries > 0:
        info = replace(info, query_tokens=queries)
    return replace(info, **_focus_of(config))


_KNOBS: dict[str, type[int] | type[float]] = {
    "tau_expand": float,
    "tau_collapse": float,
    "n_diff": int,
    "cooldown_steps": int,
    "keep_newest": int,
}


def _focus_of(config: Any) -> dict[str, Any]:
    """The knobs that the panes name, from the ``focus`` section of a config or a knobs column."""
    focus = config.get("focus") if isinstance(config, dict) else None
    if not isinstance(focus, dict):
        return {}
    results: dict[str, Any] = _numbers(focus, _KNOBS)
    asked = focus.get("question")
    if isinstance(asked, dict):  # what it leaves out is as elsewhere
        overrides = _numbers(asked, ("tau_expand", "n_diff"))
        results |= {f"question_{key}": overrides.get(key) for key in ("tau_expand", "n_diff")}
    return results


def _numbers(section: dict[str, Any], keys: Iterable[str]) -> dict[str, float]:
    return {
        key: _KNOBS[key](section[key]) for key in keys if isinstance(section.get(key), int | float)
    }


def _knobs(info: RunInfo, changes: dict[int, str]) -> tuple[tuple[int, RunInfo], ...]:
    """(first row, settings from there on), by row."""
    results = []
    for row, text in sorted(changes.items()):
        try:
            info = replace(info, **_focus_of(json.loads(text)))
        except ValueError:
            continue  # a foreign writer's note; the settings before it stay
        results.append((row, info))
    return tuple(results)


def _unreadable(error: Exception) -> str:
    return f"The trace can no longer be read: {error}"


class FileSource:
    """Rows of the trace at ``path``.

    Args:
        path: the trace.
        mode: "REPLAY" reads what is there; "FOLLOW" also takes in what arrives.

    Raises:
        TraceError: it is no readable trace.
    """

    def __init__(self, path: Path, *, mode: str = "REPLAY") -> None:
        self._prepare(path, mode)
        self._open()

    def _prepare(self, path: Path, mode: str) -> None:
        """Set up an empty source; nothing is opened yet."""
        self.path = path
        self._mode = mode
        self._reader: TraceReader | None = None
        self._glimpses: NodeScan | None = None
        self._vitals: VitalsScan | None = None
        self._tokens: TokenIndex | None = None
        self._rows: OrderedDict[int, RowModel] = OrderedDict()
        self._scalars = Scalars.empty()
        self._problem = ""
        self.control: Control | None = None
        self.info = RunInfo(name=path.name)

    def _open(self) -> None:
        self._reader = TraceReader.open(self.path, overview_columns=SCALAR_COLUMNS)
        self.info = run_info(self._reader.meta, self.path.name)
        self._index(self._reader)
        self._take_overview(self._reader)

    def _index(self, reader: TraceReader) -> None:
        """Start what is read piece by piece from the beginning."""
        self._glimpses = NodeScan(reader, self.info.block_size)
        self._vitals = VitalsScan(reader)
        self._vitals.decode_ahead()
        self._tokens = TokenIndex(reader)

    # -- growing ------------------------------------------------------------------------------
    @property
    def num_rows(self) -> int:
        return len(self._scalars.step)

    @property
    def num_tokens(self) -> int:
        return int(self._scalars.history[-1]) if self.num_rows else 0

    @property
    def scalars(self) -> Scalars:
        return self._scalars

    def _take_overview(self, reader: TraceReader) -> None:
        o = reader.overview()
        latency = o.us_gist + o.us_lens + o.us_alloc + o.us_kv + o.us_decode + o.us_record
        self._scalars = Scalars(
            o.step.astype(np.int64),
            o.t_ns,
            o.history_tokens,
            o.heat,
            latency.astype(np.float64),
            o.kv_drift.astype(np.float64),
            tuple(Marker(row, label) for row, label in marker_labels(o.markers).items()),
            _knobs(self.info, o.knobs),
            turn_spans(o.markers),
        )

    @property
    def finished(self) -> bool:
        return self._reader is not None and self._reader.finished

    def status(self) -> Status:
        growing = self._mode != "REPLAY" and not self.finished and not self._problem
        listening = growing and self.control is not None
        return Status(
            mode=self._mode,
            growing=growing,
            controllable=listening,
            paused=listening and self.control is not None and self.control.paused,
            waits=listening and self.control is not None and self.control.waits,
            problem=self._problem,
        )

    def refresh(self) -> bool:
        if self._reader is None or self._mode == "REPLAY":
            return False
        before, generation = self.status(), self._reader.generation
        try:
            grown = self._reader.refresh()
            self._problem = "" if self._reader.finished else self._writer_problem(self._reader)
        except (MegaContextError, OSError) as error:
            grown, self._problem = 0, _unreadable(error)
        if self._reader.generation != generation:
            self._rows.clear()
            self.info = run_info(self._reader.meta, self.path.name)
            self._index(self._reader)
        replaced = self._reader.generation != generation
        if grown or replaced:
            self._take_overview(self._reader)
        return bool(grown) or replaced or self.status() != before

    def _writer_problem(self, reader: TraceReader) -> str:
        """Why no more rows will come, "" while a process writes the trace."""
        if reader.being_written() or reader.refresh() or reader.finished:
            return ""  # the second look: the writer may have finished between the two questions
        return (
            "Disconnected: no process writes this trace any more, and it was never finished."
            " All steps that reached it are here."
        )

    # -- rows ---------------------------------------------------------------------------------
    def cached(self, number: int) -> RowModel | None:
        return self._rows.get(number)

    def row(self, number: int) -> RowModel:
        results = self._rows.get(number)
        if results is not None:
            self._rows.move_to_end(number)
            return results
        if self._reader is None:
            raise TraceError(f"{self.path} has no rows yet; wait for the engine.")
        try:
            model = row_model(self._reader.row(number), number, self.info.block_size)
        except TraceError as error:
            s = self._scalars
            step, history = int(s.step[number]), int(s.history[number])
            model = damaged_row(
                number, step, history, self.info.w_max, self.info.block_size, str(error)
            )
        self._rows[number] = model
        while len(self._rows) > CACHED_ROWS:
            self._rows.popitem(last=False)
        return model

    def look(self, number: int, node: Node) -> NodeSnapshot:
        if self._glimpses is None:
            return NOTHING
        try:
            return self._glimpses.look(number, node)
        except TraceError:
            return NOTHING  # the next refresh or the row itself says what is wrong

    def acted(self, node: Node) -> I64:
        if self._glimpses is None:
            return np.empty(0, np.int64)
        try:
            return self._glimpses.acted(node)
        except TraceError:
            return np.empty(0, np.int64)  # the next refresh says what is wrong

    def vitals(self) -> Vitals:
        return Vitals.empty() if self._vitals is None else self._vitals.vitals()

    def read_vitals(self, enough: Callable[[], bool]) -> bool:
        if self._vitals is None:
            return True
        try:
            return self._vitals.advance(enough)
        except TraceError as error:
            self._problem = _unreadable(error)
            return True

    def token_index(self, enough: Callable[[], bool]) -> TokenIndex | None:
        try:
            read = self._tokens is not None and self._tokens.advance(enough)
        except TraceError as error:
            self._problem = _unreadable(error)
            return None
        return self._tokens if read else None

    def recorded_pairs(self, number: int, node: Node) -> tuple[Pair, ...]:
        if self._reader is None:
            return ()
        try:
            return score_pairs(self._reader, number, node, self.info.block_size)
        except TraceError:
            return ()  # the next refresh or the row itself says what is wrong

    def pieces(self, start: int, stop: int) -> tuple[list[str], F64]:
        if stop <= start or self._reader is None:
            return [], np.empty(0)
        try:
            text = self._reader.text_of(start, stop)
            return text, self._reader.nll_of(start, stop).astype(np.float64)
        except TraceError as error:
            self._problem = _unreadable(error)
            return [], np.empty(0)

    def find(self, text: str, start: int) -> tuple[int, int] | None:
        return self._find(text, start, backward=False)

    def rfind(self, text: str, stop: int) -> tuple[int, int] | None:
        return self._find(text, stop, backward=True)

    def _find(self, text: str, token: int, *, backward: bool) -> tuple[int, int] | None:
        if self._reader is None:
            return None
        try:
            return self._reader.find(text, token, backward=backward, ignore_case=True)
        except TraceError as error:
            self._problem = _unreadable(error)
            return None

    def find_all(self, text: str, limit: int) -> I64:
        if self._reader is None:
            return np.empty((0, 2), np.int64)
        try:
            return self._reader.find_all(text, limit, ignore_case=True)
        except TraceError as error:
            self._problem = _unreadable(error)
            return np.empty((0, 2), np.int64)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
