"""The text that a frame carries: the selected node's, or the newest tokens."""

from __future__ import annotations

from megacontext.tui.sources.row_model import RowModel
from megacontext.tui.sources.source import Source
from megacontext.tui.state.frame import TextSpan
from megacontext.tui.state.view import ViewState

__all__ = ["text_span"]

CONTEXT_BEFORE, CONTEXT_AFTER = 12, 192
CONTEXT_MAXIMIZED = 1024
TEXT_TOKENS = 1024
"""Tokens of text that a frame carries at most."""


def text_span(source: Source, row: RowModel, view: ViewState) -> TextSpan:
    """What the text pane shows in ``row``."""
    node = view.node
    if node is None:
        start = max(row.history - TEXT_TOKENS // 4, 0)
        parts, nll = source.pieces(start, row.history)
        return TextSpan(start, row.history, tuple(parts), nll, "the newest tokens", "newest")

    # The node's own tokens, as many as a frame carries.
    start, stop = node.span(row.block_size)
    parts, nll = source.pieces(start, min(stop, start + TEXT_TOKENS, row.history))
    state, _ = row.after.state(node)
    if state == "absent" and start < row.history:
        state = "tail"

    # The text around them, more where the pane is alone.
    around = CONTEXT_MAXIMIZED if view.maximized == 4 else CONTEXT_AFTER
    before, _ = source.pieces(max(start - CONTEXT_BEFORE, 0), start)
    after, _ = source.pieces(stop, min(stop + around, row.history))
    return TextSpan(
        start,
        stop,
        tuple(parts),
        nll,
        str(node),
        state,
        row.score_of(node),
        before="".join(before),
        after="".join(after),
    )
