"""What a fault sees and decides: the calls of the file layer, and what a crash leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from megacontext.simulator.faults.inode import Inode

__all__ = ["CHANGING", "SECTOR", "Call", "Fate", "Hook", "Killed"]

SECTOR = 512
"""Bytes that a disk writes whole or not at all."""

CHANGING = frozenset(
    {"create", "pwrite", "truncate", "datasync", "mkdir", "rename", "unlink", "sync_folder", "lock"}
)
"""Calls that change the disk; a kill between two others leaves the same disk behind."""


class Killed(BaseException):
    """The simulated process died; no product code may catch this."""


@dataclass(slots=True)
class Call:
    """One call of the file layer, as hooks see it before it happens.

    ``path`` is the name under which the file was opened, ``file`` the file itself, None for calls
    on names; ``block``, U8[length], is what is written.
    """

    kind: str
    path: Path
    number: int
    length: int = 0
    offset: int = 0
    file: Inode | None = None
    block: np.ndarray | None = None

    @property
    def same(self) -> bool:
        """Whether the page cache holds there already what is written."""
        file, block = self.file, self.block
        return file is not None and block is not None and file.holds(self.offset, block)

    @property
    def dirty(self) -> set[int]:
        """Numbers of the file's unsynced sectors, the disk's own set."""
        return set() if self.file is None else self.file.dirty

    @property
    def changing(self) -> bool:
        return self.kind in CHANGING


Hook = Callable[[Call], bool]
"""May raise; returns True to swallow the call (a sync that lies)."""


@dataclass(frozen=True)
class Fate:
    """What a crash leaves of unsynced work.

    Args:
        seed: the seed of every choice below.
        keep: chance that one unsynced sector reached the disk.
        torn: whether a grown file may end anywhere between its old and its new size; otherwise
            it ends at one of the two.
    """

    seed: int = 0
    keep: float = 0.5
    torn: bool = True
