"""Pictures of whole screens. `pytest tests/tui/test_snapshots.py --snapshot-update` accepts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from textual.pilot import Pilot

from megacontext.tui.app import InspectorApp
from megacontext.tui.diff_app import DiffApp

SMALL, MEDIUM, LARGE = (80, 24), (120, 40), (200, 60)
FOUND = ["right_square_bracket", "f", "enter"]


@pytest.fixture
def picture(snap_compare, clock) -> Callable[..., bool]:
    """Runs an app on a source and compares its screen."""

    def compare(source, size, *, keys=(), theme="mc-dark", late: str = "") -> bool:
        app = InspectorApp(source, clock=clock, ticking=False, unhurried=True, theme=theme)

        async def before(pilot: Pilot) -> None:
            await pilot.press(*keys)
            if late:
                source.problem = late
            app.session.tick()
            app.redraw()
            await pilot.pause()

        return bool(snap_compare(app, terminal_size=size, run_before=before))

    return compare


@pytest.mark.parametrize("size", [SMALL, MEDIUM, LARGE])
def test_replay_with_the_needle_opened(picture, story, size) -> None:
    assert picture(story(), size, keys=FOUND)


@pytest.mark.parametrize("theme", ["mc-light", "mc-ansi"])
@pytest.mark.parametrize("size", [SMALL, MEDIUM])
def test_replay_in_other_themes(picture, story, size, theme) -> None:
    assert picture(story(), size, keys=FOUND, theme=theme)


@pytest.mark.parametrize("size", [SMALL, MEDIUM, LARGE])
def test_live_following(picture, story, size) -> None:
    assert picture(story(mode="LIVE"), size)


@pytest.mark.parametrize("size", [SMALL, MEDIUM])
def test_disconnected(picture, story, size) -> None:
    said = "The engine died (signal 9): out of memory while loading the model."
    assert picture(story(mode="LIVE"), size, late=said)


@pytest.mark.parametrize("size", [SMALL, MEDIUM])
def test_empty(picture, story, size) -> None:
    assert picture(story(0), size)


def test_waterfall_of_the_level_of_detail(picture, story) -> None:
    assert picture(story(), MEDIUM, keys=["end", "v", "3"])


def test_too_small_a_terminal(picture, story) -> None:
    assert picture(story(), (20, 5), keys=["end"])


def test_help(picture, story) -> None:
    assert picture(story(), SMALL, keys=["question_mark"])


def test_diff(snap_compare, story, clock) -> None:
    other = story()
    for row in other.raw:
        row.w_max = 128
    app = DiffApp(story(), other, clock=clock, ticking=False, unhurried=True)
    assert snap_compare(app, press=["right_square_bracket", "f"], terminal_size=(140, 44))
