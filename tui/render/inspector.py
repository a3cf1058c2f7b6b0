"""The inspector: one node's whole life, and in words why it is expanded or is not."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from megacontext.traces.schema import Reason
from megacontext.tui.palette import Role
from megacontext.tui.render.canvas import BOLD, Canvas
from megacontext.tui.render.life import LOW, draw_life, event_sign
from megacontext.tui.render.marks import REASON_WORDS, signed
from megacontext.tui.sources.node_history import STATES, Event, NodeLife
from megacontext.tui.sources.row_model import RowModel
from megacontext.tui.state.frame import Frame, RunInfo
from megacontext.tui.state.score_explanation import Pair, ScoreExplanation
from megacontext.tui.state.view import Node

__all__ = ["draw_inspector", "grouped", "seen_in", "why"]

RANGES = 4
"""Stretches of steps that :func:`seen_in` names."""
BECAUSE: dict[int, str] = {
    Reason.HEADROOM: "by force, the next block needed the room",
    Reason.BUDGET_CUT: "by force, w_max was lowered",
    Reason.FORCED_OVERRIDE: "by force although it was cooling down, nothing else was left",
    Reason.SAMPLED: "drawn among the best candidates",
    Reason.COMPETITION: "by competition across the window",
    Reason.OPTIMUM: "part of the best assignment under the budget",
    Reason.POLICY: "the learned policy chose it",
}
BY_KIND: dict[int, tuple[str, str]] = {
    Reason.SCORE: ("above tau_expand = {up:.2f}", "below minus tau_collapse, {down}"),
    Reason.PAIR: ("a swap, {other} was collapsed to pay for it", "a swap, it pays for {other}"),
}
"""Where expanding and collapsing need different words."""
NOT_BECAUSE: dict[int, str] = {
    Reason.BUDGET: "the budget was full and nothing else could be collapsed",
    Reason.COOLDOWN: "it changed less than cooldown_steps = {cooldown} refocuses ago",
    Reason.N_DIFF: "n_diff = {n_diff} better actions came first in this round",
    Reason.PROTECTED: "it lies among the protected newest blocks",
    Reason.ILLEGAL: "it has no children or no complete group of siblings in the frontier",
    Reason.NOT_REARMED: "it was expanded before and has not scored below the threshold since",
    Reason.GAIN: "no other node was cheap enough to collapse in exchange",
}


def why(row: RowModel, node: Node, info: RunInfo) -> str:
    """Why ``node`` changed in ``row``, or why it did not: one sentence."""
    info = info.at(row.trigger)
    for act in row.actions:
        if act.node == node:
            done = "Expanded" if act.kind == 0 else "Collapsed"
            because = BECAUSE.get(act.reason, REASON_WORDS.get(act.reason, "?"))
            because = BY_KIND.get(act.reason, (because, because))[act.kind]
            other = " and ".join(map(str, row.partners(act))) or "another span"
            because = because.format(
                up=info.tau_expand, down=signed(-info.tau_collapse), other=other
            )
            return f"{done} in this step at {signed(act.score)}: {because}."

    # It was a candidate and was turned down.
    for refused in row.refused:
        if refused.node == node:
            wish = "expanded" if refused.kind == 0 else "collapsed"
            because = NOT_BECAUSE.get(refused.reason, REASON_WORDS.get(refused.reason, "?"))
            if refused.reason == Reason.PROTECTED and info.keep_newest:
                because = "it lies among the protected or the keep_newest = {keep} newest blocks"
            because = because.format(
                cooldown=info.cooldown_steps, n_diff=info.n_diff, keep=info.keep_newest
            )
            return f"Not {wish} although it scored {signed(refused.score)}: {because}."

    # It was no candidate: its state and its score say why.
    state, entry = row.before.state(node)
    score = row.score_of(node)
    if state == "absent":
        return "Not closed yet: its tokens lie in the tail or in the future."
    if state == "inside":
        outer = row.before.node(entry)
        got = signed(row.score_of(outer))
        return f"Hidden inside {outer} ({got}), which has to be expanded first."
    if state == "open":
        return "Expanded: the model sees finer parts of it."
    if math.isnan(score):
        return "No score was recorded for it in this row."
    if state == "raw":
        if score > -info.tau_collapse:
            bar = signed(-info.tau_collapse)
            return f"Stays raw: {signed(score)} is not below {bar}, minus tau_collapse."
        return f"Stays raw at {signed(score)}; not among the recorded candidates."
    if score <= info.tau_expand:
        return f"Stays a gist: {signed(score)} is not above tau_expand = {info.tau_expand:.2f}."
    return f"Stays a gist at {signed(score)}; not among the recorded candidates."


def draw_inspector(frame: Frame, width: int, height: int) -> Canvas:
    """Score history, state history, events, and the sentence of :func:`why`."""
    canvas = Canvas(width, height)
    row, node = frame.row, frame.view.node
    if row is None or node is None:
        for y, line in enumerate(
            ("Nothing selected.", "Click a span, or press f", "for the latest action.")
        ):
            canvas.text(0, y, line, Role.DIM)
        return canvas

    # Its name and the sentence at once, the rest when its history is read.
    start, stop = node.span(row.block_size)
    canvas.text(0, 0, f"{node} tok {start:,}–{stop:,}", Role.TITLE, BOLD)
    y = _paragraph(canvas, 1, why(row, node, frame.info), int(Role.TEXT))
    if frame.life is None or frame.life.node != node:
        canvas.text(0, y, "Reading its life …", Role.DIM)
        return canvas
    life = frame.life.upto(row.number)
    sentence = seen_in(life, frame, brief=canvas.height < LOW)
    if sentence:
        y = _paragraph(canvas, y, sentence, int(Role.TEXT))
    y = draw_life(canvas, y, life)
    y = _summary(canvas, y, life)
    y = _explanation(canvas, y, frame)
    _events(canvas, y, life)
    return canvas


def seen_in(life: NodeLife, frame: Frame, *, brief: bool = False) -> str:
    """The steps after whose actions the model saw the node raw, or the parts of a larger one.

    "" where it never did. A range that reaches the row on screen ends with "now"; ``brief`` names
    only the last of more than two.
    """
    row = frame.row
    if row is None or not len(life.rows):
        return ""
    detailed = STATES.index("raw" if life.node.level == 1 else "open")
    now = STATES.index(row.after.state(life.node)[0])
    # The state of a row is that before its actions, so that after them is the next row's; a node
    # that the next row has for the first time was closed in between.
    states, rows = life.states[1:], life.rows[:-1]
    if life.rows[-1] == row.number:
        states, rows = np.append(states, now), life.rows
    after = (states == detailed) & (life.states[: len(rows)] != STATES.index("absent"))

    # Maximal runs of such rows, newest last.
    edges = np.flatnonzero(np.diff(np.concatenate([[0], after.astype(np.int8), [0]])))
    ranges = [
        (frame.step_of(int(rows[first])), frame.step_of(int(rows[stop - 1])))
        for first, stop in edges.reshape(-1, 2).tolist()
    ]
    if not ranges:
        return ""
    words = [f"{a:,}" if a == b else f"{a:,}–{b:,}" for a, b in ranges]
    if after[-1] and rows[-1] == row.number:
        words[-1] = f"{ranges[-1][0]:,}–now" if ranges[-1][0] < ranges[-1][1] else "now"
    kind = "Raw" if life.node.level == 1 else "Expanded"
    if brief and len(words) > 2:
        return f"{kind} {len(words)} times, last {words[-1]}."
    left = len(words) - RANGES
    shown = ", ".join(words[-RANGES:]) + (f" and {left:,} times before" if left > 0 else "")
    return f"{kind} in step{'s' if len(words) > 1 or '–' in words[0] else ''} {shown}."


def _paragraph(canvas: Canvas, y: int, text: str, role: int) -> int:
    x = 0
    for word in text.split(" "):
        if x and x + len(word) > canvas.width:
            x, y = 0, y + 1
        x = canvas.text(x, y, word + " ", role)
    return y + 1


def _summary(canvas: Canvas, y: int, life: NodeLife) -> int:
    words = {"expand": "expanded", "collapse": "collapsed", "refused": "refused"}
    counts = {what: sum(e.what == what for e in life.events) for what in words}
    known = life.scores[np.isfinite(life.scores)]
    parts = [f"{words[what]} {n}×" for what, n in counts.items() if n]
    if len(known):
        parts.append(f"best {signed(float(known.max()))}")
    sentence = " · ".join(parts) or "nothing happened to it so far"
    return _paragraph(canvas, y, ("" if life.complete else "reading … ") + sentence, int(Role.DIM))


PAIRS_FROM = 8
"""Lines left in the pane from which on each pair of tokens has a line of its own."""
BRIEF_LINES = 2


def _explanation(canvas: Canvas, y: int, frame: Frame) -> int:
    """Which tokens of the query met which tokens of the block, strongest first."""
    explanation, left = frame.explanation, canvas.height - y
    if explanation is None or left < 1:
        return y
    if not explanation.pairs:
        return _paragraph(canvas, y, "No token of the query stands in it.", int(Role.DIM))
    if left < PAIRS_FROM:
        return _paragraph(canvas, y, _brief(explanation, canvas.width), int(Role.TEXT))
    about = "" if explanation.block == explanation.node else f" (in {explanation.block})"
    y = _paragraph(canvas, y, f"What the query met{about}: {explanation.method}", int(Role.DIM))
    high = max(pair.weight for pair in explanation.pairs)
    for pair in explanation.pairs[: max((canvas.height - y) // 2, 1)]:
        words = _met(explanation, pair)
        label = "" if pair.label == "bm25" else f" {pair.label}"
        bar = "▇" * max(round(BAR * pair.weight / max(high, 1e-9)), 1)
        x = canvas.text(0, y, f"{bar:<{BAR}} ", Role.MARKER)
        x = canvas.text(x, y, f"{pair.weight:5.2f} ", Role.TEXT)
        canvas.text(x, y, words + label, Role.TEXT)
        y += 1
    return y


BAR = 8


def _brief(explanation: ScoreExplanation, width: int) -> str:
    """The strongest pairs in as many words as two lines hold."""
    start = "The query met "
    pairs = [f"{_met(explanation, pair)} {pair.weight:.2f}" for pair in explanation.pairs]
    while len(pairs) > 1 and len(start + ", ".join(pairs)) > BRIEF_LINES * width - width // 4:
        pairs.pop()
    return start + ", ".join(pairs)


def _met(explanation: ScoreExplanation, pair: Pair) -> str:
    query, block = (_shown(explanation.text(t)) for t in (pair.query_token, pair.block_token))
    return query if query == block else f"{query} → {block}"


def _shown(text: str) -> str:
    """A token's text with its spaces made visible."""
    return text.replace(" ", "␣") or "?"


def _events(canvas: Canvas, y: int, life: NodeLife) -> None:
    """What happened to the node, newest first; equal refusals of one step share a line."""
    for event, times in grouped(life.events[::-1]):
        if y >= canvas.height:
            break
        sign, role = event_sign(event)
        x = canvas.text(0, y, f"{event.step} ", Role.TEXT)
        x = canvas.text(x, y, f"{sign} ", role, BOLD)
        x = canvas.text(x, y, f"{signed(event.score)} ", Role.TEXT)
        forced = "forced: " if event.forced else ""
        again = f" {times}×" if times > 1 else ""
        canvas.text(x, y, forced + REASON_WORDS.get(event.reason, "?") + again, Role.DIM)
        y += 1


def grouped(events: Iterable[Event]) -> list[tuple[Event, int]]:
    """Events with how often each came in a row, but for its round and score."""
    shown_events: list[tuple[Event, int]] = []
    for event in events:
        last = shown_events[-1][0] if shown_events else None
        if last is not None and last._replace(row=event.row, score=event.score) == event:
            shown_events[-1] = (last, shown_events[-1][1] + 1)
        else:
            shown_events.append((event, 1))
    return shown_events
