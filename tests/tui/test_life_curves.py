"""A node's life is drawn whole: squeezed to the pane's width, nothing telling is lost."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megacontext.tui.render.canvas import Canvas
from megacontext.tui.render.inspector import grouped, seen_in
from megacontext.tui.render.life import draw_life, squeeze
from megacontext.tui.sources.node_history import STATES, Event, NodeLife
from megacontext.tui.sources.row_model import Spans
from megacontext.tui.state.view import Node

RAW, GIST, INSIDE, ABSENT = (STATES.index(s) for s in ("raw", "gist", "inside", "absent"))
cells = st.lists(
    st.tuples(st.floats(-1, 1) | st.just(float("nan")), st.integers(0, len(STATES) - 1)),
    min_size=1,
    max_size=300,
)


def event(row: int, what: str = "expand", reason: int = 0, step: int | None = None) -> Event:
    kind = int(what == "collapse")
    return Event(row, row if step is None else step, what, kind, 0.5, reason, False)


def life_of(states: list[int], events: tuple[Event, ...] = ()) -> NodeLife:
    n = len(states)
    return NodeLife(
        Node(1, 3), np.arange(n), np.full(n, 0.4), np.array(states, np.int64), events, True
    )


@given(cells, st.integers(1, 80))
def test_squeezing_keeps_the_best_score_and_the_finest_state(rows, width: int) -> None:
    scores = np.array([score for score, _ in rows])
    states = np.array([state for _, state in rows], np.int64)
    best, seen, cell = squeeze(scores, states, width)
    assert len(best) == len(seen) == min(width, len(rows))
    assert cell[0] == 0
    assert cell[-1] == len(best) - 1
    assert set(np.diff(cell)) <= {0, 1}
    for place in range(len(best)):
        mine = cell == place
        known = scores[mine][np.isfinite(scores[mine])]
        assert np.array_equal(best[place], known.max() if len(known) else np.nan, equal_nan=True)
        assert seen[place] in states[mine]
        if RAW in states[mine]:
            assert seen[place] == RAW


def test_the_curves_begin_where_the_node_was_closed() -> None:
    states = [ABSENT] * 500 + [RAW] * 2 + [GIST] * 198
    canvas = Canvas(40, 30)
    after = draw_life(canvas, 0, life_of(states, (event(500), event(699, "collapse"))))
    lines = canvas.lines()
    assert lines[1].startswith("▀▄")
    assert lines[2][0] == "+"
    assert lines[2][39] == "−"
    assert "whole life, 200 rounds" in lines[3]
    assert "newest of it, 40 rounds" in lines[7]
    assert "raw" in lines[8]
    assert after == 9


def test_an_action_is_not_hidden_by_a_refusal_in_the_same_cell() -> None:
    canvas = Canvas(10, 4)
    events = (event(5), event(6, "refused"))
    draw_life(canvas, 0, life_of([GIST] * 100, events))
    assert canvas.lines()[2][0] == "+"


def test_a_node_that_does_not_exist_yet_has_no_curves() -> None:
    canvas = Canvas(10, 20)
    assert draw_life(canvas, 0, life_of([ABSENT] * 5)) == 0
    assert not "".join(canvas.lines()).strip()


def test_refusals_of_one_step_share_a_line() -> None:
    same = [event(row, "refused", reason=14, step=9) for row in (1, 2, 3)]
    other = [event(4, "refused", reason=13, step=9), event(5, "refused", reason=13, step=10)]
    assert [times for _, times in grouped(same + other)] == [3, 1, 1]


def test_when_a_block_was_raw_is_said_in_ranges_and_briefly_where_there_is_little_room() -> None:
    node = Node(1, 0)
    states = [ABSENT, RAW, RAW, GIST, GIST, RAW, INSIDE, RAW, GIST, RAW]  # before each row
    rows = np.arange(len(states))
    life = NodeLife(node, rows, np.zeros(len(states)), np.array(states), (), True)
    levels = np.zeros(1, np.int8)
    spans = Spans(levels, 8)
    row = SimpleNamespace(number=len(states) - 1, after=spans)
    run = SimpleNamespace(row=row, step_of=lambda number: 100 + number)
    assert seen_in(life, run) == "Raw in steps 101, 104, 106, 108–now."
    assert seen_in(life, run, brief=True) == "Raw 4 times, last 108–now."
    earlier = life.upto(6)  # not read up to the row on screen
    assert seen_in(earlier, run) == "Raw in steps 101, 104."
