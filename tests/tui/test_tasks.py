"""What people come for, with as few keys as it takes; and all of it again with the mouse alone.

The letters are those of the table in ``docs/tui.md``. Words that are typed into a prompt are not
counted as keys, since they are the question itself; the key that opens the prompt is, and enter.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from screen import click_on, screen_text

from megacontext.tui.app import InspectorApp
from megacontext.tui.diff_app import DiffApp
from megacontext.tui.state.view import Node
from megacontext.tui.widgets import (
    ActionsPane,
    InspectorPane,
    MapPane,
    OverviewPane,
    Scrubber,
    TextPane,
    WaterfallPane,
)

SIZES = [(80, 24), (120, 40)]


class Hand:
    """Presses keys on an app and counts them."""

    def __init__(self, app, pilot) -> None:
        self.app, self.pilot, self.keys = app, pilot, 0

    async def press(self, *keys: str) -> None:
        self.keys += len(keys)
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def type(self, words: str) -> None:
        await self.pilot.press(*words)

    async def click(self, text: str, **where) -> None:
        await click_on(self.pilot, text, **where)
        await self.pilot.pause()

    async def settle(self) -> None:
        """Let everything be read that a frame may want."""
        for _ in range(3):
            self.app.tick()
            await self.pilot.pause()

    async def screen(self) -> str:
        """The words on the screen, line breaks within sentences removed."""
        await self.settle()
        return screen_text(self.app)


@pytest.fixture
def open_app(clock):
    """Makes an app on a source, or on two; time stands still."""

    def build(*sources):
        kind = DiffApp if len(sources) > 1 else InspectorApp
        return kind(*sources, clock=clock, ticking=False, unhurried=True)

    return build


def inspector(app) -> str:
    """The inspector's words on one line."""
    return " ".join(" ".join(s.text for s in app.query_one(InspectorPane)._strips).split())


# -- by keys ------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", SIZES)
async def test_a_why_it_expanded_takes_three_keys(open_app, story, size) -> None:
    app = open_app(story())
    async with app.run_test(size=size) as pilot:
        hand = Hand(app, pilot)
        app.session.seek(30)
        app.session.look(lambda view: view.select(None))
        app.redraw()
        await hand.press("right_square_bracket", "f", "enter")
        await hand.settle()
        assert "Expanded in this step at +.90: above tau_expand" in inspector(app)
        assert hand.keys <= 3


@pytest.mark.parametrize("size", SIZES)
async def test_b_why_a_block_did_not_expand_takes_four_keys(open_app, story, size) -> None:
    app = open_app(story())
    async with app.run_test(size=size) as pilot:
        hand = Hand(app, pilot)
        await hand.press("g")
        await hand.type("L1@3")
        await hand.press("enter", "enter", "enter")
        await hand.settle()
        assert "Hidden inside L2@0 (+.10), which has to be expanded first." in inspector(app)
        assert hand.keys <= 4


async def test_b_the_next_refusal_takes_three_keys(open_app, story) -> None:
    app = open_app(story())
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.press("e", "x", "enter")
        await hand.settle()
        assert re.search(r"Not expanded although it scored \+\.\d+: ", inspector(app))
        assert hand.keys <= 4


@pytest.mark.parametrize(("task", "key", "lane"), [("c", "n", "nll"), ("d", "s", "swap")])
async def test_c_d_the_worst_moment_takes_two_keys(open_app, story, task, key, lane) -> None:
    source = story()
    app = open_app(source)
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.press("e", key)
        values = getattr(source.vitals(), lane)
        assert app.session.playback.position == int(np.nanargmax(values))
        assert hand.keys <= 2


@pytest.mark.parametrize("size", SIZES)
async def test_e_where_a_word_is_and_when_it_was_raw_takes_four_keys(open_app, story, size) -> None:
    source = story()
    app = open_app(source)
    async with app.run_test(size=size) as pilot:
        hand = Hand(app, pilot)
        await hand.press("slash")
        await hand.type("70956")
        await hand.press("enter", "enter", "enter")
        await hand.settle()
        assert hand.keys <= 4
        raw = [n for n in range(37) if source.row(n).after.state(Node(1, 5))[0] == "raw"]
        assert raw == [*range(5, 11), 36]
        assert "Raw in steps 5–10, now." in inspector(app)


async def test_f_the_next_difference_of_two_runs_takes_one_key(open_app, story) -> None:
    first, second = story(), story()
    second.raw[20].levels = np.zeros_like(second.raw[20].levels)
    app = open_app(first, second)
    async with app.run_test(size=(120, 40)) as pilot:
        hand = Hand(app, pilot)
        app.session.seek(0)
        app.redraw()
        await hand.press("right_curly_bracket")
        assert app.session.playback.position > 0
        assert hand.keys <= 1


async def test_g_a_knob_takes_two_keys_and_its_value(open_app, fake) -> None:
    source = fake(mode="LIVE", visible=20)
    app = open_app(source)
    async with app.run_test(size=(120, 40)) as pilot:
        hand = Hand(app, pilot)
        await hand.press("k")
        await hand.pilot.press(*["backspace"] * 8)
        await hand.type("0.05")
        await hand.press("enter")
        assert source.control.sent == [("knob", "tau_expand", 0.05)]
        assert hand.keys <= 2


async def test_h_copying_takes_two_keys(open_app, story) -> None:
    app = open_app(story())
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.press("c", "s")
        assert app.clipboard.startswith("▲ question about the harbour.")
        assert hand.keys <= 2


