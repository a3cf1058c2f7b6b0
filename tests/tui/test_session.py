"""Commands on a session, without any widget."""

from __future__ import annotations

import numpy as np
import pytest

from megacontext.tui.render.bars import story
from megacontext.tui.sources.node_history import LifeReader
from megacontext.tui.state.goto import go_to
from megacontext.tui.state.view import Node
from megacontext.tui.state.viewer import ViewerState


@pytest.fixture
def session(fake, clock) -> ViewerState:
    return ViewerState(fake(), clock, unhurried=True)


def test_a_finished_run_opens_on_what_its_first_question_led_to(story, clock) -> None:
    session = ViewerState(story(), clock, unhurried=True)
    assert session.playback.position == 36
    assert session.view.node == Node(1, 5)


def test_a_run_without_a_question_opens_where_most_moved(fake, clock) -> None:
    def unmarked(row) -> None:
        row.marker = None

    session = ViewerState(fake(change=unmarked), clock, unhurried=True)
    voluntary = session.source.vitals().voluntary
    assert session.playback.position == int(voluntary.argmax()) > 0
    assert session.view.node is not None


def test_three_keys_lead_from_the_start_to_the_opened_block(session: ViewerState) -> None:
    session.to_marker(1)
    session.focus_latest()
    session.drill()
    row, node = session.row, session.view.node
    assert row is not None
    assert node is not None
    assert any(act.node == node and act.kind == 0 for act in row.actions)
    assert session.view.inspecting
    start, stop = node.span(8)
    window = session.frame().view.window
    assert window.start <= start
    assert stop <= window.stop
    assert window.span < row.history


def test_playing_moves_with_the_clock_and_stops_at_the_end(session: ViewerState, clock) -> None:
    session.play(lambda play: play.home())
    session.toggle_play()
    clock.now += 1.0
    assert session.tick()
    assert session.playback.position == 4
    clock.now += 1e4
    session.tick()
    assert session.playback.position == session.playback.last
    assert not session.playback.playing


def test_a_live_view_follows_and_freezes_while_rows_arrive(fake, clock) -> None:
    source = fake(mode="LIVE", visible=10)
    session = ViewerState(source, clock, unhurried=True)
    source.visible = 12
    assert session.tick()
    assert session.playback.position == 11
    session.toggle_play()
    source.visible = 20
    session.tick()
    assert session.playback.position == 11
    session.toggle_play()
    assert session.playback.playing


def test_actions_are_visited_on_the_selection_only(session: ViewerState) -> None:
    session.play(lambda play: play.seek(session.source.num_rows - 1))
    session.focus_latest()
    node, count = session.view.node, session.source.num_rows
    rows = [session.source.row(n) for n in range(count)]
    acted = [row.number for row in rows if any(act.node == node for act in row.actions)]
    session.play(lambda play: play.seek(count - 1))
    visited = []
    while not session.notice:
        visited.append(session.playback.position)
        session.to_action(-1)
    assert visited[1:] == [n for n in reversed(acted) if n < count - 1]
    session.notice = ""
    session.to_action(1)
    assert session.playback.position == min(n for n in acted if n > visited[-1])
    session.notice = ""
    session.look(lambda view: view.select(Node(1, 10**9)))
    here = session.playback.position
    session.to_action(1)
    assert session.playback.position == here
    assert "No later action" in session.notice


def test_a_search_selects_the_block_and_wraps(session: ViewerState) -> None:
    session.play(lambda play: play.seek(session.source.num_rows - 1))
    hits = []
    for _ in range(8):
        session.search("vault code")
        hits.append(session.view.node)
    assert hits[0] in hits[1:]
    session.search("no such words here")
    assert "does not occur" in session.notice


def test_a_search_forward_then_backward_comes_back(session: ViewerState) -> None:
    session.play(lambda play: play.seek(session.source.num_rows - 1))
    session.search("vault code")
    first = session.view.node
    session.search("vault code")
    session.search("vault code", -1)
    assert session.view.node == first


@pytest.mark.parametrize(
    ("said", "check"),
    [
        ("step 20", lambda s: s.row.step == 20),
        ("20", lambda s: s.row.step == 20),
        ("t100", lambda s: s.view.node == Node(1, 12)),
        ("L2@1", lambda s: s.view.node == Node(2, 1)),
        ("1s", lambda s: s.row.t_ns >= s.source.scalars.t_ns[0] + 10**9),
    ],
)
def test_goto_understands_steps_tokens_times_and_nodes(
    session: ViewerState, said: str, check
) -> None:
    session.play(lambda play: play.seek(session.source.num_rows - 1))
    go_to(session, said)
    assert check(session)


