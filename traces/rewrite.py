"""Rewriting a whole trace under its writer lock: the base of ``recover`` and ``compact``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from megacontext.traces.errors import LockedError, TraceError
from megacontext.traces.files import OS_FILES
from megacontext.traces.ipc_writer import BatchFile
from megacontext.traces.paths import lock_path

__all__ = ["rewriting"]


@contextlib.contextmanager
def rewriting(
    target: Path, schema: pa.Schema, zstd_level: int | None = None
) -> Iterator[BatchFile]:
    """A :class:`BatchFile` that replaces ``target`` at the end, or leaves it alone on an error.

    Raises:
        LockedError: an engine writes ``target``.
        TraceError: it cannot be written.
    """
    try:
        lock = OS_FILES.lock(lock_path(target))
    except LockedError as error:
        raise LockedError(f"trace {target} is still being written; stop its run first.") from error
    except OSError as error:
        raise TraceError(_cannot(target, error)) from error
    try:
        file = BatchFile(target, schema, OS_FILES, zstd_level)
        try:
            yield file
            file.finish()
        except BaseException:
            file.abandon()
            raise
    except OSError as error:
        raise TraceError(_cannot(target, error)) from error
    finally:
        OS_FILES.unlink(lock_path(target))
        lock.release()


def _cannot(target: Path, error: OSError) -> str:
    return f"trace {target} cannot be written ({error.strerror or error}); choose another path."
