"""The playback machine: any sequence of commands keeps it legal."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import hypothesis.strategies as st
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from megacontext.tui.state.playback import BASE_ROWS_PER_S, SPEEDS, Playback


class Machine(RuleBasedStateMachine):
    """All transitions in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.play = Playback()

    @rule(more=st.integers(0, 50))
    def grow(self, more: int) -> None:
        before = self.play
        self.play = before.grow(before.count + more)
        assert self.play.count == before.count + more
        if not before.following:
            assert self.play.position == before.position

    @rule(count=st.integers(0, 5))
    def a_shorter_source_never_shrinks_it(self, count: int) -> None:
        assert self.play.grow(min(count, self.play.count)).count == self.play.count

    @rule(elapsed=st.floats(-1, 30), finished=st.booleans())
    def tick(self, elapsed: float, finished: bool) -> None:
        before = self.play
        self.play = before.tick(elapsed, finished=finished)
        assert self.play.position >= before.position
        if not before.playing or elapsed <= 0:
            assert self.play == before
        if not finished and before.playing:
            assert self.play.playing

    @rule(row=st.integers(-10, 500))
    def seek(self, row: int) -> None:
        self.play = self.play.seek(row)
        assert not self.play.following

    @rule(rows=st.integers(-20, 20))
    def step(self, rows: int) -> None:
        before = self.play
        self.play = before.step(rows)
        assert not self.play.playing
        assert self.play.position == min(max(before.position + rows, 0), before.last)

    @rule()
    def home(self) -> None:
        self.play = self.play.home()
        assert self.play.position == 0

    @rule()
    def end(self) -> None:
        self.play = self.play.end()
        assert self.play.following

    @rule(live=st.booleans())
    def toggle_play(self, live: bool) -> None:
        before = self.play
        self.play = before.resume_live() if live else before.toggle_play()
        was_moving = before.playing or before.following
        assert (self.play.playing or self.play.following) != was_moving

    @rule()
    def toggle_follow_twice_comes_back(self) -> None:
        once = self.play.toggle_follow()
        assert once.following != self.play.following
        self.play = once.toggle_follow()
        assert self.play.following == (not once.following)

    @rule(up=st.booleans())
    def change_speed(self, up: bool) -> None:
        self.play = self.play.faster() if up else self.play.slower()

    @rule(rows=st.lists(st.integers(0, 60), max_size=6))
    def markers(self, rows: list[int]) -> None:
        rows = sorted({row for row in rows if row < self.play.count})
        here = self.play.position
        after, before = self.play.next_of(rows), self.play.previous_of(rows)
        if rows:
            place = bisect_right(rows, here)
            assert after.position == (rows[place] if place < len(rows) else rows[-1])
            place = bisect_left(rows, here)
            assert before.position == (rows[place - 1] if place else rows[0])
        else:
            assert after == before == self.play

    @invariant()
    def legal(self) -> None:
        play = self.play
        assert 0 <= play.position < max(play.count, 1)
        assert 0 <= play.carry < 1
        assert 0 <= play.speed < len(SPEEDS)

    @precondition(lambda self: self.play.following)
    @invariant()
    def following_is_at_the_end(self) -> None:
        assert self.play.position == self.play.last


TestPlayback = Machine.TestCase


@given(
    st.lists(st.floats(0.001, 1.0), min_size=1, max_size=30), st.sampled_from(range(len(SPEEDS)))
)
def test_many_small_ticks_go_as_far_as_their_sum(ticks: list[float], speed: int) -> None:
    play = Playback(count=10_000_000, playing=True, speed=speed)
    for tick in ticks:
        play = play.tick(tick)
    wanted = sum(ticks) * BASE_ROWS_PER_S * SPEEDS[speed]
    assert abs(play.position + play.carry - wanted) < 1e-6 * max(wanted, 1)


def test_playing_stops_at_the_end_of_a_finished_source() -> None:
    play = Playback(count=3, playing=True).tick(60.0)
    assert (play.position, play.playing) == (2, False)


def test_playing_again_at_the_end_starts_over() -> None:
    play = Playback(count=3, position=2).toggle_play()
    assert (play.position, play.playing) == (0, True)


def test_a_frozen_live_view_stays_while_rows_arrive() -> None:
    live = Playback().grow(10).end()
    frozen = live.resume_live().grow(20)
    assert (frozen.position, frozen.following, frozen.playing) == (9, False, False)


def test_following_sticks_to_the_newest_row() -> None:
    assert Playback().grow(10).end().grow(25).position == 24
