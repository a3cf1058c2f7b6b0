"""The text pane: the tokens of the selected node, coloured by how much they surprised the model."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from megacontext.tui.palette import Role, nll_role
from megacontext.tui.render.canvas import BOLD, REVERSE, Canvas, clean, width_of
from megacontext.tui.render.marks import signed
from megacontext.tui.sources.row_model import I64
from megacontext.tui.state.frame import Frame, TextSpan

__all__ = ["draw_text", "text_titles"]

SEEN = {
    "raw": "raw: the model reads every token",
    "gist": "one gist: the model sees one vector for all of this",
    "open": "expanded: the model sees its parts",
    "inside": "coarse: only a larger gist covers this",
    "tail": "in the tail: raw until its block is complete",
    "newest": "select a span to see how the model sees it",
    "absent": "not closed yet",
}


def text_titles(span: TextSpan | None) -> tuple[str, ...]:
    """The pane's title, longest first: which tokens, which node, how the model sees them."""
    if span is None:
        return ("Text",)
    score = "" if math.isnan(span.score) else f" · score {signed(span.score)}"
    named = f"{span.title}{score}"
    position = f"{span.start:,}–{span.stop:,} · "
    return (
        f"Text: {position}{named} · {SEEN[span.seen_as]} · [$mc-warm]warm[/]: it was surprised",
        f"Text: {position}{named} · {SEEN[span.seen_as]}",
        f"Text: {named} · {SEEN[span.seen_as]}",
        f"Text: {named} · {SEEN[span.seen_as].partition(':')[0]}",
        f"Text: {named}",
    )


def draw_text(frame: Frame, width: int, height: int) -> Canvas:
    """The span's text with its line breaks and indentation, or run together with signs for them.

    A selected span stands between ▌ and ▐ on a ground of its own among the text around it; hits
    of the last search are inverted.
    """
    canvas = Canvas(width, height)
    span = frame.text
    if span is None or width < 4:
        return canvas
    if not span.pieces:
        canvas.text(0, 0, "No text was recorded for these tokens.", Role.DIM)
        return canvas
    scroll, written = frame.view.scroll, frame.view.as_written
    newest = span.seen_as == "newest"
    if newest:  # what came last is what matters: scrolling leads up from there
        scroll = max(_lines(span.pieces, width, written=written) - height - scroll, 0)
    shown = _Wrapped(width, height, canvas, scroll, written=written)
    ground = int(Role.BASE if newest else Role.GROUND)
    max_cells = (scroll + height + 1) * width
    before = span.before.rpartition("\n")[2] if written else span.before
    shown.put_text(before[-max_cells:], int(Role.CONTEXT))
    if not newest:
        shown.put("▌", int(Role.SELECT), 0, ground)
    _put_pieces(shown, frame, span, max_cells, ground)
    if shown.full:
        return canvas

    # What follows the span, or how much of it is not shown.
    rest = span.stop - span.start - len(span.pieces)
    if rest > 0:
        shown.put_text(f" … {rest:,} more tokens", int(Role.DIM))
    elif not newest:
        shown.put("▐", int(Role.SELECT), 0, ground)
        shown.put_text(span.after[:max_cells], int(Role.CONTEXT))
    return canvas


def _put_pieces(shown: _Wrapped, frame: Frame, span: TextSpan, max_cells: int, ground: int) -> None:
    """The span's own tokens, coloured by their NLL."""
    pieces, roles = _cut(span, max_cells)
    marks = _hits("".join(pieces), frame.view.needle)
    faded = span.seen_as in ("gist", "inside")
    position = 0
    for piece, role in zip(pieces, roles.tolist(), strict=True):
        bold = BOLD if role >= Role.NLL + 4 and not faded else 0
        shown.break_before(piece)
        if marks is None or not marks[position : position + len(piece)].any():
            shown.put_piece(piece, role, bold, ground)
        else:
            for at, ch in enumerate(piece, position):
                shown.put(ch, role, bold | (REVERSE if marks[at] else 0), ground)
        position += len(piece)
        if shown.full:
            return


