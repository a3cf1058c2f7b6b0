"""A live run as a source: the trace its engine writes, and the engine's control channel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from megacontext.traces.errors import MegaContextError
from megacontext.traces.reader import TraceReader
from megacontext.tui.live.engine_process import EngineProcess
from megacontext.tui.sources.file_source import FileSource
from megacontext.tui.sources.source import Control

__all__ = ["LiveSource", "identity"]


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of the file at ``path``, None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


class LiveSource(FileSource):
    """The trace at ``path`` while an engine writes it. Until it exists there are no rows.

    Args:
        path: where the engine writes.
        engine: the engine, if this viewer started it.
        connect: asked until it gives a control channel; None while there is none.
        stale: :func:`identity` of an older file of that name, which is not this run.
    """

    def __init__(
        self,
        path: Path,
        *,
        engine: EngineProcess | None = None,
        connect: Callable[[], Control | None] = lambda: None,
        stale: tuple[int, int] | None = None,
    ) -> None:
        self._prepare(path, "LIVE")
        self.engine = engine
        self._connect = connect
        self._stale = stale
        self.refresh()

    def refresh(self) -> bool:
        before = self.status()
        if self.control is None and before.growing:
            self.control = self._connect()
        if self._reader is None:
            if self._try_open():
                return True
            self._problem = self.engine.problem() if self.engine else self._problem
            return self.status() != before
        return super().refresh() or self.status() != before

    def _try_open(self) -> bool:
        stat = identity(self.path)
        if stat is None or stat == self._stale:
            return False
        try:
            self._open()
        except MegaContextError as error:
            self._problem = str(error)
            return False
        return True

    def _writer_problem(self, reader: TraceReader) -> str:
        died = self.engine.problem() if self.engine is not None else ""
        if died:
            return died
        if self.engine is not None and self.engine.running:
            return ""
        return super()._writer_problem(reader)
