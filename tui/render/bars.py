"""The full-width lines: title, story, scrubber."""

from __future__ import annotations

import math
import re

from megacontext.traces.schema import Reason, Trigger
from megacontext.tui.palette import Role
from megacontext.tui.render.canvas import BOLD, Canvas
from megacontext.tui.render.marks import PHASE_WORDS, REASON_WORDS, TRIGGER_WORDS, compact, signed
from megacontext.tui.render.overview import row_of, time_axis
from megacontext.tui.sources.row_model import Act, RowModel
from megacontext.tui.state.frame import Frame, Marker

__all__ = ["draw_scrubber", "draw_story", "draw_title", "row_at", "story"]


NAME = 28
"""Cells that a marker's name may take."""
SPAN = re.compile(r"\s*@\d+-\d+")
"""Tokens that a marker is about; the map shows where they are."""


def draw_title(frame: Frame, width: int, height: int) -> Canvas:
    """What is shown: its state first, which is never cut; then the run, and where in it."""
    canvas = Canvas(width, height)
    status, row = frame.status, frame.row
    canvas.cells(0, 0, ord(" "), bg=int(Role.SURFACE), n=width)
    role = Role.ERROR if status.problem else Role.OK
    x = canvas.text(1, 0, f"{status.mode} ", role, BOLD, bg=Role.SURFACE)
    for word, colour in _state(frame):
        x = canvas.text(x, 0, f"{word} ", colour, BOLD, bg=Role.SURFACE)

    # Whole facts only; the place in the run comes before the run's name.
    facts_shown = _facts(frame, row) if row is not None else []
    while len(facts_shown) > 1 and x + len("  ".join(facts_shown)) > width:
        facts_shown.pop()
    facts = "  ".join(facts_shown)
    name = f" {frame.info.name}"
    free = width - x - 1 - len(facts)
    shown = name if len(name) + 2 <= free else f"{name[: free - 3]}…" if free >= 12 else ""
    x = canvas.text(x, 0, f"{shown}  " if shown else "", Role.TITLE, BOLD, bg=Role.SURFACE)
    canvas.text(x, 0, facts, Role.TEXT, bg=Role.SURFACE)
    return canvas


def _facts(frame: Frame, row: RowModel) -> list[str]:
    """Where in the run a row is, the most wanted fact first."""
    within = f" round {row.round + 1}" if row.round else ""
    step = f"step {row.step:,}/{frame.last_step:,}{within}"
    return [step, f"tok {row.history:,}", PHASE_WORDS.get(row.phase, "?")]


def _state(frame: Frame) -> list[tuple[str, int]]:
    """What the engine and the view are doing, most urgent first."""
    play, status = frame.playback, frame.status
    parts: list[tuple[str, int]] = []
    if status.problem:
        parts.append(("✗ DISCONNECTED", int(Role.ERROR)))
    if status.paused:
        parts.append(("ENGINE PAUSED", int(Role.WARN)))
    if status.waits:
        parts.append(("WAITS FOR YOU", int(Role.WARN)))
    if status.growing:
        parts.append(("● REC", int(Role.OK)))
    elif status.mode != "REPLAY" and not status.problem:
        parts.append(("■ ENDED", int(Role.WARN)))
    if play.following and status.growing:
        parts.append(("FOLLOW", int(Role.OK)))
    elif not play.following:
        parts.append((("▶ " if play.playing else "‖ ") + f"{play.factor:g}×", int(Role.OK)))
    return parts


def draw_story(frame: Frame, width: int, height: int) -> Canvas:
    """One sentence: what just happened, and why; or what is wrong."""
    canvas = Canvas(width, height)
    text, role = story(frame)
    y, x = 0, 1
    for word in text.split(" "):
        if x > 1 and x + len(word) > width - 1:
            if y + 1 >= height:  # there is more to say than there is room
                canvas.text(min(x, width - 1) - 1, y, "…", role)
                break
            y, x = y + 1, 1
        x = canvas.text(x, y, word + " ", role)
    return canvas


def story(frame: Frame) -> tuple[str, int]:
    """The sentence of :func:`draw_story` and its role."""
    if frame.notice:
        return frame.notice, int(Role.MARKER)
    row, newest = frame.row, frame.playback.position == frame.playback.last
    if frame.status.problem and (row is None or newest):  # the title says so everywhere else
        return frame.status.problem, int(Role.ERROR)
    if row is None:
        if frame.status.waits:
            return "The engine waits for you: i asks a question, I types text.", int(Role.MARKER)
        if frame.status.growing:
            return "Waiting for the first step.", int(Role.DIM)
        return "This trace has no rows: its run ended before the first step.", int(Role.DIM)
    if row.damaged:
        return row.damaged, int(Role.ERROR)

    # A healthy row: notes, what the refocus came after, what it did.
    parts = [*_notes(frame, row), _opening(frame, row)]
    chosen = [act for act in row.actions if act.node == frame.view.node]
    act = chosen[-1] if chosen else row.latest_action()
    parts.append(_no_action(row) if act is None else _what(frame, row, act))
    if row.bad_scores:
        parts.append(f"{row.bad_scores:,} scores were no numbers and count as 0.")
    return " ".join(p for p in parts if p), int(Role.TEXT)


