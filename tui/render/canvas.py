"""A grid of cells (glyph, colour roles, flags) that becomes Textual strips.

All drawing goes through here, so this is also where text from a trace is made harmless: control
characters, escape sequences, bidirectional overrides and zero-width characters never become
cells.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache
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
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_MARKS = frozenset({"Mn", "Me", "Mc"})
_SELECTORS = ((0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
"""Variation selectors: marks that make a character wider in some terminals."""
MAX_MARKS = 3
"""Combining marks that one cell may carry."""
_CLUSTER = 0x100000
"""From here on a glyph is no character (these are for private use) but a place in _CLUSTERS."""
_CLUSTERS: list[str] = []
_CLUSTER_OF: dict[str, int] = {}
MAX_CLUSTERS = 0xFFFF
_REPLACED = {"\n": "⏎", "\t": "→", "\r": "␍"}


def clean(text: str) -> str:
    """``text`` with every character that could move the cursor or change a colour replaced.

    Newline and tab become visible signs; other control, format and unassigned characters become
    ``·``, combining marks stay. The result has the same number of characters.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_clean_one, text))


@lru_cache(maxsize=4096)
def _clean_one(ch: str) -> str:
    category = unicodedata.category(ch)
    if category == "Zs":
        return " "
    selects = any(low <= ord(ch) <= high for low, high in _SELECTORS)
    return _REPLACED.get(ch) or ("·" if category in _UNSAFE or selects else ch)


@lru_cache(maxsize=4096)
def is_mark(ch: str) -> bool:
    """Whether ``ch`` is drawn onto the character before it."""
    marks = not ch.isascii() and unicodedata.category(ch) in _MARKS
    return marks and get_character_cell_size(ch) == 0 and clean(ch) == ch


def _with_mark(glyph: int, mark: str) -> int:
    """The glyph of a cell that holds ``glyph`` and is to carry ``mark`` as well."""
    before = _CLUSTERS[glyph - _CLUSTER] if glyph >= _CLUSTER else chr(glyph)
    cluster = before + mark
    if glyph < 32 or len(cluster) > 1 + MAX_MARKS:
        return glyph
    if cluster not in _CLUSTER_OF:
        if len(_CLUSTERS) >= MAX_CLUSTERS:
            return glyph
        _CLUSTER_OF[cluster] = _CLUSTER + len(_CLUSTERS)
        _CLUSTERS.append(cluster)
    return _CLUSTER_OF[cluster]


def _glyphs_text(codes: np.ndarray[Any, Any]) -> str:
    """The text of glyphs; the right halves of wide characters are NUL."""
    text = codes.astype("<u4").tobytes().decode("utf-32-le")
    if not len(codes) or int(codes.max()) < _CLUSTER:
        return text
    return "".join(_CLUSTERS[ord(c) - _CLUSTER] if ord(c) >= _CLUSTER else c for c in text)


@lru_cache(maxsize=4096)
def width_of(ch: str) -> int:
    """Cells that one cleaned character takes: 1 or 2, 0 for a combining mark."""
    if ch.isascii():
        return 1
    return 0 if is_mark(ch) else max(get_character_cell_size(ch), 1)


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
        if not 0 <= y < self.height or x >= self.width:
            return x
        text = clean(text)
        if x >= 0 and (text.isascii() or all(width_of(ch) == 1 for ch in text)):
            return self._run(x, y, text[: self.width - x], fg, flags, bg)
        for ch in text:
            wide = width_of(ch)
            if not wide:
                self._carry(x, y, ch)
                continue
            if x + wide > self.width:
                break
            if x >= 0:
                self._put(x, y, ord(ch), fg, flags, bg)
                if wide == 2:
                    self._put(x + 1, y, 0, fg, flags, bg)
            x += wide
        return x

    def _carry(self, x: int, y: int, mark: str) -> None:
        """Put a combining mark onto the character that ends before cell ``x``."""
        previous = x - 1
        if 0 < previous < self.width and self.glyph[y, previous] == 0:
            previous -= 1
        if 0 <= previous < self.width:
            self.glyph[y, previous] = _with_mark(int(self.glyph[y, previous]), mark)

    def _run(self, x: int, y: int, text: str, fg: int, flags: int, bg: int | None) -> int:
        """Write single-width characters that fit."""
        run = slice(x, x + len(text))
        self.glyph[y, run] = np.frombuffer(text.encode("utf-32-le"), "<u4")
        self.fg[y, run] = fg
        self.flags[y, run] = flags
        if bg is not None:
            self.bg[y, run] = bg
        return x + len(text)

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

    def scatter(self, x: Ints, y: Ints, glyphs: Ints, fg: Ints, bg: Ints, flags: int = 0) -> None:
        """Write single cells at (x, y), which must lie inside."""
        self.glyph[y, x] = glyphs
        self.fg[y, x] = fg
        self.bg[y, x] = bg
        self.flags[y, x] = flags

    def lines(self) -> list[str]:
        """The glyphs alone, for tests and text exports."""
        return [_glyphs_text(row).replace("\0", "") for row in self.glyph]

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
        return _strip_of(self.glyph[y].tobytes(), style.tobytes(), palette)


@lru_cache(maxsize=1024)
def _strip_of(glyphs: bytes, styles: bytes, palette: Palette) -> Strip:
    """Equal lines are common: a waterfall's lines only move up from frame to frame."""
    style = np.frombuffer(styles, np.uint32)
    starts = np.flatnonzero(style[1:] != style[:-1]) + 1
    bounds = [0, *starts.tolist(), len(style)]
    codes = np.frombuffer(glyphs, np.uint32)
    text = codes.astype("<u4").tobytes().decode("utf-32-le")
    wide = "\0" in text
    clustered = int(codes.max()) >= _CLUSTER
    segments, known = [], palette.styles
    for (left, right), key in zip(pairwise(bounds), style[bounds[:-1]].tolist(), strict=True):
        part = _glyphs_text(codes[left:right]) if clustered else text[left:right]
        part = part.replace("\0", "") if wide else part
        segments.append(Segment(part, known.get(key) or palette.style(key)))
    return Strip(segments, len(style))


def _cut(values: Ints, n: int) -> Ints:
    return values[:n] if isinstance(values, np.ndarray) else values
