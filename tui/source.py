"""Where rows come from. Widgets never know: a file, a growing file, or a live engine's file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from megacontext.traces.vitals import Vitals
from megacontext.tui.frame import U8, Marker, RunInfo, Status
from megacontext.tui.life import Glimpse
from megacontext.tui.model import F64, I64, RowModel
from megacontext.tui.view import Node

__all__ = ["Control", "Scalars", "Source"]


@dataclass(frozen=True)
class Scalars:
    """One value per row known so far, in row order; NaN where a value is unknown."""

    step: I64
    t_ns: I64
    history: I64
    heat: U8  # [rows, 256]
    latency_us: F64  # all stages
    drift: F64
    markers: tuple[Marker, ...] = ()
    knobs: tuple[tuple[int, RunInfo], ...] = ()  # (row, settings from there on), by row

    @classmethod
    def empty(cls) -> Scalars:
        """No rows yet."""
        none, whole = np.empty(0), np.empty(0, np.int64)
        return cls(whole, whole, whole, np.empty((0, 256), np.uint8), none, none)


class Control(Protocol):
    """Commands to a running engine. None of them waits for the engine."""

    @property
    def paused(self) -> bool:
        """Whether the engine was told to pause."""
        ...

    def answers(self) -> list[str]:
        """Sentences about commands that failed since the last call."""
        ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def refocus(self) -> None:
        """Let the engine do one refocus, whether it is paused or not."""
        ...

    def knob(self, name: str, value: float) -> None:
        """Change one of ``tau_expand``, ``tau_collapse``, ``n_diff``, ``w_max``."""
        ...

    def inject(self, text: str) -> None:
        """Append ``text`` to the history."""
        ...

    def marker(self, label: str) -> None: ...

    def stop(self) -> None:
        """End the session; the engine finishes its trace."""
        ...

    def detach(self) -> None:
        """Let go of the engine, which runs on."""
        ...


class Source(Protocol):
    """A trace, finished or growing."""

    info: RunInfo
    control: Control | None

    @property
    def path(self) -> Path | None:
        """The trace's file, None where there is none."""
        ...

    @property
    def num_rows(self) -> int: ...

    @property
    def num_tokens(self) -> int:
        """Tokens in the history after the newest row."""
        ...

    @property
    def scalars(self) -> Scalars: ...

    def status(self) -> Status: ...

    def refresh(self) -> bool:
        """Take in what has arrived; True when rows or the status changed. Never blocks long."""
        ...

    def row(self, number: int) -> RowModel:
        """Row ``number``; a damaged row comes back empty with ``damaged`` set."""
        ...

    def cached(self, number: int) -> RowModel | None:
        """Row ``number`` if that costs nothing."""
        ...

    def look(self, number: int, node: Node) -> Glimpse:
        """What row ``number`` says about ``node``, for less than reading the row."""
        ...

    def acted(self, node: Node) -> I64:
        """Numbers of the rows that did something to ``node``, ascending, for less than reading
        the rows."""
        ...

    def vitals(self) -> Vitals:
        """What the rows were like, as far as :meth:`read_vitals` has come."""
        ...

    def read_vitals(self, enough: Callable[[], bool]) -> bool:
        """Read on until ``enough()``; True when all rows known so far were read."""
        ...

    def pieces(self, start: int, stop: int) -> tuple[list[str], F64]:
        """Text and NLL (nats) of tokens [start, stop), as far as they were recorded."""
        ...

    def find(self, text: str, start: int) -> tuple[int, int] | None:
        """Tokens [a, b) of the first occurrence at or after token ``start``; case-insensitive."""
        ...

    def rfind(self, text: str, stop: int) -> tuple[int, int] | None:
        """Tokens [a, b) of the last occurrence before token ``stop``."""
        ...

    def find_all(self, text: str, limit: int) -> I64:
        """Tokens [a, b) of the first ``limit`` occurrences, I64[hits, 2]; case-insensitive."""
        ...

    def close(self) -> None: ...