def _notes(frame: Frame, row: RowModel) -> list[str]:
    """A person's own notes on this row."""
    return [f"◆ {m.label}." for m in frame.markers if m.personal and m.row == row.number]


def _opening(frame: Frame, row: RowModel) -> str:
    trigger = TRIGGER_WORDS.get(row.trigger, "?")
    if row.marker:
        return f"▲ {row.marker}."
    play = frame.playback
    if row.trigger == Trigger.MANUAL and play.position == play.last and not frame.status.growing:
        return "The run ends here."
    if row.trigger in (Trigger.BLOCK_CLOSED, Trigger.BULK):
        return ""
    if row.trigger == Trigger.MANUAL:  # what was left at the end of a run
        return "To record the newest tokens:"
    return f"After {'an' if trigger[0] in 'aeiou' else 'a'} {trigger}:"


def _no_action(row: RowModel) -> str:
    if row.refused:
        best = row.refused[0]
        because = REASON_WORDS.get(best.reason, "?")
        best_text = f"the best candidate was {best.node} at {signed(best.score)}"
        return f"Nothing moved; {best_text}, refused: {because}."
    return "Nothing moved: no score passed its threshold."


def _what(frame: Frame, row: RowModel, act: Act) -> str:
    width = row.block_size**act.node.level
    what = "block" if act.node.level == 1 else f"{compact(width)}-token span"
    if act.kind == 0:
        detail = "raw tokens" if act.node.level == 1 else f"L{act.node.level - 1} gists"
        bar = frame.info.at(row.trigger).tau_expand
        score = signed(act.score)
        if score == signed(bar):  # equal but for what rounding hides
            score = signed(act.score, 4)
        text = (
            f"The lens gave {what} {act.node} {score} (expands above {signed(bar)}):"
            f" its gist became {row.block_size} {detail}."
        )
    elif act.reason in (Reason.HEADROOM, Reason.BUDGET_CUT, Reason.FORCED_OVERRIDE):
        text = (
            f"Room was needed: {what} {act.node} ({signed(act.score)}) was collapsed into its gist."
        )
    else:
        text = (
            f"The lens gave {what} {act.node} {signed(act.score)}: it was collapsed into one gist."
        )

    # Everything else that this row did, counted.
    expanded = sum(a.kind == 0 for a in row.actions)
    collapsed = len(row.actions) - expanded
    more_expanded = expanded - (act.kind == 0)
    more_collapsed = collapsed - (act.kind == 1)
    rest = [f"{more_expanded} more expanded"] if more_expanded and act.kind == 0 else []
    rest += [f"{more_expanded} expanded"] if more_expanded and act.kind == 1 else []
    rest += [f"{more_collapsed} collapsed for room"] if more_collapsed else []
    return text + (f" {', '.join(rest)}." if rest else "")


def row_at(frame: Frame, x: int, width: int, y: int | None = None) -> int:
    """The row that cell ``x`` of the scrubber means.

    With ``y``, a line of it, a marker's sign or its name there means that marker's row.
    """
    row = row_of(x, width, frame.playback.last)
    if y is None:
        return row
    if y > 0:
        for left, name, marker in _named(frame, width):
            if left <= x < left + len(name):
                return marker.row
    near = [m.row for m in frame.markers if abs(_cell(frame, width, m.row) - x) <= (y == 0)]
    return min(near, key=lambda r: (abs(_cell(frame, width, r) - x), abs(r - row)), default=row)


def _cell(frame: Frame, width: int, row: int) -> int:
    """The cell that shows ``row``."""
    left, inner = time_axis(width)
    return left + math.floor(min(row / max(frame.playback.last, 1), 1.0) * (inner - 1))


def draw_scrubber(frame: Frame, width: int, height: int) -> Canvas:
    """The run as a line: played part, markers, and the present row."""
    canvas = Canvas(width, height)
    left, inner = time_axis(width)
    if inner < 3 or height < 1:
        return canvas
    here = _cell(frame, width, frame.playback.position)
    canvas.cells(left, 0, ord("─"), int(Role.FAINT), n=inner)
    canvas.cells(left, 0, ord("━"), int(Role.DIM), n=here - left + 1)
    for marker in frame.markers:
        x = _cell(frame, width, marker.row)
        canvas.text(x, 0, "◆" if marker.personal else "▲", Role.MARKER, BOLD)
    canvas.text(here, 0, "●", Role.CURSOR, BOLD)
    if height > 1:
        for x, name, marker in _named(frame, width):
            shown = BOLD if marker.row == frame.playback.position else 0
            canvas.text(x, 1, name, Role.MARKER, shown)
    return canvas


def _named(frame: Frame, width: int) -> list[tuple[int, str, Marker]]:
    """(cell, name, marker) of the names for which there is room, nearest to the present first."""
    here, taken = frame.playback.position, [False] * (width + 2)
    shown = []
    for marker in sorted(frame.markers, key=lambda m: (abs(m.row - here), m.row)):
        name = SPAN.sub("", marker.label).strip()[:NAME]
        x = max(min(_cell(frame, width, marker.row), width - len(name) - 1), 1)
        if name and not any(taken[x - 1 : x + len(name) + 1]):
            shown.append((x, name, marker))
            taken[x - 1 : x + len(name) + 2] = [True] * (len(name) + 3)
    return shown
