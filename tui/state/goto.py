"""What can be typed at the go-to prompt: a step, a token, a time, a node."""

from __future__ import annotations

import re

import numpy as np

from megacontext.tui.state.playback import Playback
from megacontext.tui.state.view import Node
from megacontext.tui.state.viewer import ViewerState

__all__ = ["GOTO_HELP", "go_to", "parse_location"]

GOTO_HELP = (
    "step 812 or 1773.3:L1@47 · token t291840 · time 90s or 2m (since the start) · node L1@9120"
)
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_NODE = re.compile(r"[lL](\d{1,2})@(\d{1,15})")
_TOKEN = re.compile(r"(?:t|tok|token)\s*(\d{1,18})")
_TIME = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smh])")
_STEP = re.compile(r"(?:step\s*)?(\d{1,12})")


_LOCATION = re.compile(r"([0-9]{1,12})(?:\.([1-9][0-9]{0,3}))?(?::[lL]([0-9]{1,2})@([0-9]{1,15}))?")


def parse_location(text: str) -> tuple[int, int, Node | None] | None:
    """(step, round from 1, node) of ``STEP[.ROUND][:NODE]``; None where ``text`` is no place."""
    match = _LOCATION.fullmatch(text.strip())
    if match is None:
        return None
    step, within, level, index = match.groups()
    node = Node(int(level), int(index)) if level else None
    return int(step), int(within or 1), node


def go_to(session: ViewerState, text: str) -> None:
    """Go where ``text`` says; ``session.notice`` tells where that is, or what was wrong."""
    query = text.strip().replace(",", "").replace("_", "")
    location = parse_location(query)
    if location is not None and (location[1] > 1 or location[2] is not None):
        session.notice = _go_to_location(session, *location)
        return
    for pattern, action in ((_NODE, _node), (_TOKEN, _token), (_TIME, _time), (_STEP, _step)):
        match = pattern.fullmatch(query)
        if match:
            session.notice = action(session, *match.groups())
            return
    session.notice = f"{text!r} is no place in this run; try {GOTO_HELP}."


def _row(session: ViewerState, row: int) -> None:
    session.play(lambda play: Playback.step(play, row - play.position))


def _step(session: ViewerState, digits: str) -> str:
    steps = session.source.scalars.step
    if not len(steps):
        return "This trace has no rows yet."
    target = int(digits)
    _row(session, int(np.searchsorted(steps, target, "left")))
    at = int(steps[session.playback.position])
    return f"Step {at:,}." if at == target else f"There is no step {target:,}; this is step {at:,}."


def _go_to_location(session: ViewerState, step: int, within: int, node: Node | None) -> str:
    rows = np.flatnonzero(session.source.scalars.step == step)
    if not 0 < within <= len(rows):
        return f"There is no step {step:,} with a round {within}."
    _row(session, int(rows[within - 1]))
    return _node(session, str(node.level), str(node.index)) if node else f"Step {step:,}."


def _token(session: ViewerState, digits: str) -> str:
    row, token = session.row, int(digits)
    if row is None or token >= session.source.num_tokens:
        return f"Token {token:,} is not there; the history has {session.source.num_tokens:,}."
    if token >= row.history:
        session.seek_token(token + 1)
    session.centre(Node(1, token // row.block_size))
    return f"Block L1@{token // row.block_size} holds token {token:,}."


def _time(session: ViewerState, number: str, unit: str) -> str:
    t_ns = session.source.scalars.t_ns
    if not len(t_ns):
        return "This trace has no rows yet."
    target_ns = int(t_ns[0]) + int(float(number) * _UNITS[unit] * 1e9)
    _row(session, int(np.searchsorted(t_ns, target_ns, "left")))
    return f"{number}{unit} after the start."


def _node(session: ViewerState, level: str, index: str) -> str:
    row, node = session.row, Node(int(level), int(index))
    if row is None or node.level < 1:
        return f"{node} is no tree node; levels start at 1."
    if node.span(row.block_size)[1] > row.history:
        return f"{node} is not complete at this step."
    session.centre(node)
    return f"{node}."
