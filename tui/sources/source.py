"""Where rows come from. Widgets never know: a file, a growing file, or a live engine's file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from megacontext.traces.token_index import TokenIndex
from megacontext.traces.vitals import Vitals
from megacontext.tui.sources.node_history import NodeSnapshot
from megacontext.tui.sources.row_model import F64, I64, RowModel
from megacontext.tui.state.frame import U8, Marker, RunInfo, Status
from megacontext.tui.state.score_explanation import Pair
from megacontext.tui.state.turns import Exchange, TurnSpan
from megacontext.tui.state.view import Node

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
    turns: tuple[TurnSpan, ...] = ()  # questions, by row

    @classmethod
    def empty(cls) -> Scalars:
        """No rows yet."""
        none, whole = np.empty(0), np.empty(0, np.int64)
        return cls(whole, whole, whole, np.empty((0, 256), np.uint8), none, none)


class Control(Protocol):
    """Commands to a running engine. None of them waits for the engine."""

    @property
    def paused(self) -> bool:
        """Whether the engine is paused, whoever paused it."""
        ...

    @property
    def waits(self) -> bool:
        """Whether the engine waits for a person's next turn."""
        ...

    def exchange(self) -> Exchange | None:
        """The latest question to the engine, whoever asked it, with its answer so far."""
        ...

    def ask(self, text: str) -> None:
        """Ask a question; the engine refocuses, answers, and goes on as before."""
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

    def look(self, number: int, node: Node) -> NodeSnapshot:
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

    def token_index(self, enough: Callable[[], bool]) -> TokenIndex | None:
        """Token ids by block, read on until ``enough()``; None until all rows were read."""
        ...

    def recorded_pairs(self, number: int, node: Node) -> tuple[Pair, ...]:
        """What the lens recorded in row ``number`` about where ``node``'s score comes from."""
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
