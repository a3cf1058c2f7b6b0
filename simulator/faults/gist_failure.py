"""The gister fails, or returns what cannot be stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.faults.base import Fault, Target

__all__ = ["GistFailure"]


@dataclass(frozen=True)
class GistFailure(Fault):
    """At its n-th call from now: an error, or NaN where ``salt`` is odd."""

    name: ClassVar[str] = "gist_failure"
    needs_disk: ClassVar[bool] = False

    def strike(self, world: Target, nth: int, salt: int) -> None:
        world.fail_gister(nth, nan=bool(salt % 2))
