"""From the system's errors to one sentence, and to a tree that refuses further writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from megacontext.traces.errors import StorageError

__all__ = ["WriteState", "disk_errors", "reason"]


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


class WriteState:
    """Whether a tree takes writes, and why not.

    Attributes:
        where: the tree, for error messages. allowed: it was opened for writing.
        stopped: the error after which all writes are refused; empty before one.
        closed: whether :meth:`Tree.close` was called.
    """

    def __init__(self, where: str, allowed: bool) -> None:
        self.where, self.allowed = where, allowed
        self.stopped = ""
        self.closed = False

    def check(self) -> None:
        """Refuse a write to a tree that failed, was closed or is open for reading.

        Raises:
            StorageError: one of these.
        """
        if self.stopped:
            raise StorageError(
                f"{self.where} takes no more writes ({self.stopped}); open it again."
            )
        if self.closed:
            raise StorageError(f"{self.where} is closed; open it again.")
        if not self.allowed:
            raise StorageError(f"{self.where} is open for reading; open it with write=True.")

    def stop(self, action: str, error: OSError) -> StorageError:
        """Refuse all further writes; gives the error to raise."""
        self.stopped = reason(error)
        return StorageError(
            f"cannot {action} {self.where}: {self.stopped}; what was committed is safe, make "
            f"room or repair the disk and open the tree again."
        )
