"""Going to the worst moments of a run and to what happens next: one table of both."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from megacontext.traces.vitals import Vitals
from megacontext.tui.render.marks import REASON_WORDS, micros, signed
from megacontext.tui.sources.row_model import F64, I64
from megacontext.tui.state.view import Node
from megacontext.tui.state.viewer import ViewerState

__all__ = ["EVENTS", "EXTREMES", "Extreme", "find", "find_again", "most_movement", "preview"]


@dataclass(frozen=True)
class Extreme:
    """A figure of which the highest (or lowest) row is wanted.

    Attributes:
        lane: its name in :meth:`Run.lane`.
        name: what it is called.
        lowest: low values are the worst ones.
        said: a value in words.
    """

    lane: str
    name: str
    describe: Callable[[float], str]
    lowest: bool = False


EXTREMES: dict[str, Extreme] = {
    "n": Extreme("nll", "NLL", lambda v: f"{v:.2f} nats"),
    "s": Extreme("swap", "swap rate", lambda v: f"{v:.0%}"),
    "t": Extreme("latency", "step time", micros),
    "d": Extreme("drift", "KV drift", lambda v: f"{v:.1e}"),
    "r": Extreme("residency", "residency", lambda v: f"{v:.1%}", lowest=True),
}
EVENTS: dict[str, str] = {
    "o": "expansion by choice",
    "x": "refusal",
    "q": "question",
}


def find(session: ViewerState, target: str, direction: int = 1) -> None:
    """Go to an extreme (again: to the next one by rank) or to the next or previous event.

    Args:
        wanted: a key of ``EXTREMES`` or ``EVENTS``.
        direction: 1 next, -1 previous.
    """
    session.source.read_vitals(lambda: False)
    if target in EXTREMES:
        _extreme(session, target, direction)
    else:
        _event(session, target, direction)
    session.last_find = target


def preview(session: ViewerState, target: str) -> str:
    """Where :func:`find` would lead, in a few words; "" while the run is still being read."""
    if session.source.vitals().num_rows < session.source.num_rows:
        return ""
    if target in EVENTS:
        return f"{len(_rows_of(session, target)):,} in this run"
    what = EXTREMES[target]
    values = session.run().lane(what.lane)
    if not np.isfinite(values).any():
        return "none recorded"
    row = int(np.nanargmin(values) if what.lowest else np.nanargmax(values))
    return f"{what.describe(float(values[row]))} at step {session.step_of(row):,}"


def find_again(session: ViewerState, direction: int) -> None:
    """Repeat the last find, or say that there was none."""
    if session.last_find:
        find(session, session.last_find, direction)
    else:
        session.notice = "Nothing was searched for yet; e lists what can be."


def _extreme(session: ViewerState, target: str, direction: int) -> None:
    what = EXTREMES[target]
    values = session.run().lane(what.lane)
    ranked = _ranked(values, what.lowest)
    if not len(ranked):
        session.notice = f"No {what.name} was recorded in this run."
        return

    # Where the last find of this kind led is left to the next rank, from elsewhere to the first.
    ranks = np.flatnonzero(ranked == session.playback.position)
    again = session.last_find == target and len(ranks)
    rank = min(max(int(ranks[0]) + direction, 0), len(ranked) - 1) if again else 0
    row = int(ranked[rank])
    session.seek(row)
    side = "lowest" if what.lowest else "highest"
    order = f"{side} {what.name}" if rank == 0 else f"{what.name} number {rank + 1} from the {side}"
    session.notice = (
        f"{order[0].upper()}{order[1:]}: {what.describe(float(values[row]))} at step"
        f" {session.step_of(row):,} (of {len(ranked):,}). ; goes to the next."
    )


def _ranked(values: F64, lowest: bool) -> I64:
    known = np.flatnonzero(np.isfinite(values))
    order: I64 = known[np.argsort(values[known] if lowest else -values[known], kind="stable")]
    return order


def _event(session: ViewerState, target: str, direction: int) -> None:
    rows = _rows_of(session, target)
    here = session.playback.position
    ahead = rows[rows > here] if direction > 0 else rows[rows < here][::-1]
    side = "later" if direction > 0 else "earlier"
    if not len(ahead):
        session.notice = f"No {side} {EVENTS[target]}; there are {len(rows):,} in this run."
        return
    row = int(ahead[0])
    session.seek(row)
    count = int(np.searchsorted(rows, row)) + 1
    event = f"{EVENTS[target].capitalize()} {count:,} of {len(rows):,}"
    session.notice = f"{event}, step {session.step_of(row):,}{_show(session, target, row)}."


def _rows_of(session: ViewerState, target: str) -> I64:
    """Rows with such an event, ascending."""
    if target == "q":
        asked = {m.row for m in session.markers if "question" in m.label.lower()}
        return np.array(sorted(asked), np.int64)
    changes = session.source.vitals().changes
    if target == "o":
        mask = changes["applied"] & (changes["kind"] == 0) & ~changes["forced"]
    else:
        mask = ~changes["applied"]
    return np.unique(changes["row"][mask]).astype(np.int64)


def _show(session: ViewerState, target: str, row: int) -> str:
    """Select what an event is about; its words for the notice."""
    changes = session.source.vitals().changes
    here = changes[changes["row"] == row]
    mask = here["applied"] & (here["kind"] == 0) if target == "o" else ~here["applied"]
    if target == "q" or not mask.any():
        return ""
    best = max(here[mask].tolist(), key=lambda c: -math.inf if math.isnan(c[4]) else c[4])
    node = Node(int(best[2]), int(best[3]))
    session.look(lambda view: view.select(node))
    return f": {node} {signed(float(best[4]))}, {REASON_WORDS.get(int(best[5]), '?')}"


def most_movement(vitals: Vitals) -> int:
    """The row with most voluntary actions, the first of several; 0 where there are none."""
    return int(vitals.voluntary.argmax()) if vitals.num_rows else 0
