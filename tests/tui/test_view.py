"""Windows, zoom, and the way in and out."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from megacontext.tui.state.frame import carried
from megacontext.tui.state.view import MIN_SPAN, Node, ViewState, Window

HISTORY = st.integers(0, 2_000_000)
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("zoom"), st.floats(0.01, 20)),
        st.tuples(st.just("pan"), st.floats(-2, 2)),
    ),
    max_size=20,
)


@given(HISTORY, MOVES)
def test_the_window_never_leaves_the_history(history: int, moves: list[tuple[str, float]]) -> None:
    window = Window().fit(history)
    total = max(history, MIN_SPAN)
    for name, amount in moves:
        window = window.zoom(amount, history) if name == "zoom" else window.pan(amount, history)
        assert -1e-6 <= window.start < window.stop <= total + 1e-6
        assert window.span >= min(MIN_SPAN, total) - 1e-6


@given(st.integers(1000, 1_000_000), st.floats(0.05, 0.95), st.floats(0.1, 0.9))
def test_zooming_keeps_the_token_under_the_pointer(
    history: int, where: float, factor: float
) -> None:
    window = Window().fit(history)
    token = window.start + where * window.span
    closer = window.zoom(factor, history, token)
    if closer.span > MIN_SPAN:
        share = (token - closer.start) / closer.span
        assert abs(share - where) < 1e-6


def test_a_whole_window_grows_with_the_history() -> None:
    assert Window().fit(100).fit(5000).stop == 5000


def test_a_zoomed_window_stays_while_the_history_grows() -> None:
    window = Window().fit(10_000).zoom(0.1, 10_000)
    assert window.fit(20_000) == window


def test_drilling_in_and_backing_out_returns_to_the_start() -> None:
    start = ViewState(window=Window().fit(100_000)).select(Node(2, 3))
    view = start.drill(100_000, 32)
    assert view.inspecting
    assert view.window.span < start.window.span
    assert view.back().window == start.window
    assert not view.back().inspecting


def test_drilling_twice_into_the_same_node_changes_nothing_more() -> None:
    view = ViewState(window=Window().fit(100_000)).select(Node(1, 3)).drill(100_000, 32)
    assert view.drill(100_000, 32) == view


def test_backing_out_of_a_maximized_pane_shows_all_panes_first() -> None:
    view = ViewState(maximized=3, inspecting=True)
    assert view.back().maximized == 0
    assert view.back().inspecting


def test_a_node_spans_a_power_of_the_block_size() -> None:
    assert Node(2, 3).span(32) == (3072, 4096)
    assert Node(1, 7).parent(4) == Node(2, 1)


def test_a_steps_later_rounds_have_the_nll_of_its_first_one() -> None:
    gap = math.nan
    steps = np.array([0, 1, 1, 1, 2, 3, 3])
    values = np.array([gap, 2.0, gap, gap, gap, 1.0, gap])
    assert np.array_equal(
        carried(values, steps), [gap, 2.0, 2.0, 2.0, gap, 1.0, 1.0], equal_nan=True
    )
    assert len(carried(np.empty(0), np.empty(0, np.int64))) == 0
