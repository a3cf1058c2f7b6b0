"""What was drawn wrongly in a day's trial (commit b5ed4f6): the list of minor defects.

Each test reads the screen and was seen to fail on that commit (the two taller terminals of
``test_a_pane_has_more_than_its_title`` on a later one). Contrast is in ``test_contrast.py``.
"""

from __future__ import annotations

import re

import pytest
from screen import pane_lines, screen_text

from megacontext.tui.state.view import Node
from megacontext.tui.widgets import BudgetPane, MapPane, TextPane, WaterfallPane


@pytest.mark.parametrize("width", [80, 120])
async def test_axis_numbers_keep_off_the_selection(start, story, width: int) -> None:
    app = start(story())
    async with app.run_test(size=(width, 40)) as pilot:
        for index in range(37):
            app.session.look(lambda view, i=index: view.select(Node(1, i)))
            app.redraw()
            await pilot.pause()
            axis = next(line for line in pane_lines(app, MapPane) if f"L1@{index}" in line)
            assert re.search(rf"(^|[ ▲┘]) ?L1@{index}( {{2}}| └| ▲| *$)", axis), axis
            assert not re.search(r"[└▲]\d|\d[└┘▲]|─\d", axis), axis


async def test_a_constant_zero_is_drawn_at_the_bottom(start, fake) -> None:
    def still(row) -> None:
        row.actions = row.actions[:0]

    app = start(fake(change=still))
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("end")
        await pilot.pause()
        (swap,) = [line for line in pane_lines(app, BudgetPane) if line.startswith("swap")]
        assert set(swap) & set("▂▃▄▅▆▇█") == set()


async def test_signs_keep_their_colour_on_bright_cells(start, story) -> None:
    app = start(story())
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("end")
        await pilot.pause()
        pane = app.query_one(WaterfallPane)
        colours = {}
        for y in range(pane.size.height):
            for segment in pane.render_line(y):
                for sign in {"+", "−"} & set(segment.text):
                    colours.setdefault(sign, set()).add(segment.style.color.name)
        assert {len(found) for found in colours.values()} == {1}
        assert len(colours) == 2
        assert colours["+"] != colours["−"]


async def test_a_later_round_has_a_label_of_its_own(start, fake) -> None:
    source = fake()
    number = next(n for n in range(source.num_rows) if source.row(n).round)
    app = start(source, theme="mc-ansi")  # one row of the trace per line
    async with app.run_test(size=(120, 40)) as pilot:
        app.session.play(lambda play: play.seek(number))
        app.redraw()
        await pilot.pause()
        labels = [line[:6].strip() for line in pane_lines(app, WaterfallPane)]
        assert [label for label in labels if label][-1] == "·2"


async def test_the_legend_shows_the_shades_that_are_used(start, story) -> None:
    app = start(story(), theme="mc-ansi")
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        text = screen_text(app)
        title = next(line for line in text.splitlines() if "Waterfall" in line)
        used = {glyph for line in pane_lines(app, WaterfallPane) for glyph in line[6:]}
        assert used & set("░▒▓█") <= set(title)
        assert title.count("█") <= 1


async def test_ctrl_c_leaves_as_q_does(start, story) -> None:
    app = start(story())
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("ctrl+c")
        await pilot.pause()
        assert app.return_value == ""
        assert not app.is_running or app._exit


@pytest.mark.parametrize("size", [(79, 17), (60, 16), (40, 12)])
async def test_a_low_terminal_has_a_story_and_a_way_out(start, story, size) -> None:
    app = start(story())
    async with app.run_test(size=size) as pilot:
        for _ in range(100):  # a busy machine paints the footer later
            await pilot.pause(0.02)
            text = screen_text(app)
            if re.search(r"\bq\b", text):
                break
        assert re.search(r"[Tt]he lens gave|After a|▲", text)
        assert re.search(r"\bq\b", text)


@pytest.mark.parametrize("height", [18, 20, 24])
async def test_a_pane_has_more_than_its_title(start, story, height: int) -> None:
    app = start(story())
    async with app.run_test(size=(80, height)) as pilot:
        await pilot.pause()
        for pane in app.panes:
            if pane.region.height and pane.number:
                assert pane.size.height >= 1, f"{type(pane).__name__} is only a title"


async def test_combining_marks_stay_on_their_letters(start, story) -> None:
    source = story()
    source.pieces_by_token[36 * 8 : 37 * 8] = [" cafe\u0301"] * 8
    app = start(source)
    async with app.run_test(size=(120, 40)) as pilot:
        app.session.look(lambda view: view.select(None))
        app.redraw()
        await pilot.pause()
        assert "cafe\u0301" in screen_text(app)


async def test_code_is_shown_with_its_lines(start, story) -> None:
    source = story()
    code = ["def f():", "\n", "    return", " 1", "\n", "x", " =", " 2"]
    source.pieces_by_token[36 * 8 : 37 * 8] = code
    app = start(source)
    async with app.run_test(size=(120, 40)) as pilot:
        app.session.look(lambda view: view.select(None))
        app.redraw()
        await pilot.pause()
        lines = [line.rstrip() for line in pane_lines(app, TextPane)]
        assert any(line.endswith("def f():") for line in lines)
        assert "    return 1" in lines


async def test_one_spelling_of_a_level(start, story) -> None:
    app = start(story())
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        assert "LOD" not in screen_text(app)
        assert "L2+" not in screen_text(app)