@pytest.mark.parametrize("said", ["nonsense", "t99999999", "L9@9", "L0@3", "-5", "t", "١٢"])
def test_goto_says_what_it_did_not_understand(session: ViewerState, said: str) -> None:
    before = session.playback.position
    go_to(session, said)
    assert session.notice.endswith(".")
    assert session.playback.position == before or said == "١٢"


def test_a_mark_joins_the_recorded_markers(session: ViewerState) -> None:
    session.play(lambda play: play.seek(5))
    session.set_marker()
    assert [m.row for m in session.markers if m.personal] == [5]
    session.play(lambda play: play.home())
    session.to_marker(1)
    assert session.playback.position == min(m.row for m in session.markers if m.row > 0)


def test_a_mark_in_a_live_session_goes_to_the_engine(fake, clock) -> None:
    source = fake(mode="LIVE", visible=10)
    session = ViewerState(source, clock)
    session.set_marker()
    assert source.control.sent == [("marker", "mark")]


def test_what_the_engine_turned_down_is_said(fake, clock) -> None:
    source = fake(mode="LIVE", visible=10)
    session = ViewerState(source, clock)
    source.control.failures = ["w_max is 3; it must be at least 96."]
    assert session.tick()
    assert "w_max is 3" in session.notice


def test_an_engine_that_dies_before_its_first_step_is_no_longer_waited_for(fake, clock) -> None:
    source = fake(mode="LIVE", visible=0)
    session = ViewerState(source, clock)
    session.notice = "The engine is starting."
    session.tick()
    assert story(session.frame())[0] == "The engine is starting."
    source.problem = "The engine died (exit code 2): error: Unknown key w_maxx."
    session.tick()
    assert story(session.frame())[0] == source.problem
    session.notice = "Screen saved."
    session.tick()
    assert story(session.frame())[0] == "Screen saved."


def test_a_nodes_life_has_every_score_and_every_action(session: ViewerState) -> None:
    count = session.source.num_rows
    node = Node(1, 20)
    scan = LifeReader(node, 40, session.source.look)
    steps = 0
    while not scan.advance(count, lambda: True):
        steps += 1
        rows = scan.life(count).rows
        assert np.array_equal(rows, np.arange(rows[0], rows[-1] + 1))
    life = scan.life(count)
    assert steps == count - 1
    assert life.complete
    wanted = [
        (n, act.kind)
        for n in range(count)
        for act in session.source.row(n).actions
        if act.node == node
    ]
    assert [(e.row, e.kind) for e in life.events if e.what != "refused"] == wanted
    for n in range(count):
        known = session.source.row(n).score_of(node)
        assert life.scores[n] == known or (np.isnan(life.scores[n]) and np.isnan(known))


def test_a_life_ends_at_the_row_on_screen(session: ViewerState) -> None:
    scan = LifeReader(Node(1, 20), 40, session.source.look)
    scan.advance(session.source.num_rows, lambda: False)
    life = scan.life(session.source.num_rows).upto(30)
    assert life.rows[-1] == 30
    assert all(event.row <= 30 for event in life.events)


def test_a_hurried_frame_is_completed_by_later_ones(fake, clock) -> None:
    source = fake()
    cache: dict[int, object] = {}
    plain = source.row

    def row(number: int) -> object:
        clock.now += 0.0 if number in cache else 0.005  # reading takes time
        return cache.setdefault(number, plain(number))

    source.row = row
    source.cached = cache.get
    session = ViewerState(source, clock)
    session.play(lambda play: play.seek(70))
    first = session.frame()
    assert not first.trail.complete
    assert first.trail.rows[-1] is not None
    for _ in range(60):
        if session.frame().trail.complete:
            return
    raise AssertionError("the trail never became complete")


@pytest.mark.parametrize("rows", [0, 1])
def test_tiny_traces_take_every_command(fake, clock, rows: int) -> None:
    session = ViewerState(fake(rows=rows), clock, unhurried=True)
    for command in (
        session.toggle_play,
        session.focus_latest,
        session.drill,
        session.set_marker,
        lambda: session.to_action(1),
        lambda: session.to_marker(-1),
        lambda: session.zoom(0.5),
        lambda: session.pan(1),
        lambda: session.select_at(3),
        lambda: session.select_neighbour(1),
        lambda: session.search("x"),
        lambda: go_to(session, "7"),
        session.tick,
    ):
        command()
        assert session.frame().playback.position == 0


def test_a_shorter_run_under_the_same_name_is_shown_from_its_end(fake, clock) -> None:
    source = fake(mode="FOLLOW", visible=40)
    session = ViewerState(source, clock, unhurried=True)
    session.focus_latest()
    session.tick()
    source.visible = 7
    assert session.tick()
    assert session.playback.position == 6
    assert session.frame().view.node is None
    assert "taken this trace's name" in session.notice
