"""Two runs side by side under Pilot."""

from __future__ import annotations

import numpy as np
import pytest

from megacontext.tui.app import InspectorApp
from megacontext.tui.diff_app import DiffApp, DifferencePane, same_moment


async def test_the_diff_keeps_both_runs_at_the_same_history(fake, clock) -> None:
    a, b = fake(), fake(rows=50)
    app = DiffApp(b, a, clock=clock, ticking=False, unhurried=True)
    async with app.run_test(size=(160, 45)) as pilot:
        await pilot.press("home", *["right"] * 12)
        left, right = (session.row for session in app.sessions)
        assert left is not None
        assert right is not None
        assert left.history == right.history
        assert "same 100%" in "\n".join(
            app.query_one(DifferencePane).render_line(y).text for y in range(4)
        )
        await pilot.press("right_square_bracket", "f", "enter", "1", "0", "q")


@pytest.mark.parametrize("long_first", [True, False])
async def test_keys_of_the_diff_walk_along_the_longer_run(
    fake, clock, story, *, long_first: bool
) -> None:
    long, short = story(), story(30)
    app = DiffApp(
        *((long, short) if long_first else (short, long)),
        clock=clock,
        ticking=False,
        unhurried=True,
    )
    alone = InspectorApp(story(), clock=clock, ticking=False, unhurried=True)
    walk = ("right_square_bracket", "f", "full_stop", "full_stop", "end", "comma", "f", "comma")
    seen: list[list[tuple[int, object]]] = [[], []]
    for each, places in zip((alone, app), seen, strict=True):
        async with each.run_test(size=(140, 44)) as pilot:
            for key in walk:
                await pilot.press(key)
                places.append((each.session.playback.position, each.session.view.node))
            titles = [str(pane.border_title) for pane in each.panes]
    assert seen[0] == seen[1]
    assert max(place for place, _ in seen[1]) > 30
    assert any(f"{'A' if long_first else 'B'} leads" in title for title in titles)


def test_the_diff_aligns_by_tokens_then_by_round() -> None:
    leader = np.array([10, 20, 20, 20, 30, 50])
    follower = np.array([10, 20, 20, 40, 50])
    places = [same_moment(leader, place, follower) for place in range(len(leader))]
    assert places == [0, 1, 2, 2, 2, 4]
    assert same_moment(leader, 0, np.array([15])) == 0
    assert same_moment(np.array([], int), 0, follower) == 0
