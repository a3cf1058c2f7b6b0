"""A grid of cells (glyph, colour roles, flags) that becomes Textual strips.

All drawing goes through here, so this is also where text from a trace is made harmless: control
characters, escape sequences, bidirectional overrides and zero-width characters never become
cells.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from rich.cells import get_character_cell_size
from rich.segment import Segment
from textual.strip import Strip

from megacontext.tui.palette import Palette, Role

__all__ = ["BOLD", "REVERSE", "UNDERLINE", "Canvas", "clean", "width_of"]

BOLD, REVERSE, UNDERLINE = 1, 2, 4
Ints: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]] | int"
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Mn", "Me", "Mc"})
_REPLACED = {"\n": "⏎", "\t": "→", "\r": "␍"}


def clean(text: str) -> str:
    """``text`` with every character that could move the cursor or change a colour replaced.

    Newline and tab become visible signs; other control, format, combining and unassigned
    characters become ``·``. The result has the same number of characters.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _REPLACED.get(ch) or ("·" if unicodedata.category(ch) in _UNSAFE else ch) for ch in text
    )


def width_of(ch: str) -> int:
    """Cells that one cleaned character takes (1 or 2)."""
    return 1 if ch.isascii() else max(get_character_cell_size(ch), 1)


class Canvas:
    """``height`` x ``width`` cells. Drawing outside is cut off, never an error."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = max(width, 0), max(height, 0)
        shape = (self.height, self.width)
        self.glyph = np.full(shape, 32, np.uint32)
        self.fg = np.full(shape, int(Role.TEXT), np.uint8)
        self.bg = np.full(shape, int(Role.BASE), np.uint8)
        self.flags = np.zeros(shape, np.uint8)

    def text(
        self, x: int, y: int, text: str, fg: int = Role.TEXT, flags: int = 0, bg: int | None = None
    ) -> int:
        """Write cleaned ``text`` from cell (x, y); returns the x after it."""
        if not 0 <= y < self.height:
            return x
        for ch in clean(text):
            wide = width_of(ch)
            if x + wide > self.width:
                break
            if x >= 0:
                self._put(x, y, ord(ch), fg, flags, bg)
                if wide == 2:
                    self._put(x + 1, y, 0, fg, flags, bg)
            x += wide
        return x

    def _put(self, x: int, y: int, code: int, fg: int, flags: int, bg: int | None) -> None:
        self.glyph[y, x] = code
        self.fg[y, x] = fg
        self.flags[y, x] = flags
        if bg is not None:
            self.bg[y, x] = bg

    def spans(self, x: int, y: int, parts: Iterable[tuple[str, int]]) -> int:
        """Write several (text, role) parts one after the other; returns the x after them."""
        for part, role in parts:
            x = self.text(x, y, part, role)
        return x

    def right(self, y: int, text: str, fg: int = Role.TEXT) -> None:
        """Write ASCII-width ``text`` flush with the right edge."""
        self.text(max(self.width - len(text), 0), y, text, fg)

    def cells(
        self, x: int, y: int, glyphs: Ints, fg: Ints = Role.TEXT, bg: Ints | None = None, n: int = 1
    ) -> None:
        """Write a run of ``n`` cells (arrays of that length, or one value for all of them)."""
        n = min(n, self.width - x)
        if n <= 0 or x < 0 or not 0 <= y < self.height:
            return
        run = slice(x, x + n)
        self.glyph[y, run] = _cut(glyphs, n)
        self.fg[y, run] = _cut(fg, n)
        if bg is not None:
            self.bg[y, run] = _cut(bg, n)

    def lines(self) -> list[str]:
        """The glyphs alone, for tests and text exports."""
        return ["".join(chr(c) for c in row if c) for row in self.glyph]

    def same(self, other: Canvas | None) -> bool:
        """Whether every cell equals ``other``'s."""
        return other is not None and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("glyph", "fg", "bg", "flags")
        )

    def strips(self, palette: Palette) -> list[Strip]:
        """One strip per row, cells of equal style merged into one segment."""
        return [self._strip(y, palette) for y in range(self.height)]

    def _strip(self, y: int, palette: Palette) -> Strip:
        if not self.width:
            return Strip.blank(0)
        style = (
            self.fg[y].astype(np.uint32) << 16
            | self.bg[y].astype(np.uint32) << 8
            | self.flags[y].astype(np.uint32)
        )
        starts = np.flatnonzero(np.diff(style, prepend=style[0] + 1))
        bounds = [*starts.tolist(), self.width]
        text = self.glyph[y].astype("<u4").tobytes().decode("utf-32-le")
        segments = []
        for left, right in pairwise(bounds):
            key = int(style[left])
            found = palette.style(key >> 16, (key >> 8) & 255, key & 255)
            segments.append(Segment(text[left:right].replace("\0", ""), found))
        return Strip(segments, self.width)


def _cut(values: Ints, n: int) -> Ints:
    return values[:n] if isinstance(values, np.ndarray) else values
