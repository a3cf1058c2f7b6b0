"""The text pane: the tokens of the selected node, coloured by how much they surprised the model."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from megacontext.tui.frame import Frame, TextSpan
from megacontext.tui.model import I64
from megacontext.tui.palette import Role, nll_role
from megacontext.tui.render.canvas import BOLD, REVERSE, Canvas, clean, width_of
from megacontext.tui.render.marks import signed

__all__ = ["draw_text", "text_titles"]

SEEN = {
    "raw": "raw: the model reads every token",
    "gist": "one gist: the model sees one vector for all of this",
    "open": "open: the model sees its parts",
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
    place = f"{span.start:,}–{span.stop:,} · "
    return (
        f"Text: {place}{named} · {SEEN[span.seen_as]} · [$mc-warm]warm[/]: it was surprised",
        f"Text: {place}{named} · {SEEN[span.seen_as]}",
        f"Text: {named} · {SEEN[span.seen_as]}",
        f"Text: {named} · {SEEN[span.seen_as].partition(':')[0]}",
        f"Text: {named}",
    )


def draw_text(frame: Frame, width: int, height: int) -> Canvas:
    """Wrap the span's text; a newline shows as ⏎; hits of the last search are inverted.

    A selected span stands on a ground of its own among the text around it.
    """
    canvas = Canvas(width, height)
    span = frame.text
    if span is None or width < 4:
        return canvas
    if not span.pieces:
        canvas.text(0, 0, "No text was recorded for these tokens.", Role.DIM)
        return canvas
    scroll = frame.view.scroll
    if span.seen_as == "newest":  # what came last is what matters: scrolling leads up from there
        scroll = max(_lines(span.pieces, width) - height - scroll, 0)
    shown = _Wrapped(canvas, scroll)
    ground = int(Role.BASE if span.seen_as == "newest" else Role.SURFACE)
    room = (scroll + height + 1) * width
    pieces, roles = _cut(span, room)
    marks = _hits("".join(pieces), frame.view.needle)
    faded = span.seen_as in ("gist", "inside")
    place = 0
    shown.put_text(span.before[-room:], int(Role.CONTEXT))
    for piece, role in zip(pieces, roles.tolist(), strict=True):
        bold = BOLD if role >= Role.NLL + 4 and not faded else 0
        shown.make_room(piece)
        if marks is None or not marks[place : place + len(piece)].any():
            shown.put_piece(piece, role, bold, ground)
        else:
            for at, ch in enumerate(piece, place):
                shown.put(ch, role, bold | (REVERSE if marks[at] else 0), ground)
        place += len(piece)
        if shown.full:
            return canvas
    rest = span.stop - span.start - len(pieces)
    if rest > 0:
        shown.put_text(f" … {rest:,} more tokens", int(Role.DIM))
    else:
        shown.put_text(span.after[:room], int(Role.CONTEXT))
    return canvas


def _lines(pieces: Sequence[str], width: int) -> int:
    """Lines that ``pieces`` take: the arithmetic of :class:`_Wrapped`."""
    x, y = 0, 0
    for piece in pieces:
        if 1 < len(piece) < width // 2 and x + len(piece) > width:
            x, y = 0, y + 1
        if piece.isascii() and x + len(piece) <= width:
            x += len(piece)
            continue
        for ch in clean(piece):
            wide = width_of(ch)
            x, y = (wide, y + 1) if x + wide > width else (x + wide, y)
    return y + 1


def _cut(span: TextSpan, room: int) -> tuple[list[str], I64]:
    """As many pieces as can be seen, each cut to what fits on the screen."""
    pieces, used = [], 0
    for piece in span.pieces:
        if used > room:
            break
        pieces.append(piece[:room])
        used += len(pieces[-1]) or 1
    return pieces, nll_role(span.nll[: len(pieces)])


def _hits(text: str, needle: str) -> np.ndarray | None:
    if not needle:
        return None
    marks = np.zeros(len(text) + 1, bool)
    low, at = text.lower(), 0
    wanted = needle.lower()
    if len(low) != len(text):  # a character that changes length in lower case
        low, wanted = text, needle
    while (at := low.find(wanted, at)) >= 0:
        marks[at : at + len(wanted)] = True
        at += len(wanted)
    return marks


_WORD = re.compile(r"\s*\S+\s*$|\s*\S+")


class _Wrapped:
    """Writes characters left to right, line by line, skipping the first ``scroll`` lines."""

    def __init__(self, canvas: Canvas, scroll: int) -> None:
        self.canvas = canvas
        self.x, self.y = 0, -scroll

    @property
    def full(self) -> bool:
        return self.y >= self.canvas.height

    def make_room(self, piece: str) -> None:
        """Start a new line before a word that would be broken."""
        if 1 < len(piece) < self.canvas.width // 2 and self.x + len(piece) > self.canvas.width:
            self.x, self.y = 0, self.y + 1

    def put(self, ch: str, role: int, flags: int = 0, bg: int = Role.BASE) -> None:
        """Write one character, wrapping where it does not fit."""
        ch = clean(ch)
        wide = width_of(ch)
        if self.x + wide > self.canvas.width:
            self.x, self.y = 0, self.y + 1
        if self.y >= 0:
            shade = int(Role.CONTEXT) if ch in "⏎→␍" else role
            self.canvas.text(self.x, self.y, ch, shade, flags, bg)
        self.x += wide

    def put_piece(self, piece: str, role: int, flags: int = 0, bg: int = Role.BASE) -> None:
        """Write a piece at once where it is plain and fits, else character by character."""
        plain = piece.isascii() and piece.isprintable()
        if plain and self.x + len(piece) <= self.canvas.width:
            if self.y >= 0:
                self.canvas.text(self.x, self.y, piece, role, flags, bg)
            self.x += len(piece)
            return
        for ch in piece:
            self.put(ch, role, flags, bg)
            if self.full:
                return

    def put_text(self, text: str, role: int) -> None:
        for word in _WORD.findall(text):
            self.make_room(word)
            self.put_piece(word, role)
            if self.full:
                return
