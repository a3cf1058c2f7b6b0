"""The conversation: questions, answers as they come, and how sure the model was."""

from __future__ import annotations

import math
from typing import NamedTuple

from megacontext.tui.palette import Role
from megacontext.tui.render.canvas import BOLD, Canvas, clean, width_of
from megacontext.tui.state.frame import Frame
from megacontext.tui.state.turns import Turn

__all__ = ["TalkLine", "draw_conversation", "talk_lines", "turn_facts"]


class TalkLine(NamedTuple):
    """One line of the pane; ``row`` is its question's, -1 where that has not arrived."""

    text: str
    role: int
    flags: int
    row: int


def turn_facts(turn: Turn, *, growing: bool, width: int = 80) -> list[str]:
    """Where a turn lies and how sure its answer was, in lines of ``width`` cells.

    ``growing``: more of the run may come.
    """
    if turn.row < 0 and not turn.answer:
        return ["being read" if growing else "the run ended before it was answered"]
    parts = []
    if math.isfinite(turn.nll):
        parts += [f"NLL {turn.nll:.2f}", f"confidence {turn.confidence:.0%}"]
    if turn.row >= 0:
        parts.append(f"step {turn.step:,}")

    # No figure is broken over two lines.
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(part) + 3 <= width:
            lines[-1] += f" · {part}"
        else:
            lines.append(part)
    return lines


def talk_lines(frame: Frame, width: int, height: int) -> list[TalkLine]:
    """The newest ``height`` lines of the conversation."""
    lines: list[TalkLine] = []
    growing = frame.status.growing
    for turn in reversed(frame.turns):
        if len(lines) >= height:
            break
        here = BOLD if frame.row is not None and turn.row == frame.row.number else 0
        block = [TalkLine(t, Role.TITLE, BOLD, turn.row) for t in _wrap("? ", turn.question, width)]
        answer = turn.answer.strip()
        if not turn.complete:
            answer += "▌" if growing else "… (the run ended here)"
        block += [TalkLine(text, Role.TEXT, here, turn.row) for text in _wrap("→ ", answer, width)]
        for facts in turn_facts(turn, growing=growing, width=width - 2):
            block += [TalkLine(text, Role.DIM, 0, turn.row) for text in _wrap("  ", facts, width)]
        lines[:0] = block
    return lines[-height:] if height > 0 else []


def draw_conversation(frame: Frame, width: int, height: int) -> Canvas:
    """The turns so far, the newest at the bottom."""
    canvas = Canvas(width, height)
    if not frame.turns:
        empty_text = "Nothing was asked yet."
        empty_text += " i asks a question." if frame.status.controllable else ""
        for y, text in enumerate(_wrap("", empty_text, width)):
            canvas.text(0, y, text, Role.DIM)
        return canvas
    for y, line in enumerate(talk_lines(frame, width, height)):
        canvas.text(0, y, line.text, line.role, line.flags)
    return canvas


def _wrap(first: str, text: str, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` cells behind ``first``, broken at spaces where
    possible."""
    lines, indent = [], " " * len(first)
    line, used, last_space = first, len(first), 0
    for ch in clean(text.replace("\n", " ")):
        cells = width_of(ch)
        if used + cells > max(width, len(first) + 2):
            cut = last_space or len(line)
            lines.append(line[:cut])
            line = indent + line[cut:].lstrip()
            used, last_space = sum(map(width_of, line)), 0
        line, used = line + ch, used + cells
        if ch == " ":
            last_space = len(line)
    return [*lines, line]
