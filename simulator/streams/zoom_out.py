"""Interest starts at one block and widens, as a reader who steps back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from megacontext.simulator.streams.zoom_in import ZoomIn

__all__ = ["ZoomOut"]


@dataclass
class ZoomOut(ZoomIn):
    """:class:`ZoomIn` backwards: the span doubles every ``stage`` blocks."""

    name: ClassVar[str] = "zoom_out"

    def width(self, stage: int) -> int:
        return 1 << stage
