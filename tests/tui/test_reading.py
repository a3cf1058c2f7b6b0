"""What the panes show can be read: text as written, marks kept, names and times that are true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from megacontext.traces.schema import Trigger
from megacontext.traces.synthetic import make_trace
from megacontext.tui.app import InspectorApp
from megacontext.tui.commands import BY_ID
from megacontext.tui.palette import Role
from megacontext.tui.render.bars import draw_scrubber, row_at, story
from megacontext.tui.render.canvas import Canvas
from megacontext.tui.render.history import LABEL, draw_map, draw_waterfall, row_under
from megacontext.tui.render.marks import spark
from megacontext.tui.render.overview import (
    LANES,
    Curve,
    draw_overview,
    row_of,
    summarise,
    time_axis,
)
from megacontext.tui.render.side import draw_budget
from megacontext.tui.render.text import draw_text
from megacontext.tui.sources.file_source import FileSource
from megacontext.tui.state.frame import Marker
from megacontext.tui.state.view import Node
from megacontext.tui.state.viewer import ViewerState
from megacontext.tui.themes import PALETTES
from megacontext.tui.widgets import (
    InspectorPane,
    MapPane,
    OverviewPane,
    StoryLine,
    TextPane,
    WaterfallPane,
)


@pytest.fixture
def session(fake, clock) -> ViewerState:
    return ViewerState(fake(), clock, unhurried=True)


@pytest.fixture
def make(fake, clock) -> Callable[..., InspectorApp]:
    return lambda source=None: InspectorApp(
        source or fake(), clock=clock, ticking=False, unhurried=True
    )


def coded(fake) -> object:
    source = fake(rows=3)
    code = ["if", " x", ":", "\n", "\t", "y", " =", " 1", "\n", "    ", "z", "()"]
    source.pieces_by_token = (code + [" end"] * 30)[:24]
    return source


# -- text -------------------------------------------------------------------------------------
def test_text_keeps_its_line_breaks_and_indentation(fake, clock) -> None:
    session = ViewerState(coded(fake), clock, unhurried=True)
    session.seek(2)
    session.look(lambda view: view.select(Node(1, 0)))
    lines = [line.rstrip() for line in draw_text(session.frame(), 40, 6).lines()]
    assert lines[:2] == ["▌if x:", "    y = 1▐"]
    assert lines[2].startswith("    z()")
    session.look(lambda view: replace(view, as_written=False))
    assert draw_text(session.frame(), 40, 6).lines()[0].startswith("▌if x:⏎→y = 1▐⏎    z()")


def test_the_selected_block_has_edges_and_a_ground_of_its_own(session: ViewerState) -> None:
    session.look(lambda view: view.select(Node(1, 5)))
    canvas = draw_text(session.frame(), 60, 6)
    text = "".join(canvas.lines())
    inside = text[text.index("▌") + 1 : text.index("▐")].split()
    wanted = "".join(session.source.pieces(40, 48)[0]).split()
    assert inside == wanted
    assert (canvas.bg == int(Role.GROUND)).any()


@pytest.mark.parametrize(
    ("text", "cells"),
    [("cafe\u0301!", 5), ("नमस्ते", 4), ("ที่", 1), ("e\u0301\u0302\u0303\u0304x", 2)],
)
def test_combining_marks_stay_on_their_letters(text: str, cells: int) -> None:
    canvas = Canvas(12, 1)
    assert canvas.text(0, 0, text) == cells
    strip = canvas.strips(PALETTES["mc-dark"])[0]
    assert strip.cell_length == 12
    shown = strip.text.rstrip()
    assert shown == text if len(text) < 9 and "\u0304" not in text else shown.startswith("e\u0301")
    assert "·" not in shown


def test_marks_without_a_letter_and_selectors_stay_harmless() -> None:
    canvas = Canvas(4, 1)
    canvas.text(0, 0, "\u0301a\ufe0f")
    assert canvas.lines()[0].strip() in ("a·", "a")


# -- time and places --------------------------------------------------------------------------
def test_the_waterfalls_labels_are_the_rows_steps(fake, clock) -> None:
    def late(row) -> None:
        row.step += 12_400

    source = fake(change=late)
    session = ViewerState(source, clock)  # hurried: most rows are unread
    session.play(lambda play: play.seek(play.last))
    lines = draw_waterfall(session.frame(), 60, 30, texture=True).lines()
    labels = [line[: LABEL - 1].strip() for line in lines]
    steps = source.scalars.step[-30:]
    assert labels[-1] == str(steps[-1]) or labels[-1].startswith("·")
    whole = [int(label) for label in labels if not label.startswith("·")]
    assert whole == sorted(set(steps.tolist()))[-len(whole) :]


def test_a_later_round_is_labelled_as_a_round(session: ViewerState) -> None:
    number = next(n for n in range(session.source.num_rows) if session.source.row(n).round)
    session.seek(number)
    lines = draw_waterfall(session.frame(), 60, 6, texture=True).lines()
    assert lines[-1][: LABEL - 1].strip() == "·2"


async def test_a_click_in_the_waterfall_goes_to_that_time(make) -> None:
    app = make()
    async with app.run_test(size=(120, 40)) as pilot:
        app.session.seek(70)
        app.redraw()
        pane = app.query_one(WaterfallPane)
        await pilot.click(WaterfallPane, offset=(20, 3))
        assert app.session.playback.position < 70
        app.session.seek(70)
        frame = app.session.frame()
        assert row_under(frame, pane.size.height - 1, pane.size.height, texture=True) == 70


def test_a_click_near_a_marker_or_on_its_name_goes_to_that_marker(session: ViewerState) -> None:
    markers = (Marker(11, "one"), Marker(50, "question about the harbour"))
    frame = replace(session.frame(), markers=markers)
    lines = draw_scrubber(frame, 100, 2).lines()
    for name, row in (("one", 11), ("harbour", 50)):
        assert row_at(frame, lines[1].index(name) + 1, 100, 1) == row
    assert row_at(frame, lines[0].rindex("▲") + 1, 100, 0) == 50
    left, _ = time_axis(100)
    assert row_at(frame, left, 100, 0) == 0


def test_axis_numbers_never_touch_the_selections_name(session: ViewerState) -> None:
    session.play(lambda play: play.seek(play.last))
    for index in range(40):
        session.look(lambda view, i=index: view.select(Node(1, i)))
        axis = draw_map(session.frame(), 80, 5).lines()[-1]
        assert f"L1@{index}" in axis.replace("┘", " ").split() or f"▲ L1@{index}" in axis


def test_the_map_marks_hits_and_shows_where_it_is_when_zoomed(session: ViewerState) -> None:
    session.play(lambda play: play.seek(play.last))
    session.search("vault")
    assert len(session.frame().hits) == 4
    session.look(lambda view: view.reset())
    assert draw_map(session.frame(), 90, 5).lines()[3].count("◇") == 4
    session.zoom(0.25)
    lines = draw_map(session.frame(), 90, 6).lines()
    assert lines[-1].startswith("all")
    assert 15 < lines[-1].count("█") < 30


def test_hits_within_one_block_are_walked_one_by_one(fake, clock) -> None:
    source = fake()
    source.pieces_by_token[40:43] = [" odd", " odd", " odd"]
    session = ViewerState(source, clock, unhurried=True)
    session.look(lambda view: view.select(None))
    said = []
    for _ in range(3):
        session.search("odd")
        said.append(session.notice)
    assert [text.partition("hit ")[2][0] for text in said] == ["1", "2", "3"]


# -- the overview -----------------------------------------------------------------------------
def test_the_overview_shows_each_lanes_extreme_and_the_present(session: ViewerState) -> None:
    frame = session.frame()
    canvas = draw_overview(frame, 100, 9, texture=False)
    lines = canvas.lines()
    for y, name in enumerate(("NLL", "swap", "resid", "time", "drift"), 4):
        assert lines[y].startswith(name)
        assert int(Role.MARKER) in canvas.fg[y]
    left, inner = time_axis(100)
    column = lines[0].index("│")
    assert abs(row_of(column, 100, frame.playback.last) - frame.playback.position) <= 1
    nll = session.run().lane("nll")
    high = left + int(np.nanargmax(nll) / frame.playback.last * (inner - 1))
    assert canvas.fg[4, high] == int(Role.MARKER)


def test_the_overviews_heat_is_the_runs_own(session: ViewerState) -> None:
    run = session.run()
    summary = summarise(run, 40, 8)
    assert np.nanmax(summary.heat) == pytest.approx(run.heat.max() / 127.5 - 1, abs=0.01)
    assert np.isnan(summary.heat[-1, 0])  # the history had not come so far
    assert np.isfinite(summary.heat[0]).all()
    for lane in LANES:
        whole, shown = run.lane(lane.id), summary.column_extremes(Curve(lane, run.lane(lane.id)))
        extreme = np.nanmin if lane.lowest else np.nanmax
        assert extreme(shown.values) == pytest.approx(extreme(whole), rel=1e-6)


async def test_a_click_on_a_lane_goes_to_its_extreme(make) -> None:
    app = make()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        pane = app.query_one(OverviewPane)
        line = next(y for y in range(8) if pane.render_line(y).text.startswith("NLL"))
        nll = app.session.run().lane("nll")
        worst = int(np.nanargmax(nll))
        left, inner = time_axis(pane.size.width)
        x = left + int(worst / app.shown.playback.last * (inner - 1))
        await pilot.click(OverviewPane, offset=(x, line + 1))
        assert app.session.playback.position == worst


async def test_two_keys_go_to_the_highest_swap_rate(make) -> None:
    app = make()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press(BY_ID["extremes"].key, "s")
        swap = app.session.run().lane("swap")
        assert app.session.playback.position == int(np.nanargmax(swap))


# -- keys and names ---------------------------------------------------------------------------
async def test_up_and_down_walk_the_tree_and_tab_gives_arrows_to_a_pane(make) -> None:
    app = make()
    async with app.run_test(size=(120, 40)) as pilot:
        app.session.seek(70)
        app.session.look(lambda view: view.select(Node(1, 9)))
        await pilot.press("up")
        assert app.session.view.node == Node(2, 1)
        await pilot.press("down")
        assert app.session.view.node == Node(1, 9)
        position = app.session.playback.position
        await pilot.press("tab")
        assert isinstance(app.screen.focused, MapPane)
        await pilot.press("right")
        assert app.session.playback.position == position
        assert app.session.view.node != Node(1, 9)
        await pilot.press("escape", "right")
        assert app.session.playback.position == position + 1
        await pilot.press("4")
        assert isinstance(app.screen.focused, TextPane)
        await pilot.press("0")
        assert app.screen.focused is None


async def test_a_name_in_a_sentence_can_be_clicked(make) -> None:
    app = make()
    async with app.run_test(size=(120, 40)) as pilot:
        app.session.seek(70)
        app.session.look(lambda view: replace(view.select(Node(1, 20)), inspecting=True))
        app.session.notice = "Look at L1@7 instead."
        app.redraw()
        await pilot.pause()
        await pilot.click(StoryLine, offset=(12, 0))
        assert app.session.view.node == Node(1, 7)
        assert app.query_one(InspectorPane).display


# -- figures and sentences --------------------------------------------------------------------
def test_sparks_start_at_zero() -> None:
    assert spark([0.0, 0.0, 0.0], 3) == "▁▁▁"
    assert spark([0.985, 0.99], 2, 1.0) == "▇▇"
    assert spark([0.0, 1.0], 2) == "▁▇"


def test_one_spelling_of_a_level(session: ViewerState) -> None:
    said = "\n".join([*draw_map(session.frame(), 80, 6).lines(),
                      *draw_budget(session.frame(), 44, 9).lines()])  # fmt: skip
    assert "LOD" not in said
    assert "raw" in said


def test_nothing_moved_names_the_reason_of_the_best_candidate(fake, clock) -> None:
    def still(row) -> None:
        row.actions = row.actions[:0]

    source = fake(change=still)
    session = ViewerState(source, clock, unhurried=True)
    number = next(n for n in range(source.num_rows) if source.row(n).refused)
    session.seek(number)
    session.look(lambda view: view.select(None))
    assert ", refused: " in story(session.frame())[0]


def test_the_end_of_a_run_says_so(fake, clock) -> None:
    source = fake()
    source.raw[-1].trigger = int(Trigger.MANUAL)
    session = ViewerState(source, clock, unhurried=True)
    session.seek(source.num_rows - 1)
    assert story(session.frame())[0].startswith("The run ends here.")


def test_a_big_trace_opens_with_true_step_numbers(tmp_path, clock) -> None:
    path = tmp_path / "long.arrow"
    make_trace(path, rows=600, tokens=19_200, entries=1000, seed=1)
    session = ViewerState(FileSource(path), clock)
    session.play(lambda play: play.seek(play.last))
    frame = session.frame()
    lines = draw_waterfall(frame, 80, 20, texture=True).lines()
    assert frame.row is not None
    assert lines[-1][: LABEL - 1].strip() in (str(frame.row.step), f"·{frame.row.round + 1}")
