"""What the title and the story line say is so now, and is never cut."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megacontext.tui.app import InspectorApp
from megacontext.tui.render.bars import draw_title
from megacontext.tui.render.bars import story as story_of
from megacontext.tui.state.frame import Status
from megacontext.tui.state.frame_builder import NOTICE_S
from megacontext.tui.state.viewer import ViewerState

LIVE = Status("LIVE", growing=True, controllable=True)
STATES = [
    (LIVE, ("● REC", "FOLLOW")),
    (replace(LIVE, paused=True), ("ENGINE PAUSED", "● REC", "FOLLOW")),
    (replace(LIVE, waits=True), ("WAITS FOR YOU", "● REC", "FOLLOW")),
    (replace(LIVE, growing=False, problem="It died."), ("✗ DISCONNECTED",)),
    (Status("FOLLOW", growing=True), ("● REC", "FOLLOW")),
    (replace(LIVE, growing=False, controllable=False), ("■ ENDED",)),
]


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize(("status", "words"), STATES)
def test_the_state_stands_first_and_is_never_cut(fake, clock, status, words, width) -> None:
    session = ViewerState(fake(mode="LIVE"), clock, unhurried=True)
    frame = session.frame()
    row = replace(frame.row, round=2, history=123_456_789)
    info = replace(frame.info, name="a-trace-with-a-rather-long-name-20261130-101500.arrow")
    frame = replace(frame, status=status, row=row, last_step=1_000_000, info=info)
    (line,) = draw_title(frame, width, 1).lines()
    assert line.split()[0] == status.mode
    places = [line.rindex(word) for word in words]
    assert places == sorted(places)
    assert "step" in line
    if width >= 120:
        assert "a-trace" in line


def test_a_replay_at_its_end_follows_nothing(fake, clock) -> None:
    session = ViewerState(fake(), clock, unhurried=True)
    session.play(lambda play: play.end())
    (line,) = draw_title(session.frame(), 80, 1).lines()
    assert "FOLLOW" not in line


def test_a_notice_expires_and_the_story_goes_on(fake, clock) -> None:
    source = fake(mode="LIVE", visible=20)
    session = ViewerState(source, clock, unhurried=True)
    session.notice = "The engine runs again."
    clock.now += NOTICE_S - 1
    session.tick()
    assert story_of(session.frame())[0] == "The engine runs again."
    clock.now += 2
    assert session.tick(), "the screen changes without a key"
    assert story_of(session.frame())[0] != "The engine runs again."


def test_what_is_waited_for_does_not_expire_before_it_comes(fake, clock) -> None:
    source = fake(mode="LIVE", visible=0)
    session = ViewerState(source, clock, unhurried=True)
    session.notice = "The engine is starting."
    clock.now += 10 * NOTICE_S
    session.tick()
    assert session.notice == "The engine is starting."
    source.control.waits = True
    session.tick()
    assert "waits for you" in story_of(session.frame())[0]
    source.control.waits = False
    source.visible = 1
    session.tick()
    assert session.notice == ""


async def test_an_engine_that_dies_at_once_ends_the_app_so_that_the_terminal_says_why(
    fake, clock
) -> None:
    source = fake(mode="LIVE", visible=0)
    app = InspectorApp(source, clock=clock, ticking=True, unhurried=True)
    async with app.run_test(size=(80, 24)) as pilot:
        source.problem = "The engine died (exit code 2): error: no such key."
        app.tick()
        await pilot.pause()
    assert app.return_value == "died"


async def test_the_second_viewers_first_p_resumes_what_another_paused(fake, clock) -> None:
    source = fake(mode="LIVE", visible=20)
    source.control.paused = True
    app = InspectorApp(source, clock=clock, ticking=False, unhurried=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("p")
        assert source.control.sent == [("resume",)]


def test_a_score_just_above_its_threshold_does_not_look_equal_to_it(story, clock) -> None:
    session = ViewerState(story(), clock, unhurried=True)
    frame = session.frame()
    assert frame.row is not None
    best = frame.row.latest_action()._replace(score=0.2004)
    frame = replace(frame, row=replace(frame.row, actions=(best,)))
    assert "+.2004 (expands above +.20)" in story_of(frame)[0]
