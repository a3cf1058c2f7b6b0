"""Two runs side by side under Pilot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from megacontext.tui.app import InspectorApp
from megacontext.tui.diff_app import DiffApp, DifferencePane
from megacontext.tui.state.frame import RunInfo
from megacontext.tui.state.run_comparison import config_differences, same_moment, texts_part_at
from megacontext.tui.widgets import TwoRunsPane


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


def strip(app: DiffApp) -> str:
    pane = app.query_one(DifferencePane)
    return "\n".join(pane.render_line(y).text for y in range(pane.size.height))


async def test_runs_of_other_texts_and_configs_are_told_apart(story, clock) -> None:
    a, b = story(), story(30)
    b.pieces_by_token[50] = " otherwise"
    a.info = replace(a.info, config="seed: 0\nlens: {kind: bm25}\nw_max: 96\n")
    b.info = replace(b.info, config="seed: 0\nlens: {kind: lensnet}\nw_max: 64\n")
    app = DiffApp(a, b, clock=clock, ticking=False, unhurried=True)
    async with app.run_test(size=(200, 50)) as pilot:
        assert "Texts differ from token 50 on" in strip(app)
        assert "lens.kind A bm25 B lensnet · w_max A 96 B 64" in strip(app)
        await pilot.press("end")
        assert "B ended at token 240" in strip(app)


@pytest.mark.parametrize(
    ("w_max", "expected"),
    [(96, "Texts differ from token 50 on. lens.kind A bm25 B lensnet"), (64, "+2 config keys")],
)
async def test_a_narrow_terminal_names_the_config_key_or_counts_them(
    story, clock, w_max: int, expected: str
) -> None:
    a, b = story(), story()
    b.pieces_by_token[50] = " otherwise"
    a.info = replace(a.info, config="lens: {kind: bm25, query_tokens: 32}\nw_max: 96\n")
    b.info = replace(b.info, config=f"lens: {{kind: lensnet, query_tokens: 32}}\nw_max: {w_max}\n")
    if w_max != 96:
        a.info = replace(a.info, config=a.info.config.replace("bm25", "a-lens-with-a-long-name"))
    app = DiffApp(a, b, clock=clock, ticking=False, unhurried=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        assert expected in strip(app)


async def test_equal_runs_say_so(story, clock) -> None:
    app = DiffApp(story(), story(), clock=clock, ticking=False, unhurried=True)
    async with app.run_test(size=(160, 45)) as pilot:
        await pilot.pause()
        assert "Same text, same config." in strip(app)


async def test_keys_go_to_the_next_difference_and_swap_the_leader(story, clock) -> None:
    a, b = story(), story()
    for row in b.raw[20:25]:
        row.actions = row.actions[:0]
    app = DiffApp(a, b, clock=clock, ticking=False, unhurried=True)
    async with app.run_test(size=(160, 45)) as pilot:
        await pilot.press("home", "right_curly_bracket")
        assert app.session.playback.position == 20
        await pilot.press("left_curly_bracket")
        assert app.session.playback.position == 19
        await pilot.press("right_curly_bracket", "backslash")
        assert app.leader == "B"
        assert app.session.playback.position == 20
        await pilot.press("right")
        assert [each.playback.position for each in app.sessions] == [21, 21]
        assert any("B leads" in str(pane.border_title) for pane in app.panes)
        await pilot.press("end", "right_curly_bracket")
        assert "No later difference" in app.session.notice


def test_configs_are_compared_key_by_key() -> None:
    a, b = RunInfo(config="x: {y: 1}\nsource: {a: 1}\n"), RunInfo(config="x: {y: 2, z: 3}\n")
    assert config_differences(a, b) == [
        ("x.y", "1", "2"), ("x.z", "–", "3"), ("source.a", "1", "–"),
    ]  # fmt: skip
    assert config_differences(RunInfo(config="{"), b) == []


def test_texts_part_where_the_first_token_differs(story) -> None:
    assert texts_part_at(story(), story(20)) is None


async def test_the_overview_has_lanes_of_both_runs_at_the_same_tokens(story, clock) -> None:
    first, second = story(), story(30)
    for row in second.raw:
        row.new_nll = row.new_nll + 100
    second.nll_by_token = second.nll_by_token + 100
    app = DiffApp(first, second, clock=clock, ticking=False, unhurried=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("home")
        await pilot.pause()
        pane = app.query_one(TwoRunsPane)
        lines = {line[:5]: line for line in (strip.text for strip in pane._strips)}
        assert {"NLL A", "NLL B", "swapA", "swapB"} <= set(lines)
        assert "≤10" in lines["NLL B"]
        bars = lines["NLL B"][7:112].replace("│", "")
        assert "·" not in bars, "after its end B stays at its newest row"
        y = next(y for y, strip in enumerate(pane._strips) if strip.text.startswith("NLL B"))
        await pilot.click(TwoRunsPane, offset=(70, y + 1))
        assert app.session.playback.position > 0
        await pilot.press("backslash")
        await pilot.pause()
        assert any(strip.text.startswith("NLL B") for strip in pane._strips)
        assert "Run B leads" in str(pane.border_title)