async def test_i_marking_and_sharing_takes_three_keys(open_app, story) -> None:
    app = open_app(story())
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.press("m", "enter", "L")
        assert app.session.marks.at(36) is not None
        assert app.clipboard.endswith("--at 36:L1@5")
        assert hand.keys <= 3


async def test_k_filtering_takes_two_keys_and_the_words(open_app, story) -> None:
    app = open_app(story())
    async with app.run_test(size=(120, 40)) as pilot:
        hand = Hand(app, pilot)
        await hand.press("F")
        await hand.type("swap")
        await hand.press("enter")
        assert app.session.view.log_filter == "swap"
        assert hand.keys <= 2


async def test_l_a_step_takes_two_keys_and_its_number(open_app, story) -> None:
    app = open_app(story())
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.press("g")
        await hand.type("17")
        await hand.press("enter")
        assert app.session.row.step == 17
        assert hand.keys <= 2


async def test_m_picture_and_table_take_two_keys_each(
    open_app, story, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app = open_app(story())
    async with app.run_test(size=(80, 24)) as pilot:
        hand = Hand(app, pilot)
        await hand.press("x", "p")
        await hand.press("x", "c")
        assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".csv"}
        assert hand.keys <= 4


# -- by mouse alone -----------------------------------------------------------------------------
@pytest.mark.parametrize("size", [(120, 40)])
async def test_everything_is_done_with_the_mouse_alone(
    open_app, story, size, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = story()
    app = open_app(source)
    async with app.run_test(size=size) as pilot:
        hand = Hand(app, pilot)
        footer = {"within": "quit"}
        await hand.settle()

        # a, b: the opening is selected; the footer drills in, a click chooses another block.
        await hand.click("drill", **footer)
        await hand.settle()
        assert "Expanded in this step" in inspector(app)
        x = app.query_one(MapPane).region.width // 3
        await pilot.click(MapPane, offset=(x, 2))
        await hand.settle()
        assert re.search(r"Stays|Not expanded|Hidden|Expanded:|No score", inspector(app))
        await hand.click("help", **footer)
        await hand.pilot.press("escape")

        # c, d: the worst moments by name; or a click on a lane's extreme.
        await hand.click("worst", **footer)
        await hand.click("highest swap rate")
        assert app.session.playback.position == int(np.nanargmax(source.vitals().swap))
        await pilot.click(OverviewPane, offset=(10, 4))

        # e: twice on a word.
        app.session.seek(36)
        app.session.look(lambda view: view.select(Node(1, 5)))
        app.redraw()
        await pilot.pause()
        lines = [strip.text for strip in app.query_one(TextPane)._strips]
        y = next(y for y, line in enumerate(lines) if "70956" in line)
        await pilot.click(TextPane, offset=(lines[y].index("70956") + 1, y + 1), times=2)
        await pilot.pause()
        assert app.session.view.needle == "70956"
        assert "hit 1 of 1" in screen_text(app)

        # h, i: copy, mark, share.
        await hand.click("copy", **footer)
        await hand.click("the selected node's name")
        assert app.clipboard == "L1@5"
        for words, then in (("mark this step", "ok"), ("copy the command that opens", "")):
            await hand.click("palette", **footer)
            await _choose(hand, words)
            if then:
                await hand.click(f"✓ {then}")
        assert app.session.marks.at(36) is not None
        assert app.clipboard.endswith(":L1@5")

        # k, l, m: filter, a step, a table.
        while app.session.view.inspecting:
            await hand.click("back", **footer)
        await hand.click("✗", within="forced")
        assert app.session.view.log_filter == "✗"
        await pilot.click(ActionsPane, offset=(4, 3))
        await pilot.click(Scrubber, offset=(app.size.width // 2, 0))
        position = app.session.playback.position
        await pilot.click(WaterfallPane, offset=(20, 1))
        assert app.session.playback.position < position
        await hand.click("palette", **footer)
        await _choose(hand, "save the screen")
        await hand.click("figures of every step")
        assert [path.suffix for path in tmp_path.iterdir()] == [".csv"]


async def _choose(hand: Hand, words: str) -> None:
    """Scroll the palette's list to a command with the wheel, then click on it."""
    from textual.widgets import OptionList

    for _ in range(50):
        await hand.pilot.pause(0.05)
        if words in screen_text(hand.app).lower():
            await hand.click(next(w for w in _cases(words) if w in screen_text(hand.app)))
            return
        hand.app.screen.query_one(OptionList).scroll_relative(y=4, animate=False)
    raise AssertionError(f"the palette does not offer {words!r}:\n{screen_text(hand.app)}")


def _cases(words: str) -> tuple[str, ...]:
    return words, words.capitalize()


async def test_a_knob_is_turned_and_a_difference_reached_with_the_mouse_alone(
    open_app, fake, story
) -> None:
    source = fake(mode="LIVE", visible=20)
    app = open_app(source)
    async with app.run_test(size=(120, 40)) as pilot:
        hand = Hand(app, pilot)
        await hand.settle()
        await hand.click("knobs", within="quit")
        await hand.click(" + ", shift=1, within="tau_expand")
        await hand.click("✓ ok")
        assert [sent[:2] for sent in source.control.sent] == [("knob", "tau_expand")]
    first, second = story(), story()
    second.raw[20].levels = np.zeros_like(second.raw[20].levels)
    app = open_app(first, second)
    async with app.run_test(size=(120, 40)) as pilot:
        hand = Hand(app, pilot)
        app.session.seek(0)
        app.redraw()
        await hand.settle()
        await hand.click("difference", within="quit")
        assert app.session.playback.position > 0
