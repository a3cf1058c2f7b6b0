"""What can be typed at the go-to prompt: a step, a token, a time, a node."""

from __future__ import annotations

import re

import numpy as np

from megacontext.tui.playback import Playback
from megacontext.tui.session import Session
from megacontext.tui.view import Node

__all__ = ["GOTO_HELP", "go_to"]

GOTO_HELP = "step 812 · token t291840 · time 90s or 2m (since the start) · node L1@9120"
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_NODE = re.compile(r"[lL](\d{1,2})@(\d{1,15})")
_TOKEN = re.compile(r"(?:t|tok|token)\s*(\d{1,18})")
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([smh])")
_STEP = re.compile(r"(?:step\s*)?(\d{1,12})")


def go_to(session: Session, text: str) -> None:
    """Go where ``text`` says; ``session.notice`` tells where that is, or what was wrong."""
    said = text.strip().replace(",", "").replace("_", "")
    for pattern, action in ((_NODE, _node), (_TOKEN, _token), (_TIME, _time), (_STEP, _step)):
        match = pattern.fullmatch(said)
        if match:
            session.notice = action(session, *match.groups())
            return
    session.notice = f"{text!r} is no place in this run; try {GOTO_HELP}."


def _row(session: Session, row: int) -> None:
    session.play(lambda play: Playback.step(play, row - play.position))


def _step(session: Session, digits: str) -> str:
    steps = session.source.scalars.step
    if not len(steps):
        return "This trace has no rows yet."
    wanted = int(digits)
    _row(session, int(np.searchsorted(steps, wanted, "left")))
    at = int(steps[session.playback.position])
    return f"Step {at:,}." if at == wanted else f"There is no step {wanted:,}; this is step {at:,}."


def _token(session: Session, digits: str) -> str:
    row, token = session.row, int(digits)
    if row is None or token >= session.source.num_tokens:
        return f"Token {token:,} is not there; the history has {session.source.num_tokens:,}."
    if token >= row.history:
        session.seek_token(token + 1)
    session.centre(Node(1, token // row.block_size))
    return f"Block L1@{token // row.block_size} holds token {token:,}."


def _time(session: Session, number: str, unit: str) -> str:
    t_ns = session.source.scalars.t_ns
    if not len(t_ns):
        return "This trace has no rows yet."
    wanted_ns = int(t_ns[0]) + int(float(number) * _UNITS[unit] * 1e9)
    _row(session, int(np.searchsorted(t_ns, wanted_ns, "left")))
    return f"{number}{unit} after the start."


def _node(session: Session, level: str, index: str) -> str:
    row, node = session.row, Node(int(level), int(index))
    if row is None or node.level < 1:
        return f"{node} is no tree node; levels start at 1."
    if node.span(row.block_size)[1] > row.history:
        return f"{node} is not complete at this step."
    session.centre(node)
    return f"{node}."
