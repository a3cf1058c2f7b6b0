"""Puts the parts of an interrupted run back where its trace and its tree end."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from megacontext.core.config import Config, FocusConfig, parse_config, recorded_focus
from megacontext.core.config.keys import WHERE_AND_HOW, by_path
from megacontext.core.focus import Limits
from megacontext.core.focus.limits import USER_TRIGGERS, limits_for
from megacontext.core.runtime.build import EngineParts
from megacontext.core.runtime.pretrained import resolve_kinds, weights_id
from megacontext.traces.errors import TraceError
from megacontext.traces.facts import Answered, Asked, Typed
from megacontext.traces.files import OS_FILES, FileLayer
from megacontext.traces.reader import TraceReader
from megacontext.traces.row import TraceRow
from megacontext.traces.schema import Phase, Trigger

__all__ = ["STALE_GISTS", "Resumed", "restore"]

STALE_GISTS = "mc.stale_gists"
"""Metadata of a trace whose gists do not fit the base model: why."""

_FREE = (
    *WHERE_AND_HOW,
    *("device", "threads", "gist.products"),  # the machine
    *("gist.path", "lens.path", "allocator.path"),  # checkpoints may move
    "source.",  # its tokens are compared
)
"""What a resumed run may have otherwise than before: key paths, or their beginnings."""


@dataclass(frozen=True)
class Resumed:
    """Where a run stands.

    ``rows`` whole rows of its trace; the history that its source gave, uint32 [n], and the
    positions of these tokens, int64 [n]; the limits that were in force, if any were changed; the
    length of the history at the last question or turn end; the NLL of the newest tokens of the
    history as the model saw them, float32 [t] in nats; the frontier I8[n] that the window held
    while the last row's edit waited (``focus.lag``), or None where it did not wait; whether the
    gists were stale.
    """

    rows: int = 0
    focus: FocusConfig | None = None
    last_question_at: int | None = None
    source_history: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint32))
    positions: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    nll: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    waiting_levels: np.ndarray | None = None
    stale_gists: bool = False


def restore(parts: EngineParts, trace: Path, files: FileLayer = OS_FILES) -> Resumed:
    """Bring tree, working context and constraint memory to the last whole row of ``trace``.

    The tree may be ahead of the trace (the session then takes those tokens from it) or behind it
    (the trace holds the missing tokens).

    Args:
        files: the file layer that ``trace`` lies on.

    Raises:
        TraceError: no trace, one of a run with another config or tree, or one without a row
            beside a tree with tokens.
    """
    with TraceReader.open(trace, files) as reader:
        _check(parts, reader)
        stale = STALE_GISTS in reader.meta.extra
        rows = list(reader.rows())
        limits, focus = _recorded_limits(parts.config, rows)
        rows = _whole_refocuses(rows, limits)
        if not rows:
            # Its first row would say where the run began; without it nobody can tell.
            if parts.tree.n_tokens:
                raise TraceError(
                    f"trace {trace} has no whole refocus yet, and the tree holds "
                    f"{parts.tree.n_tokens} tokens that may be this run's; start it again with an "
                    "empty --tree, or without --resume to go on behind them."
                )
            return Resumed()
        last = rows[-1]
        tokens = np.concatenate([row.new_tokens for row in rows]).astype(np.uint32)
        nll = np.concatenate([row.new_nll for row in rows]).astype(np.float32)
        started = last.history_tokens - len(tokens)
        if parts.tree.n_tokens < started:
            raise TraceError(
                f"trace {trace} starts at token {started} of a tree that is not here; pass --tree "
                "with the run's tree."
            )

        # The tree gets what it lacks, the focus every recorded decision.
        known = max(0, parts.tree.n_tokens - started)
        if known < len(tokens):
            parts.tree.append(tokens[known:])
            parts.tree.commit()
        parts.focus.rebuild(rows, lambda row: limits[row.step, row.round])
        typed = [(fact.start - started, fact.stop - started) for fact in _typed(rows)]

    # What a person typed in between is no part of the source.
    keep = np.ones(len(tokens), bool)
    for start, stop in typed:
        keep[max(start, 0) : max(stop, 0)] = False
    asked = [row.history_tokens for row in rows if Trigger(row.trigger) in USER_TRIGGERS]
    last_question_at = asked[-1] if asked else None
    positions = started + np.flatnonzero(keep)
    return Resumed(
        len(rows),
        focus,
        last_question_at,
        tokens[keep],
        positions,
        nll,
        _waiting_levels(focus, [row for row in rows if row.step == last.step]),
        stale,
    )


def _waiting_levels(focus: FocusConfig, step: list[TraceRow]) -> np.ndarray | None:
    """The frontier before the last refocus, of rows ``step``, if its edit waited."""
    waits = Trigger(step[0].trigger) == Trigger.BLOCK_CLOSED and step[0].phase == Phase.DECODE
    return step[0].levels if focus.lag and waits else None


def _typed(rows: list[TraceRow]) -> list[Typed]:
    """Each text that did not come from the source: typed, or a reply to it.

    A reply that was cut off has no marker of its own; it goes to the end of the trace.
    """
    typed: list[Typed] = []
    last_question: Asked | None = None
    for row in rows:
        typed += Typed.find(row.marker)
        asked = Asked.find(row.marker)
        if asked and Typed(asked[-1].start, asked[-1].stop) in typed:  # else it is a script's own
            last_question = asked[-1]
        if Answered.find(row.marker):
            last_question = None
    if last_question is not None:
        typed.append(Typed(last_question.stop, rows[-1].history_tokens))
    return typed


def _recorded_limits(
    config: Config, rows: list[TraceRow]
) -> tuple[dict[tuple[int, int], Limits], FocusConfig]:
    """Limits by (step, round), and what is in force at the end; ``knobs`` hold from their row."""
    limits, focus = {}, config.focus
    for row in rows:
        if row.knobs is not None:
            focus = recorded_focus(json.loads(row.knobs)["focus"], "knobs.focus")
        limits[row.step, row.round] = limits_for(focus, Trigger(row.trigger), config.ingest.chunk)
    return limits, focus


def _whole_refocuses(rows: list[TraceRow], limits: dict[tuple[int, int], Limits]) -> list[TraceRow]:
    """``rows`` without those of a last refocus whose later rounds did not reach the trace.

    It is done again, from the same tokens: the run then decides as one that was not broken off.
    """
    if not rows:
        return rows
    last = rows[-1]
    settled = bool(last.actions["forced"].all())  # nothing was chosen, and all() of nothing holds
    if settled or last.round + 1 >= limits[last.step, last.round].rounds:
        return rows
    return [row for row in rows if row.step < last.step]


def _check(parts: EngineParts, reader: TraceReader) -> None:
    """One trace has one config, by which its rows are decided again: no other may go on with it.

    Raises:
        TraceError: a key that decides rows differs from what the trace recorded.
    """
    before = resolve_kinds(parse_config(reader.meta.config, where=str(reader.path), recorded=True))
    recorded = by_path(asdict(before))
    for key, now in by_path(asdict(parts.config)).items():
        if recorded.get(key) != now and not key.startswith(_FREE):
            raise TraceError(
                f"{key} is {now} but the run in {reader.path} had {recorded[key]}; resume with "
                f"its own config (--config {reader.path})."
            )
    weights, bundled = reader.meta.extra.get("mc.weights", ""), weights_id(parts.config)
    if weights and weights != bundled:
        raise TraceError(
            f"model.path is {parts.config.model.path}, whose weights are {bundled} now but were "
            f"{weights} for the run in {reader.path}; start a new run, or go back to that version."
        )
