"""A trace file as a source: finished, growing, or growing with an engine to talk to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from megacontext.traces.errors import MegaContextError, TraceError
from megacontext.traces.meta import TraceMeta
from megacontext.traces.overview import Overview
from megacontext.traces.reader import TraceReader
from megacontext.tui.frame import Marker, RunInfo, Status
from megacontext.tui.model import F64, RowModel
from megacontext.tui.rows import damaged_row, row_model
from megacontext.tui.source import Control, Scalars

__all__ = ["FileSource", "run_info"]

CACHED_ROWS = 320


def run_info(meta: TraceMeta, name: str) -> RunInfo:
    """What the panes need of the metadata; a config that cannot be read gives the defaults."""
    try:
        config: Any = yaml.safe_load(meta.config) or {}
    except yaml.YAMLError:
        config = {}
    focus = config.get("focus", {}) if isinstance(config, dict) else {}
    focus = focus if isinstance(focus, dict) else {}
    wanted = {"tau_expand": float, "tau_collapse": float, "n_diff": int, "cooldown_steps": int}
    known = {
        k: kind(focus[k]) for k, kind in wanted.items() if isinstance(focus.get(k), int | float)
    }
    return RunInfo(
        name=name,
        model=meta.model,
        block_size=meta.block_size,
        w_max=meta.w_max,
        seed=str(meta.seed),
        **known,
    )


class FileSource:
    """Rows of the trace at ``path``.

    Args:
        path: the trace.
        mode: "REPLAY", "FOLLOW" or "LIVE", shown in the title.
        control: commands to the engine that writes the trace, if there is one.
        engine_problem: asked at every refresh; a sentence when the engine has died, else "".
    """

    def __init__(
        self,
        path: Path,
        *,
        mode: str = "REPLAY",
        control: Control | None = None,
        engine_problem: Callable[[], str] = lambda: "",
    ) -> None:
        self._reader = TraceReader.open(path)
        self._mode = mode
        self._engine_problem = engine_problem
        self._problem = ""
        self._read_problem = ""
        self._paused = False
        self._rows: OrderedDict[int, RowModel] = OrderedDict()
        self.control = control
        self.info = run_info(self._reader.meta, path.name)
        self._take_overview()

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

    @property
    def overview(self) -> Overview:
        return self._overview

    def _take_overview(self) -> None:
        o = self._overview = self._reader.overview()
        latency = o.us_gist + o.us_lens + o.us_alloc + o.us_kv + o.us_decode + o.us_record
        self._scalars = Scalars(
            o.step.astype(np.int64),
            o.t_ns,
            o.history_tokens,
            o.heat,
            latency.astype(np.float64),
            o.kv_drift.astype(np.float64),
            tuple(Marker(row, label) for row, label in sorted(o.markers.items())),
        )

    def status(self) -> Status:
        growing = self._mode != "REPLAY" and not self._reader.finished and not self._problem
        return Status(
            mode=self._mode,
            growing=growing,
            controllable=self.control is not None and growing,
            paused=growing and self.control is not None and self.control.paused,
            problem=self._problem or self._read_problem,
        )

    def refresh(self) -> bool:
        if self._mode == "REPLAY":
            return False
        before, generation = self.status(), self._reader.generation
        try:
            grown = self._reader.refresh()
            self._read_problem = ""
        except (MegaContextError, OSError) as error:
            grown = 0
            self._read_problem = f"The trace can no longer be read: {error}"
        if self._reader.generation != generation:
            self._rows.clear()
        if grown:
            self._take_overview()
        if not self._reader.finished:
            self._problem = self._engine_problem()
        return bool(grown) or self.status() != before

    # -- rows ---------------------------------------------------------------------------------
    def cached(self, number: int) -> RowModel | None:
        return self._rows.get(number)

    def row(self, number: int) -> RowModel:
        found = self._rows.get(number)
        if found is not None:
            self._rows.move_to_end(number)
            return found
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

    def pieces(self, start: int, stop: int) -> tuple[list[str], F64]:
        if stop <= start:
            return [], np.empty(0)
        text = self._reader.text_of(start, stop)
        return text, self._reader.nll_of(start, stop).astype(np.float64)

    def find(self, text: str, start: int) -> tuple[int, int] | None:
        return self._reader.find(text, start, ignore_case=True)

    def rfind(self, text: str, stop: int) -> tuple[int, int] | None:
        return self._reader.find(text, stop, backward=True, ignore_case=True)

    def close(self) -> None:
        self._reader.close()
