"""From a trace row to the panes' row model."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from megacontext.traces.errors import PlanError
from megacontext.traces.reader import TraceReader
from megacontext.traces.row import TraceRow
from megacontext.traces.state import apply_actions
from megacontext.tui.sources.row_model import I8, Act, Refused, RowModel, Spans
from megacontext.tui.state.score_explanation import Pair
from megacontext.tui.state.turns import marker_label
from megacontext.tui.state.view import Node

__all__ = ["PAIRS_COLUMN", "damaged_row", "row_model", "score_pairs"]

PAIRS_COLUMN = "score_pairs"
"""Optional column: for some blocks, which tokens of the query gave rise to their scores."""


def _after(row: TraceRow, block_size: int) -> tuple[I8, str]:
    """The frontier's levels after the row's actions, and what is wrong with them ("" if fine)."""
    try:
        return apply_actions(row.levels, row.actions, block_size), ""
    except PlanError as error:
        return row.levels, f"Step {row.step} is shown without its actions: {error}"


def row_model(row: TraceRow, number: int, block_size: int) -> RowModel:
    """Convert ``row``, which is row ``number`` of its trace."""
    actions = tuple(
        Act(int(a["kind"]), Node(int(a["level"]), int(a["index"])), float(a["score"]),
            int(a["cost"]), bool(a["forced"]), int(a["reason"]))
        for a in row.actions
    )  # fmt: skip
    refused = tuple(
        Refused(int(r["kind"]), Node(int(r["level"]), int(r["index"])), float(r["score"]),
                int(r["reason"]))
        for r in row.rejected
    )  # fmt: skip

    # The frontier before and after the actions.
    before = Spans(row.levels, block_size)
    levels, problem = _after(row, block_size) if actions else (row.levels, "")
    after = Spans(levels, block_size) if actions else before
    return RowModel(
        number=number,
        step=row.step,
        round=row.round,
        t_ns=row.t_ns,
        phase=row.phase,
        trigger=row.trigger,
        history=row.history_tokens,
        tail=row.tail_tokens,
        before=before,
        after=after,
        scores=None if row.scores is None else row.scores.astype(np.float32),
        actions=actions,
        refused=refused,
        budget_used=row.budget_used,
        w_max=row.w_max,
        kv_rows=row.kv_rows,
        kv_mode=row.kv_mode,
        kv_drift=math.nan if row.kv_drift is None else row.kv_drift,
        delta_nll=math.nan if row.delta_nll is None else row.delta_nll,
        stage_us=(row.us_gist, row.us_lens, row.us_alloc, row.us_kv, row.us_decode, row.us_record),
        scores_dropped=row.scores_dropped,
        marker=marker_label(row.marker or ""),
        knobs=row.knobs or "",
        nll=_mean(row.new_nll),
        damaged=problem,
    )


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def damaged_row(
    number: int, step: int, history: int, w_max: int, block_size: int, message: str
) -> RowModel:
    """What stands in for a row that cannot be read: its step, its history, and why."""
    empty = TraceRow(step=step, history_tokens=history, budget_used=0, w_max=w_max)
    return replace(row_model(empty, number, block_size), damaged=message)


def score_pairs(reader: TraceReader, number: int, node: Node, block_size: int) -> tuple[Pair, ...]:
    """What row ``number`` says of token pairs in the blocks that ``node`` covers; () if nothing.

    Raises:
        TraceError: the reader was closed.
    """
    if PAIRS_COLUMN not in reader.schema.names:
        return ()
    part = reader.block_of(number)
    first, batch = next(reader.project([PAIRS_COLUMN], part, part + 1))
    if batch is None:
        return ()
    # A raw block and a gist of one block cover it alone, a gist above covers K times as many.
    blocks = block_size ** max(node.level - 1, 0)
    return tuple(
        Pair(
            int(entry["query_token"]),
            int(entry["block_token"]),
            float(entry["weight"]),
            f"head {entry['layer']}.{entry['head']}",
        )
        for entry in batch.column(0)[number - first].as_py() or []
        if entry["block"] // blocks == node.index
    )
