"""From the system's errors to one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from megacontext.traces.errors import StorageError

__all__ = ["disk_errors", "reason"]


@contextmanager
def disk_errors(action: str) -> Iterator[None]:
    """Turn an OSError of what is inside into a StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot {action}: {reason(error)}; check the path, its permissions and the disk."
        ) from error


def reason(error: OSError) -> str:
    """What the system says, without the path."""
    return error.strerror or str(error) or type(error).__name__
