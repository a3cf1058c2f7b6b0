"""What is going on while a model loads, for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["reporting", "stage"]

_REPORT: ContextVar[Callable[[str], None] | None] = ContextVar("report", default=None)


@contextmanager
def reporting(report: Callable[[str], None]) -> Iterator[None]:
    """Within, ``report`` is told each stage; an empty text when loading is over."""
    token = _REPORT.set(report)
    try:
        yield
    finally:
        _REPORT.reset(token)


def stage(text: str) -> None:
    """Say what begins now."""
    report = _REPORT.get()
    if report is not None:
        report(text)
