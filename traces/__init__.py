"""The trace: schema, writer, reader, states and metrics. Imports nothing until it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megacontext.traces.control import ControlClient, ControlServer
    from megacontext.traces.errors import MegaContextError, TraceError
    from megacontext.traces.meta import TraceMeta
    from megacontext.traces.metrics import metrics_of
    from megacontext.traces.reader import TraceReader
    from megacontext.traces.row import TraceRow
    from megacontext.traces.writer import TraceWriter

__all__ = [
    "ControlClient",
    "ControlServer",
    "MegaContextError",
    "TraceError",
    "TraceMeta",
    "TraceReader",
    "TraceRow",
    "TraceWriter",
    "metrics_of",
]

_HOMES = {
    "ControlClient": "control",
    "ControlServer": "control",
    "MegaContextError": "errors",
    "TraceError": "errors",
    "TraceMeta": "meta",
    "TraceReader": "reader",
    "TraceRow": "row",
    "TraceWriter": "writer",
    "metrics_of": "metrics",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
