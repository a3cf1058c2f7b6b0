"""The action list: everything that was done or turned down, filtered, scrolled, jumped to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from megacontext.traces.row import ACTION_DTYPE
from megacontext.traces.schema import Reason
from megacontext.traces.vitals import VitalsScan
from megacontext.tui.app import InspectorApp
from megacontext.tui.render.inspector import why
from megacontext.tui.render.side import CHIPS, draw_actions
from megacontext.tui.sources.file_source import FileSource
from megacontext.tui.state.action_lines import LogFilter, line_ids
from megacontext.tui.state.action_log import ActionLog
from megacontext.tui.state.view import Node
from megacontext.tui.state.viewer import ViewerState
from megacontext.tui.widgets import ActionsPane


@pytest.fixture
def session(fake, clock) -> ViewerState:
    return ViewerState(fake(), clock, unhurried=True)


def filtered(session: ViewerState, said: str):
    session.look(lambda view: replace(view, log_filter=said))
    session.play(lambda play: play.seek(play.last))
    return session.frame().log


def test_refusals_of_earlier_steps_are_listed_too(session: ViewerState) -> None:
    session.play(lambda play: play.seek(play.last))
    rows = {line.row for line in filtered(session, "✗").lines}
    assert len(rows) > 1
    total = sum(len(session.source.row(n).refused) for n in range(session.source.num_rows))
    assert session.frame().log.total == total


@pytest.mark.parametrize(
    ("said", "check"),
    [
        ("+", lambda line: line.applied and line.kind == 0),
        ("−", lambda line: line.applied and line.kind == 1),
        ("✗ +", lambda line: not line.applied and line.kind == 0),
        ("forced", lambda line: line.forced),
        ("n_diff", lambda line: line.reason == Reason.N_DIFF),
        ("headroom", lambda line: line.reason == Reason.HEADROOM),
        ("L1@2", lambda line: line.node == Node(1, 2)),
    ],
)
def test_a_filter_lets_through_just_what_it_says(session: ViewerState, said: str, check) -> None:
    log = filtered(session, said)
    assert log.lines
    assert all(check(line) for line in log.lines)
    everything = filtered(session, "")
    assert log.total < everything.total


def test_a_filter_by_text_shows_blocks_that_hold_it(session: ViewerState) -> None:
    log = filtered(session, "vault")
    assert log.lines
    hits = session.source.find_all("vault", 100)[:, 0]
    for line in log.lines:
        start, stop = line.node.span(8)
        assert ((hits >= start) & (hits < stop)).any()
    assert filtered(session, "no such words").total == 0


def test_not_rearmed_and_quoted_words_are_understood() -> None:
    assert LogFilter.parse("not re-armed").reason == Reason.NOT_REARMED
    assert LogFilter.parse("not re-armed").text == ""
    assert LogFilter.parse('"swap"').text == "swap"
    assert LogFilter.parse("north archive").text == "north archive"


def test_every_line_has_its_blocks_words(story, clock) -> None:
    session = ViewerState(story(), clock, unhurried=True)
    lines = session.frame().log.lines
    expanded = next(line for line in lines if line.node == Node(1, 5) and line.kind == 0)
    assert expanded.words == "The gate opens with the number 70956."
    assert "The gate opens" in "\n".join(draw_actions(session.frame(), 70, 20).lines())


def test_a_swap_names_its_other_half(story, clock) -> None:
    source = story()
    row = source.raw[36]
    row.actions = np.array(
        [(1, 1, 33, -0.1, -7, False, 1), (0, 1, 5, 0.9, 7, False, 1)], ACTION_DTYPE
    )
    session = ViewerState(source, clock, unhurried=True)
    session.play(lambda play: play.seek(36))
    model = session.source.row(36)
    assert model.partners(model.actions[1]) == (Node(1, 33),)
    text = "\n".join(draw_actions(session.frame(), 60, 12).lines())
    assert "swap paid by L1@33" in text
    assert "swap for L1@5" in text
    assert "L1@33" in why(model, Node(1, 5), session.info)


@pytest.fixture
def make(fake, clock) -> Callable[..., InspectorApp]:
    return lambda: InspectorApp(fake(), clock=clock, ticking=False, unhurried=True)


async def test_the_list_scrolls_by_keys_and_enter_goes_to_the_line(make) -> None:
    app = make()
    async with app.run_test(size=(120, 40)) as pilot:
        app.session.play(lambda play: play.seek(60))
        app.redraw()
        app.query_one(ActionsPane).focus()
        await pilot.press(*["down"] * 30)
        frame = app.shown
        assert frame.log.top > 0
        chosen = next(line for line in frame.log.lines if line.id == frame.log.cursor)
        assert chosen.row < 60
        await pilot.press("enter")
        assert app.session.playback.position == chosen.row
        assert app.session.view.node == chosen.node
        assert app.shown.log.cursor == chosen.id
        await pilot.press("pageup", "pageup", "pageup", "escape", "escape")
        assert app.shown.log.cursor is None


async def test_the_wheel_scrolls_and_a_chip_filters(make) -> None:
    app = make()
    async with app.run_test(size=(120, 40)) as pilot:
        app.session.play(lambda play: play.seek(60))
        app.redraw()
        pane = app.query_one(ActionsPane)
        for _ in range(9):
            pane.action_move(3)
        await pilot.pause()
        assert app.shown.log.top > 0
        x = len("all  +  −  ")
        assert CHIPS[3][0] == "✗"
        await pilot.click(ActionsPane, offset=(x, 1))
        assert app.session.view.log_filter == "✗"
        assert all(not line.applied for line in app.shown.log.lines)


async def test_a_filter_is_typed_and_an_empty_one_shows_all(make) -> None:
    app = make()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("F", *"headroom", "enter")
        assert app.session.view.log_filter == "headroom"
        await pilot.press("F", *["backspace"] * 8, "enter")
        assert app.session.view.log_filter == ""


async def test_the_cursor_stays_on_its_line_while_the_run_is_read(small_trace, clock) -> None:
    """The lines that are known come in from the end first, so their numbers must not move."""
    source = FileSource(small_trace)
    app = InspectorApp(source, clock=clock, ticking=False)
    async with app.run_test(size=(120, 40)) as pilot:
        app.session.seek(source.num_rows - 1)
        app.session.source._vitals = VitalsScan(source._reader)  # as if nothing were read yet
        app.session.log = ActionLog(source)
        app.redraw()
        app.query_one(ActionsPane).focus()
        await pilot.press("down", "down", "down")
        log = app.shown.log
        chosen = next(line for line in log.lines if line.id == log.cursor)
        assert log.rank == 2
        source.read_vitals(lambda: False)
        app.redraw()
        log = app.shown.log
        again = next(line for line in log.lines if line.id == log.cursor)
        assert again[:9] == chosen[:9]
        assert log.rank == 2
        await pilot.press("enter")
        assert app.session.playback.position == chosen.row


def test_line_ids_do_not_depend_on_what_else_is_known(session: ViewerState) -> None:
    changes = session.source.vitals().changes
    ids = line_ids(changes)
    assert (np.diff(ids) > 0).all()
    tail = changes[changes["row"] >= 40]
    assert np.array_equal(line_ids(tail), ids[-len(tail) :])


async def test_the_last_page_of_the_list_is_full(make) -> None:
    app = make()
    async with app.run_test(size=(120, 40)) as pilot:
        app.session.play(lambda play: play.seek(play.last))
        app.redraw()
        await pilot.pause()
        pane = app.query_one(ActionsPane)
        for _ in range(40):
            pane.action_page(1)
        await pilot.pause()
        log = app.shown.log
        assert log.rank == log.total - 1
        assert len(log.lines) == pane._page
