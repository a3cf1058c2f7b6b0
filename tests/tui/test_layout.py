"""Nothing is cut in the middle, and a pane that is alone has the screen."""

from __future__ import annotations

import pytest
from screen import pane_lines, screen_lines
from textual.widgets._footer import FooterKey

from megacontext.tui.app import InspectorApp
from megacontext.tui.render.bars import draw_story, draw_title
from megacontext.tui.screens.dialog import Dialog
from megacontext.tui.state.viewer import ViewerState
from megacontext.tui.widgets import KeyBar, OverviewPane


@pytest.fixture
def make(story, clock):
    """Makes an app on a source; time stands still."""
    return lambda source: InspectorApp(source, clock=clock, ticking=False, unhurried=True)


@pytest.mark.parametrize("mode", ["REPLAY", "LIVE"])
@pytest.mark.parametrize("width", [60, 71, 80, 100, 120, 200])
async def test_the_footer_has_whole_keys_only(make, story, width: int, mode: str) -> None:
    app = make(story(mode=mode))
    async with app.run_test(size=(width, 30)) as pilot:
        await pilot.pause()
        line = screen_lines(app)[-1]
        keys = list(app.query_one(KeyBar).query(FooterKey))
        assert [key.description for key in keys[:2]] == ["help", "quit"]
        for key in keys:
            assert f"{key.key_display} {key.description}" in line
        assert line.rstrip().endswith("^p palette")


async def test_a_wider_terminal_shows_more_keys(make, story) -> None:
    app = make(story())
    async with app.run_test(size=(60, 30)) as pilot:
        await pilot.pause()
        before = screen_lines(app)[-1]
        await pilot.resize_terminal(120, 30)
        await pilot.pause()
        await pilot.pause()
        assert "back" not in before
        assert "esc back" in screen_lines(app)[-1]


@pytest.mark.parametrize("size", [(80, 20), (80, 24), (120, 40)])
async def test_the_overview_alone_fills_the_screen(make, story, size: tuple[int, int]) -> None:
    app = make(story())
    async with app.run_test(size=size) as pilot:
        await pilot.press("7")
        await pilot.pause()
        lines = pane_lines(app, OverviewPane)
        assert len(lines) > size[1] - 9
        assert app.query_one(OverviewPane).region.y <= 4
        await pilot.press("0")
        await pilot.pause()
        assert app.query_one("#body").display
        assert app.query_one("#body").region.height > 8


def test_a_story_that_is_too_long_says_that_it_goes_on(story, clock) -> None:
    session = ViewerState(story(), clock, unhurried=True)
    frame = session.frame()
    whole = " ".join(" ".join(draw_story(frame, 200, 2).lines()).split())
    assert "…" not in whole
    short = " ".join(" ".join(draw_story(frame, 44, 2).lines()).split())
    assert short.endswith("…")
    assert whole.startswith(short[:-1].rstrip())


@pytest.mark.parametrize("width", range(34, 72, 3))
def test_the_title_has_whole_facts_only(story, clock, width: int) -> None:
    session = ViewerState(story(), clock, unhurried=True)
    frame = session.frame()
    assert frame.row is not None
    (line,) = draw_title(frame, width, 1).lines()
    facts = line[line.index("step") :].split("  ")
    assert facts[0] == f"step {frame.row.step}/{frame.last_step}"
    assert {fact.strip() for fact in facts[1:]} <= {f"tok {frame.row.history}", "decode", ""}


@pytest.mark.parametrize("key", ["e", "c", "x", "m", "k", "i", "slash", "question_mark"])
async def test_a_dialog_survives_the_smallest_terminals(make, story, key: str) -> None:
    app = make(story(mode="LIVE"))
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press(key)
        for size in ((7, 46), (20, 5), (10, 3), (120, 40)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
        assert isinstance(app.screen, Dialog)
