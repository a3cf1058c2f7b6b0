"""Where a run writes its trace: dated names, and a claim that no run takes another one's name."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Self

from megacontext.traces.errors import ConfigError, LockedError, MegaContextError
from megacontext.traces.files import OS_FILES, Lock
from megacontext.traces.paths import lock_path, real_path
from megacontext.traces.reader import TraceReader

__all__ = ["Claim", "check_copy", "check_target", "claim", "dated", "is_trace"]

_DATE = re.compile(r"-\d{8}-\d{6}(-\d+)?$")


def dated(stem: str, folder: Path = Path("runs"), now: time.struct_time | None = None) -> Path:
    """``folder/stem-YYYYMMDD-HHMMSS.arrow`` in local time, with a number where that is taken.

    A date that ``stem`` ends with, as the name of an earlier run does, is left out.
    """
    written = time.strftime("%Y%m%d-%H%M%S", now or time.localtime())
    name = f"{_DATE.sub('', stem)}-{written}"
    for number in count(1):
        path = folder / (f"{name}-{number}.arrow" if number > 1 else f"{name}.arrow")
        if not path.exists() and not lock_path(path).exists():
            return path
    raise AssertionError("count() does not end")


def check_target(path: Path, *, overwrite: bool, resume: bool = False) -> None:
    """Refuse a trace that is there already, unless it may be replaced or gone on with.

    Raises:
        ConfigError: ``path`` exists; or it is to be replaced but is no trace.
    """
    if not path.exists() or resume:
        return
    if path.is_dir():
        raise ConfigError(f"--out {path} is a folder; name a trace, such as {path}/run.arrow.")
    label = _label(path)
    if overwrite and (label or path.stat().st_size == 0):
        return
    if not label:
        raise ConfigError(f"--out {path} exists and is no trace; choose another --out.")
    raise ConfigError(
        f"--out {path} exists ({label}); choose another --out, leave it out for a dated name, or"
        " replace it with --overwrite."
    )


def check_copy(path: Path, *, overwrite: bool) -> None:
    """Refuse to write over another trace what is made beside a run: a copy, a conversation.

    Raises:
        ConfigError: ``path`` exists and may not be replaced, or is no trace.
    """
    if not path.exists():
        return
    label = "" if path.is_dir() else _label(path)
    if overwrite and (label or (path.is_file() and not path.stat().st_size)):
        return
    if not label:
        raise ConfigError(f"{path} exists and is no trace; choose another name.")
    raise ConfigError(
        f"{path} exists ({label}); choose another name, or replace it with --overwrite."
    )


def is_trace(path: Path) -> bool:
    """Whether there is a trace at ``path``, finished or not."""
    return path.is_file() and bool(_label(path))


def _label(path: Path) -> str:
    """What a trace is called in a sentence; nothing where ``path`` is none."""
    try:
        with TraceReader.open(path) as reader:
            return f"a trace of {reader.num_rows:,} rows"
    except MegaContextError:
        return ""


@dataclass(frozen=True)
class Claim:
    """A trace's name, taken before anything else of its run is done.

    ``path`` is where the file lies: a link is followed, not replaced. ``lock`` keeps every other
    writer out until the context ends.
    """

    path: Path
    lock: Lock

    def release(self) -> None:
        """Let go of the name."""
        OS_FILES.unlink(lock_path(self.path))  # while it is held: see its other holders
        self.lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def claim(path: Path, *, overwrite: bool, resume: bool = False) -> Claim:
    """Take ``path`` for a run, before its model is loaded.

    Raises:
        LockedError: another run writes there.
        ConfigError: see :func:`check_target`; nothing was touched.
    """
    target = real_path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = OS_FILES.lock(lock_path(target))
    except LockedError as error:
        raise LockedError(
            f"trace {path} is being written by another process; watch it with `mc-tui live"
            f" --attach {path}`, stop it, or choose another --out."
        ) from error
    taken = Claim(target, lock)
    try:
        check_target(target, overwrite=overwrite, resume=resume)  # only now nobody can make it
    except BaseException:
        taken.release()
        raise
    return taken
