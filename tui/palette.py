"""Colours by role. Renderers write roles (small integers); a theme turns roles into styles.

Keeping roles out of the renderers means that a frame's cells are the same in every theme, and
that a theme switch repaints without computing anything again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, auto
from typing import Any, TypeAlias

import numpy as np
from rich.color import Color
from rich.style import Style

__all__ = [
    "COUNT",
    "LEVEL_SHADES",
    "RAMP",
    "SURPRISE",
    "Palette",
    "Role",
    "blend",
    "level_role",
    "nll_role",
    "ramp",
    "score_role",
]

FloatArray: TypeAlias = np.ndarray[Any, np.dtype[np.floating[Any]]]
IntArray: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

RAMP = 16
"""Steps of the score ramp."""
SURPRISE = 6
"""Steps of the surprisal ramp."""
LEVEL_SHADES = 4
"""Shades of one LOD hue: how much of the cell's tokens lie at that level."""


class Role(IntEnum):
    """What a colour means. Ramps reserve consecutive values after their first name."""

    BASE = 0
    TEXT = auto()
    DIM = auto()
    FAINT = auto()
    CONTEXT = auto()
    TITLE = auto()
    EXPAND = auto()
    COLLAPSE = auto()
    FORCED = auto()
    MARKER = auto()
    CURSOR = auto()
    SELECT = auto()
    WARN = auto()
    ERROR = auto()
    OK = auto()
    TAIL = auto()
    SURFACE = auto()
    GROUND = auto()
    L0 = 20
    L1 = 24
    L2 = 28
    SCORE = 32
    NLL = 48


COUNT = int(Role.NLL) + SURPRISE


def level_role(level: int, shade: int = LEVEL_SHADES - 1) -> int:
    """The role of a LOD hue; ``shade`` 0 (trace of it) … 3 (all of the cell)."""
    return int((Role.L0, Role.L1, Role.L2)[min(level, 2)]) + min(max(shade, 0), LEVEL_SHADES - 1)


def score_role(score: FloatArray, low: float = -1.0, high: float = 1.0) -> IntArray:
    """Ramp roles of scores; NaN counts as 0 as it does for the allocator."""
    clean = np.nan_to_num(np.asarray(score, np.float64), nan=0.0, posinf=1.0, neginf=-1.0)
    share = (clean - low) / max(high - low, 1e-9)
    return int(Role.SCORE) + np.clip((share * RAMP).astype(np.int64), 0, RAMP - 1)


def nll_role(nll: FloatArray) -> IntArray:
    """Surprisal roles of per-token NLL in nats: one step per 1.6 nats; NaN is plain text."""
    known = np.nan_to_num(np.asarray(nll, np.float64), nan=0.0, posinf=99.0, neginf=0.0)
    steps = int(Role.NLL) + np.clip((known / 1.6).astype(np.int64), 0, SURPRISE - 1)
    return np.where(np.isnan(nll), int(Role.TEXT), steps)


def blend(low: str, high: str, share: float) -> str:
    """The colour ``share`` of the way from ``low`` to ``high`` (both ``#rrggbb``)."""
    a, b = (np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)], float) for c in (low, high))
    mixed = np.rint(a + (b - a) * share).astype(int)
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def ramp(stops: list[str], steps: int) -> list[str]:
    """``steps`` colours spaced evenly along the polyline through ``stops``."""
    out = []
    for position in np.linspace(0, len(stops) - 1, steps):
        left = min(int(position), len(stops) - 2)
        out.append(blend(stops[left], stops[left + 1], float(position) - left))
    return out


@dataclass(frozen=True, eq=False)
class Palette:
    """The colours of one theme, by role; ``style`` caches the rich styles.

    ``texture``: too few colours for a ramp, so score cells also carry shade glyphs.
    ``styles``: those made so far, by cell key.
    """

    name: str
    colours: tuple[str, ...]
    texture: bool = False
    styles: dict[int, Style] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.colours) != COUNT:
            raise ValueError(f"palette {self.name} has {len(self.colours)} colours, not {COUNT}")

    def style(self, cell: int) -> Style:
        """The style of a cell: ``fg << 16 | bg << 8 | flags``.

        Flags: bit 0 bold, bit 1 reverse, bit 2 underline.
        """
        cached_style = self.styles.get(cell)
        if cached_style is None:
            fg, bg, flags = cell >> 16, cell >> 8 & 255, cell & 255
            cached_style = self.styles[cell] = Style(
                color=Color.parse(self.colours[fg]),
                bgcolor=Color.parse(self.colours[bg]),
                bold=bool(flags & 1),
                reverse=bool(flags & 2),
                underline=bool(flags & 4),
            )
        return cached_style
