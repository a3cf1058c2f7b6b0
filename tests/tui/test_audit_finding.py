"""What could not be found in a day's trial (commit b5ed4f6): moments, actions, reasons; by number.

Each test acts as a person does and was seen to fail on that commit; the tasks are in
``test_tasks.py``.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from screen import pane_lines, screen_lines, screen_text
from textual.events import MouseScrollDown

from megacontext.traces.schema import Trigger
from megacontext.tui.app import InspectorApp
from megacontext.tui.diff_app import DiffApp
from megacontext.tui.state.view import Node
from megacontext.tui.widgets import ActionsPane, WaterfallPane


async def test_d3_a_run_opens_on_its_first_questions_answer(start, story) -> None:
    app = start(story())
    async with app.run_test(size=(120, 40)):
        assert "step 36/47" in screen_text(app)
        assert "L1@5" in screen_text(app)


async def test_d3_a_run_without_questions_opens_where_most_moved(start, fake) -> None:
    source = fake(change=lambda row: setattr(row, "marker", None))
    moved = [sum(not act.forced for act in source.row(n).actions) for n in range(source.num_rows)]
    app = start(source)
    async with app.run_test(size=(120, 40)):
        assert moved[app.session.playback.position] == max(moved) > 0


async def test_d6_the_log_scrolls_and_lists_refusals_of_earlier_steps(start, story) -> None:
    app = start(story())
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("end")
        await pilot.pause()
        before = pane_lines(app, ActionsPane)
        assert before
        pane = app.query_one(ActionsPane)
        x, y = pane.region.x + 2, pane.region.y + 2
        for _ in range(5):
            wheel = MouseScrollDown(pane, x, y, 0, 1, 0, False, False, False, x, y)
            pane._forward_event(wheel)
            await pilot.pause()
        after = pane_lines(app, ActionsPane)
        assert after != before
        steps = {int(found[1]) for line in after if (found := re.match(r"\s*(\d+).*✗", line))}
        assert steps
        assert max(steps) < 47


@pytest.mark.parametrize(("key", "name"), [("n", "nll"), ("s", "swap")])
async def test_d7_two_keys_go_to_the_worst_moment(start, story, key: str, name: str) -> None:
    source = story()
    app = start(source)
    rows = [source.row(n) for n in range(source.num_rows)]  # one round a step
    swap = [sum(not a.forced for a in r.actions) / (r.before.levels == 0).sum() for r in rows]
    worst = np.nanargmax(swap if name == "swap" else [row.nll for row in rows])
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("home", "e", key)
        await pilot.pause()
        assert app.session.playback.position == worst


async def test_d7_the_whole_run_is_on_the_screen(start, story) -> None:
    app = start(story())
    async with app.run_test(size=(80, 24)):
        assert re.search(r"^NLL .*≤", screen_text(app), re.MULTILINE)


async def test_d8_diff_says_that_the_texts_differ_and_goes_to_differences(story, clock) -> None:
    first, second = story(), story()
    second.pieces_by_token = ["other", *second.pieces_by_token[1:]]
    second.raw[20].levels = np.zeros_like(second.raw[20].levels)
    app = DiffApp(first, second, clock=clock, ticking=False, unhurried=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        assert "differ from token 0 on" in screen_text(app)
        await pilot.press("home")
        before = app.session.playback.position
        await pilot.press("right_curly_bracket")
        assert app.session.playback.position > before
        await pilot.press("question_mark")
        await pilot.pause()
        assert "Two runs" in str(app.screen.query("Static").last().visual)


async def test_d9_a_click_in_the_waterfall_goes_to_that_time(start, story) -> None:
    app = start(story())
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("end")
        await pilot.pause()
        lines = pane_lines(app, WaterfallPane)
        y, step = next((y, int(found[0])) for y, line in enumerate(lines)
                       if (found := re.findall(r"^ *(\d+) ", line)))  # fmt: skip
        await pilot.click(WaterfallPane, offset=(20, y + 1))
        await pilot.pause()
        assert abs(app.session.row.step - step) <= 1
        assert app.session.row.step < 47


async def test_d10_step_labels_are_whole(start, fake) -> None:
    app = start(fake(change=lambda row: setattr(row, "step", row.step + 12_400)))
    async with app.run_test(size=(200, 60)) as pilot:
        await pilot.press("end")
        await pilot.pause()
        labels = [found[1] for line in pane_lines(app, WaterfallPane)
                  if (found := re.match(r"\s*(\d+)\s", line))]  # fmt: skip
        assert labels
        assert all(12_400 <= int(label) <= 12_500 for label in labels)


async def test_d10_labels_of_rows_that_are_unread_are_steps_too(fake, clock) -> None:
    source = fake()
    steps = set(source.scalars.step.tolist())
    for row in source.raw:  # steps far from row numbers
        row.step += 500
    app = InspectorApp(source, clock=lambda: clock.now, ticking=False)
    ticking = iter(range(10**9))
    app.session.clock = lambda: next(ticking)  # no time for reading more than one row
    async with app.run_test(size=(200, 60)) as pilot:
        await pilot.press("end")
        await pilot.pause()
        labels = {int(found[1]) for line in pane_lines(app, WaterfallPane)
                  if (found := re.match(r"\s*(\d+)\s", line))}  # fmt: skip
        assert labels
        assert labels <= {step + 500 for step in steps}


async def test_the_end_of_a_run_says_that_it_ends(start, story) -> None:
    source = story()
    source.raw[-1].trigger = int(Trigger.MANUAL)
    app = start(source)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("end", "escape")
        await pilot.pause()
        assert "manual" not in screen_text(app)
        assert "The run ends here" in screen_text(app)


async def test_nothing_moved_names_the_reason(start, story) -> None:
    source = story()
    app = start(source)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("home")
        app.session.look(lambda view: view.select(None))
        app.redraw()
        await pilot.pause()
        assert re.search(r"Nothing moved;[^.]*\+?\.\d+[^.]*: (cooldown|gain|budget|no gain|n_diff)",
                         " ".join(screen_text(app).split()))  # fmt: skip


async def test_a_finished_replay_follows_nothing(start, story) -> None:
    app = start(story())
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("end")
        await pilot.pause()
        assert "FOLLOW" not in screen_text(app)
        assert "follow" not in screen_lines(app)[-1], "nor does the footer offer it"


async def test_a_refusal_to_collapse_has_no_double_negation(start, story) -> None:
    app = start(story())
    async with app.run_test(size=(120, 40)) as pilot:
        said = set()
        await pilot.press("end", "6")
        for index in range(42, 48):
            app.session.look(lambda view, i=index: view.select(Node(1, i)))
            app.redraw()
            await pilot.pause()
            said.add(" ".join(screen_text(app).split()))
        raw = [text for text in said if "Stays raw" in text]
        assert raw
        assert not [text for text in raw if re.search(r"= -|above −tau|above -tau", text)]
