"""Small files that appear whole or not at all, and what killed writers of them left behind."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["write_whole"]

_END = ".tmp"


def write_whole(path: Path, text: str) -> None:
    """Replace ``path`` by a file that holds ``text``, in UTF-8.

    It is written under a name of this process's own beside ``path``, so several processes may do
    it at once and the last one wins. Such files of processes that are no more are removed.

    Raises:
        OSError: the disk failed; the old file stays.
    """
    _remove_leftovers(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_END}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _remove_leftovers(path: Path) -> None:
    """Unlink the temporary files of ``path`` whose process was killed."""
    start = f".{path.name}."
    with contextlib.suppress(OSError):  # a leftover costs a little space, nothing else
        for entry in list(path.parent.iterdir()):
            writer = entry.name.removeprefix(start).removesuffix(_END)
            if entry.name == f"{start}{writer}{_END}" and writer.isdecimal() and _is_dead(writer):
                entry.unlink(missing_ok=True)


def _is_dead(process: str) -> bool:
    """Whether no process of that number runs on this machine."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it runs for another user, or is no number of a process
        return False
    return False
