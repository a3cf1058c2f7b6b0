"""What a fault is: something that strikes a world once, at the n-th chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from megacontext.simulator.faults.calls import Call, Fate

__all__ = ["At", "Fault", "Target", "is_any_sync", "is_changing", "is_sync", "is_write"]


class Target(Protocol):
    """What a fault may do to a world."""

    @property
    def w_max(self) -> int: ...
    def arm(self, name: str, hook: At, fate: Fate | None) -> None: ...
    def lied(self) -> None: ...
    def fail_gister(self, nth: int, nan: bool) -> None: ...
    def flip_a_bit(self, salt: int) -> None: ...
    def flip_a_trace_bit(self, salt: int) -> None: ...
    def open_second_writer(self) -> None: ...
    def read_during_write(self, nth: int) -> None: ...
    def commit_during_read(self, nth: int) -> None: ...
    def disturb_recovery(self, hook: At, fate: Fate | None) -> None: ...
    def set_budget(self, w_max: int) -> bool: ...
    def write_to_stalled_disk(self, rows: int, queue_rows: int) -> None: ...


@dataclass(frozen=True)
class Fault:
    """Base of all faults. ``needs_disk``: it makes no sense on a tree in memory."""

    name: ClassVar[str] = ""
    needs_disk: ClassVar[bool] = True

    def strike(self, world: Target, nth: int, salt: int) -> None:
        """Do harm now, or arm a hook that does it at the ``nth`` matching call from now."""
        raise NotImplementedError


@dataclass
class At:
    """A hook that acts at the ``nth`` call that ``matches``; with ``stay`` also at all later ones.

    ``act`` may raise; its result says whether the call is swallowed.
    """

    nth: int
    matches: Callable[[Call], bool]
    act: Callable[[Call], bool]
    stay: bool = False

    def __call__(self, call: Call) -> bool:
        if not self.matches(call):
            return False
        self.nth -= 1
        if self.nth == 0 or (self.stay and self.nth < 0):
            return self.act(call)
        return False


def is_changing(call: Call) -> bool:
    return call.changing


def is_write(call: Call) -> bool:
    return call.kind in ("pwrite", "truncate")


def is_sync(call: Call) -> bool:
    return call.kind == "datasync"


def is_any_sync(call: Call) -> bool:
    return call.kind in ("datasync", "sync_folder")
