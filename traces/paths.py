"""Names beside a trace."""

from __future__ import annotations

from pathlib import Path

__all__ = ["lock_path", "real_path"]


def real_path(path: Path) -> Path:
    """``path``, or what it points at where it is a symbolic link: a link is never replaced."""
    return path.resolve() if path.is_symlink() else path


def lock_path(path: Path) -> Path:
    """Where the writer of the trace at ``path`` holds its lock."""
    path = real_path(path)
    return path.with_name(path.name + ".lock")