def _lines(pieces: Sequence[str], width: int, *, written: bool) -> int:
    """Lines that ``pieces`` take."""
    counted = _Wrapped(width, 1 << 30, None, 0, written=written)
    for piece in pieces:
        counted.break_before(piece)
        counted.put_piece(piece, 0)
    return counted.y + (counted.x > 0 or not counted.y)


def _cut(span: TextSpan, max_cells: int) -> tuple[list[str], I64]:
    """As many pieces as can be seen, each cut to what fits on the screen."""
    pieces, used = [], 0
    for piece in span.pieces:
        if used > max_cells:
            break
        pieces.append(piece[:max_cells])
        used += len(pieces[-1]) or 1
    return pieces, nll_role(span.nll[: len(pieces)])


def _hits(text: str, needle: str) -> np.ndarray | None:
    if not needle:
        return None
    marks = np.zeros(len(text) + 1, bool)
    low, at = text.lower(), 0
    target = needle.lower()
    if len(low) != len(text):  # a character that changes length in lower case
        low, target = text, needle
    while (at := low.find(target, at)) >= 0:
        marks[at : at + len(target)] = True
        at += len(target)
    return marks


_WORD = re.compile(r"\s*\S+\s*$|\s*\S+|\s+$")


TAB = 4


class _Wrapped:
    """Writes characters left to right, line by line, skipping the first ``scroll`` lines.

    Args:
        width, height: of the page; without a canvas the lines are only counted.
        written: a newline starts a line and a tab is spaces, instead of ⏎ and →.
    """

    def __init__(
        self, width: int, height: int, canvas: Canvas | None, scroll: int, *, written: bool
    ) -> None:
        self.width, self.height, self.canvas, self.written = width, height, canvas, written
        self.x, self.y = 0, -scroll

    @property
    def full(self) -> bool:
        return self.y >= self.height

    def break_before(self, piece: str) -> None:
        """Start a new line before a word that would be broken."""
        word = piece.partition("\n")[0] if self.written else piece
        if 1 < len(word) < self.width // 2 and self.x + len(word) > self.width:
            self.x, self.y = 0, self.y + 1

    def put(self, ch: str, role: int, flags: int = 0, bg: int = Role.BASE) -> None:
        """Write one character, wrapping where it does not fit."""
        if self.written and ch == "\n":
            self.x, self.y = 0, self.y + 1
            return
        if self.written and ch == "\t":
            for _ in range(TAB - self.x % TAB):
                self.put(" ", role, flags, bg)
            return
        ch = clean(ch)
        wide = width_of(ch)
        if self.x + wide > self.width:
            self.x, self.y = 0, self.y + 1
        self._draw(ch, role, flags, bg)
        self.x += wide

    def _draw(self, text: str, role: int, flags: int, bg: int) -> None:
        if self.canvas is not None and self.y >= 0:
            shade = int(Role.CONTEXT) if text in "⏎→␍" else role
            self.canvas.text(self.x, self.y, text, shade, flags, bg)

    def put_piece(self, piece: str, role: int, flags: int = 0, bg: int = Role.BASE) -> None:
        """Write a piece at once where it is plain and fits, else character by character."""
        plain = piece.isascii() and piece.isprintable()
        if plain and self.x + len(piece) <= self.width:
            self._draw(piece, role, flags, bg)
            self.x += len(piece)
            return
        for ch in piece:
            self.put(ch, role, flags, bg)
            if self.full:
                return

    def put_text(self, text: str, role: int) -> None:
        """Write text that is no part of the span; only its words are kept whole."""
        for word in _WORD.findall(text) or ([text] if text else []):
            self.break_before(word.lstrip("\n"))
            self.put_piece(word, role)
            if self.full:
                return
