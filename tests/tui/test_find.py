"""The worst moments of a run, and the next event of a kind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from megacontext.tui.state.find import EVENTS, EXTREMES, find, find_again, preview
from megacontext.tui.state.viewer import ViewerState


@pytest.fixture
def session(fake, clock) -> ViewerState:
    return ViewerState(fake(), clock, unhurried=True)


@pytest.mark.parametrize("key", EXTREMES)
def test_an_extreme_is_the_runs_own_and_the_next_one_follows_by_rank(
    session: ViewerState, key: str
) -> None:
    what = EXTREMES[key]
    values = session.run().lane(what.lane)
    best = np.nanmin(values) if what.lowest else np.nanmax(values)
    find(session, key)
    first = session.playback.position
    assert values[first] == best
    assert what.name in session.notice
    find_again(session, 1)
    second = session.playback.position
    assert second != first
    rest = np.delete(values, first)
    assert values[second] == (np.nanmin(rest) if what.lowest else np.nanmax(rest))
    find_again(session, -1)
    assert session.playback.position == first


@pytest.mark.parametrize("key", ["o", "x", "q"])
def test_events_are_walked_in_both_directions(session: ViewerState, key: str) -> None:
    session.play(lambda play: play.home())
    seen = []
    for _ in range(200):
        find(session, key)
        if session.playback.position in seen:
            break
        seen.append(session.playback.position)
        row = session.row
        assert row is not None
        assert {
            "o": any(a.kind == 0 and not a.forced for a in row.actions),
            "x": bool(row.refused),
            "q": "question" in row.marker,
        }[key]
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert "No later" in session.notice
    find(session, key, -1)
    assert session.playback.position == seen[-2]


def test_a_run_without_a_figure_says_so(fake, clock) -> None:
    def undrifted(row) -> None:
        row.kv_drift = None

    session = ViewerState(fake(change=undrifted), clock, unhurried=True)
    before = session.playback.position
    find(session, "d")
    assert session.playback.position == before
    assert session.notice == "No KV drift was recorded in this run."


def test_again_without_a_first_time_is_no_error(session: ViewerState) -> None:
    find_again(session, 1)
    assert "e lists" in session.notice


@pytest.mark.parametrize("key", EXTREMES)
def test_the_menu_says_where_an_extreme_is_before_one_goes_there(
    session: ViewerState, key: str
) -> None:
    words = preview(session, key)
    find(session, key)
    assert words.split(" at step ")[0] in session.notice
    assert words.endswith(f"at step {session.step_of(session.playback.position):,}")


@pytest.mark.parametrize("key", EVENTS)
def test_the_menu_counts_events(session: ViewerState, key: str) -> None:
    count = int(preview(session, key).split()[0])
    session.play(lambda play: play.home())
    find(session, key)
    assert f"of {count:,}" in session.notice


def test_the_menu_says_nothing_of_a_run_that_is_still_read(fake, clock) -> None:
    source = fake()
    session = ViewerState(source, clock, unhurried=True)
    known = source.vitals()
    source.vitals = lambda: replace(known, nll=known.nll[:5])
    assert preview(session, "n") == ""
