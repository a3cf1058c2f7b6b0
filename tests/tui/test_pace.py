"""A live view redraws by itself within its share of the machine, and at least once a second."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from megacontext.tui.app import InspectorApp
from megacontext.tui.live import redraw_budget as pace
from megacontext.tui.live.redraw_budget import LONGEST_WAIT_S, Pace

TICK_S = 0.1


class Machine:
    """A clock and the CPU time of a viewer that draws whenever it may."""

    def __init__(self, share: float, draw_s: float, idle_s: float) -> None:
        self.now = self.cpu = 0.0
        self.draw_s, self.idle_s = draw_s, idle_s
        self.pace = Pace(lambda: self.now, lambda: self.cpu, share)
        self.drawn: list[float] = []

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.now += TICK_S
            self.cpu += self.idle_s
            if self.pace.due():
                self.drawn.append(self.now)
                self.cpu += self.draw_s


def test_cheap_pictures_are_drawn_at_every_tick() -> None:
    machine = Machine(share=0.12, draw_s=0.01, idle_s=0.0)
    machine.run(60)
    assert len(machine.drawn) == 600


def test_dear_pictures_keep_to_the_share() -> None:
    machine = Machine(share=0.015, draw_s=0.008, idle_s=0.0002)
    machine.run(60)
    assert machine.cpu / 60 <= 0.0155
    assert len(machine.drawn) >= 60


@given(
    draw_s=st.floats(0, 0.09),
    idle_s=st.floats(0, 0.09),
    share=st.floats(1e-4, 1.0),
    burst_s=st.floats(0, 100),
)
def test_a_picture_a_second_comes_whatever_it_costs(
    draw_s: float, idle_s: float, share: float, burst_s: float
) -> None:
    machine = Machine(share, draw_s, idle_s)
    machine.run(3)
    machine.cpu += burst_s  # a person jumped about
    machine.run(10)
    gaps = [b - a for a, b in zip(machine.drawn, machine.drawn[1:], strict=False)]
    assert max(gaps, default=0) <= LONGEST_WAIT_S + TICK_S + 1e-6
    assert machine.drawn[-1] >= 13 - LONGEST_WAIT_S - TICK_S - 1e-6


@given(st.floats(0, 1000))
def test_a_long_quiet_spell_saves_up_little(quiet_s: float) -> None:
    machine = Machine(share=0.01, draw_s=0.002, idle_s=0.0)
    machine.now += quiet_s
    machine.run(1)
    assert len(machine.drawn) <= 1 + 2 * LONGEST_WAIT_S * 0.01 / 0.002


def test_the_share_grows_with_the_machine(monkeypatch) -> None:
    monkeypatch.setattr(pace, "cores", lambda: 16)
    cpu = 0.0
    now = 0.0
    large = Pace(lambda: now, lambda: cpu)
    now, cpu = 0.1, 0.011
    assert large.due()


async def test_only_following_is_held_back(fake, clock) -> None:
    source = fake(mode="LIVE", visible=40)
    app = InspectorApp(source, clock=clock, ticking=False)
    async with app.run_test(size=(120, 40)) as pilot:
        assert app.session.only_follows
        await pilot.press("space")
        assert not app.session.only_follows
        await pilot.press("end", "f")
        assert not app.session.only_follows  # f looks at the past
        await pilot.press("end")
        assert not app.session.only_follows  # the selected node's life is unread
        app.tick()
        app.tick()
        assert app.session.only_follows


async def test_a_replay_is_never_held_back(fake, clock) -> None:
    app = InspectorApp(fake(), clock=clock, ticking=False)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("end")
        assert not app.session.only_follows
