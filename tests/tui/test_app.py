"""The app under Pilot: keys, mouse, layouts, screens. The clock is the test's own."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from megacontext.tui.app import InspectorApp
from megacontext.tui.commands import BY_ID, COMMANDS, FOOTER, key_label
from megacontext.tui.screens import ChoiceScreen, HelpScreen, HintScreen, KnobsScreen, PromptScreen
from megacontext.tui.screens.help import help_text
from megacontext.tui.sources.file_source import FileSource
from megacontext.tui.themes import THEME_NAMES
from megacontext.tui.widgets import (
    ActionsPane,
    HeatPane,
    InspectorPane,
    MapPane,
    Scrubber,
    TextPane,
    WaterfallPane,
)

Make = Callable[..., InspectorApp]
SIZES = [(80, 24), (120, 40), (200, 60)]


@pytest.fixture
def make(fake, clock) -> Make:
    def build(source=None, **options) -> InspectorApp:
        return InspectorApp(
            source if source is not None else fake(), clock=clock, ticking=False, unhurried=True,
            **options,
        )  # fmt: skip

    return build


async def until(pilot: Pilot, condition: Callable[[], bool]) -> None:
    """Let the app work until ``condition`` holds."""
    for _ in range(200):
        if condition():
            return
        await pilot.pause()
    raise AssertionError("the condition never held")


async def test_every_key_of_the_table_runs_without_an_error(make: Make) -> None:
    app = make()
    dialogs = {
        "search",
        "goto",
        "help",
        "search_next",
        "search_previous",
        "extremes",
        "filter",
        "mark",
        "copy",
    }
    plain = [c.key for c in COMMANDS if c.id not in {"quit", "export", *dialogs}]
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("right_square_bracket", *plain, *reversed(plain))
        for name in dialogs:
            await pilot.press(BY_ID[name].key)
            assert len(app.screen_stack) == 2
            await pilot.press("escape")
            await until(pilot, lambda: len(app.screen_stack) == 1)
        assert app.is_running


@pytest.mark.parametrize("taken", [False, True])
async def test_an_export_never_replaces_an_earlier_one(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    app = make()
    async with app.run_test(size=(80, 24)) as pilot:
        row = app.session.row
        assert row is not None
        picture = tmp_path / f"made-step{row.step}.svg"
        if taken:
            picture.write_text("an earlier picture")
        await pilot.press(BY_ID["export"].key, "s")
        await until(pilot, lambda: bool(app.session.notice))
        if taken:
            assert picture.read_text() == "an earlier picture"
            picture = tmp_path / f"made-step{row.step}-2.svg"
        assert app.session.notice == f"Screen saved as {picture.name}."
        assert "<svg" in picture.read_text()


async def test_a_screen_that_cannot_be_saved_is_not_called_saved(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app = make()
    async with app.run_test(size=(80, 24)) as pilot:
        monkeypatch.setattr(
            "megacontext.tui.tools_app.free_path", lambda *_: tmp_path / "no" / "x.svg"
        )
        (tmp_path / "no").write_text("a file, no folder")
        await pilot.press(BY_ID["export"].key, "s")
        await until(pilot, lambda: bool(app.session.notice))
        assert app.session.notice.startswith("The screen was not saved")


async def test_the_three_keys_show_the_opened_block(make: Make) -> None:
    app = make()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("right_square_bracket", "f", "enter")
        frame = app.shown
        assert frame.row is not None
        assert frame.view.node in [act.node for act in frame.row.actions if act.kind == 0]
        assert app.query_one(InspectorPane).display
        assert not app.query_one(ActionsPane).display
        assert "in this step" in "\n".join(_text(app, InspectorPane))


def _text(app: InspectorApp, kind: type) -> list[str]:
    pane = app.query_one(kind)
    return [pane.render_line(y).text for y in range(pane.size.height)]


@pytest.mark.parametrize("size", SIZES)
async def test_all_panes_fit_on_the_screen(make: Make, size: tuple[int, int]) -> None:
    app = make()
    async with app.run_test(size=size):
        for pane in app.panes:
            if pane.display:
                assert pane.region.width > 10
                assert pane.region.height >= 1
                assert pane.region.right <= size[0]
                assert pane.region.bottom <= size[1]
        assert app.query_one(WaterfallPane).size.height >= 3


async def test_shrinking_to_twenty_by_five_and_back_shows_the_same(make: Make) -> None:
    app = make()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("right_square_bracket", "f")
        await pilot.pause()
        before = _text(app, MapPane)
        await pilot.resize_terminal(20, 5)
        await until(pilot, lambda: app.size.width == 20)
        assert app.query_one(MapPane).display
        assert not app.query_one("#right").display
        await pilot.resize_terminal(120, 40)
        await until(pilot, lambda: app.query_one(MapPane).size.width > 60)
        assert _text(app, MapPane) == before


@pytest.mark.parametrize(("key", "kind"), [("1", MapPane), ("4", TextPane), ("6", InspectorPane)])
async def test_a_number_maximizes_a_pane_and_zero_resets(make: Make, key: str, kind: type) -> None:
    app = make()
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press(key)
        await pilot.pause()
        shown = [pane for pane in app.panes if 0 < pane.number < 7 and pane.region.area]
        assert [type(pane) for pane in shown] == [kind]
        assert shown[0].size.width > 90
        await pilot.press("0")
        await pilot.pause()
        assert len([pane for pane in app.panes if pane.number and pane.region.area]) == 5  # no heat


async def test_a_click_on_the_map_selects_the_node_under_it(make: Make) -> None:
    app = make()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("right_square_bracket")
        await pilot.click(MapPane, offset=(30, 3))
        frame = app.shown
        assert frame.view.node is not None
        assert frame.row is not None
        start, stop = frame.view.node.span(8)
        assert start <= (30 - 5 + 0.5) / (app.query_one(MapPane).size.width - 5) * frame.row.history
        assert stop > (30 - 5) / (app.query_one(MapPane).size.width - 5) * frame.row.history


async def test_dragging_the_scrubber_seeks(make: Make) -> None:
    app = make()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.click(Scrubber, offset=(60, 0))
        assert abs(app.shown.playback.position - app.source.num_rows // 2) <= 2


async def test_the_wheel_zooms_around_the_pointer(make: Make) -> None:
    app = make()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("right_square_bracket")
        whole = app.shown.view.window.span
        pane = app.query_one(MapPane)
        pane.post_message(pane.Zoomed(100, 0.5))
        await until(pilot, lambda: app.shown.view.window.span < whole)
        assert app.shown.view.window.start <= 100 < app.shown.view.window.stop


async def test_a_click_in_the_log_goes_to_that_action(make: Make) -> None:
    app = make()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("end")
        await pilot.click(ActionsPane, offset=(5, 1))
        assert app.shown.view.node is not None


async def test_searching_by_prompt_selects_a_hit(make: Make) -> None:
    app = make()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("end", "slash")
        await until(pilot, lambda: isinstance(app.screen, PromptScreen))
        app.screen.query_one(Input).value = "vault"
        await pilot.press("enter")
        await until(pilot, lambda: app.shown.view.node is not None)
        assert re.search(r"hit \d of 4, at token", app.shown.notice)


async def test_letters_typed_into_a_prompt_are_no_commands(make: Make) -> None:
    app = make()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("g")
        await until(pilot, lambda: isinstance(app.screen, PromptScreen))
        await pilot.press("q", "m", "space", "question_mark")
        assert app.is_running
        assert app.screen.query_one(Input).value == "qm ?"
        assert not app.session.marks.marks


async def test_help_explains_concepts_and_lists_every_command(make: Make) -> None:
    said = help_text().plain
    assert "gist" in said
    assert "budget" in said
    for command in COMMANDS:
        assert command.help in said
        assert key_label(command.key) in said
    app = make()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, HelpScreen))


async def test_the_hint_goes_with_any_key_and_swallows_it(make: Make) -> None:
    app = make(hint=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, HintScreen))
        await pilot.press("q")
        await until(pilot, lambda: not isinstance(app.screen, HintScreen))
        assert app.is_running


async def test_live_keys_exist_only_where_an_engine_listens(make: Make, fake) -> None:
    replay = make()
    async with replay.run_test(size=(120, 40)) as pilot:
        await pilot.press("p", "o", "k", "i")
        assert len(replay.screen_stack) == 1
    source = fake(mode="LIVE", visible=20)
    live = make(source)
    async with live.run_test(size=(120, 40)) as pilot:
        await pilot.press("p", "o", "p")
        assert [name for name, *_ in source.control.sent] == ["pause", "refocus", "resume"]
        assert "REC" in "\n".join(str(line) for line in _title(live))


def _title(app: InspectorApp) -> list[str]:
    return [app.panes[0].render_line(0).text]


async def test_knobs_send_only_what_changed(make: Make, fake) -> None:
    source = fake(mode="LIVE", visible=20)
    app = make(source)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("k")
        await until(pilot, lambda: isinstance(app.screen, KnobsScreen))
        app.screen.query_one("#n_diff", Input).value = "8"
        app.screen.query_one("#n_diff", Input).focus()
        await pilot.press("enter")
        await until(pilot, lambda: len(app.screen_stack) == 1)
        assert source.control.sent == [("knob", "n_diff", 8.0)]


async def test_typed_text_goes_to_the_engine(make: Make, fake) -> None:
    source = fake(mode="LIVE", visible=20)
    app = make(source)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("I")
        await until(pilot, lambda: isinstance(app.screen, PromptScreen))
        await pilot.press("h", "i", "enter")
        await until(pilot, lambda: bool(source.control.sent))
        assert source.control.sent == [("inject", "hi")]


@pytest.mark.parametrize(("key", "choice"), [("s", "stop"), ("d", "detach")])
async def test_leaving_a_live_session_asks_stop_or_detach(
    make: Make, fake, key: str, choice: str
) -> None:
    source = fake(mode="LIVE", visible=20)
    app = make(source)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, ChoiceScreen))
        await pilot.press(key)
    assert source.control.sent == [(choice,)]
    assert app.return_value == choice


async def test_a_live_view_follows_new_rows(make: Make, fake) -> None:
    source = fake(mode="LIVE", visible=20)
    app = make(source)
    async with app.run_test(size=(120, 40)):
        source.visible = 30
        app.tick()
        assert app.shown.playback.position == 29


async def test_when_the_engine_dies_the_view_stays_and_says_so(make: Make, fake) -> None:
    source = fake(mode="LIVE", visible=20)
    app = make(source)
    async with app.run_test(size=(120, 40)) as pilot:
        before = _text(app, MapPane)
        source.problem = "The engine died (signal 9): CUDA out of memory."
        source.visible = 21
        app.tick()
        await pilot.pause()
        assert "DISCONNECTED" in _title(app)[0]
        assert "out of memory" in app.export_screenshot().replace("&#160;", " ")
        assert len(before) == len(_text(app, MapPane))
        await pilot.press("left", "left")
        assert app.shown.playback.position == 18


async def test_a_trace_that_gets_its_first_row_comes_to_life(make: Make, fake) -> None:
    source = fake(mode="FOLLOW", visible=0)
    app = make(source)
    async with app.run_test(size=(80, 24)):
        assert app.shown.row is None
        source.visible = 1
        app.tick()
        assert app.shown.row is not None


async def test_themes_change_colours_but_no_cell(make: Make) -> None:
    app = make()
    async with app.run_test(size=(120, 40)) as pilot:
        seen = {}
        for name in THEME_NAMES:
            app.theme = name
            await pilot.pause()
            seen[name] = _text(app, MapPane)
        assert len({tuple(lines) for lines in seen.values()}) == 1


async def test_the_command_palette_offers_the_table(make: Make) -> None:
    app = make()
    async with app.run_test(size=(120, 40)):
        titles = [command.title for command in app.get_system_commands(app.screen)]
        assert "Find: find text in the history" in titles
        assert not [title for title in titles if title.startswith("Live engine")]


def test_command_ids_and_keys_are_unique() -> None:
    keys = [key for command in COMMANDS for key in command.key.split(",")]
    assert len(set(keys)) == len(keys)
    assert len(BY_ID) == len(COMMANDS)
    assert set(FOOTER) <= set(BY_ID)


async def test_the_screen_is_saved_as_svg(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app = make()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("x", "s")
        row = app.session.row
        assert row is not None
        saved = tmp_path / f"made-step{row.step}.svg"
        await until(pilot, saved.exists)
        assert saved.name in app.shown.notice
    assert "<svg" in saved.read_text()


async def test_without_colours_scores_are_told_by_glyphs(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = make(theme="mc-ansi")
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("end")
        await pilot.pause()
        assert app.no_color
        seen = "".join(_text(app, HeatPane) + _text(app, WaterfallPane))
        assert {"░", "█"} <= set(seen)


async def test_the_picture_moves_with_playback(make: Make, clock) -> None:
    app = make()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("home", "space")
        before = _text(app, MapPane)
        clock.now += 10
        app.tick()
        await pilot.pause()
        assert app.shown.playback.position == 40
        assert _text(app, MapPane) != before


@pytest.mark.parametrize("size", [(80, 17), (100, 14), (50, 30)])
async def test_a_pane_alone_is_there_on_the_smallest_terminals_too(make: Make, size) -> None:
    app = make()
    async with app.run_test(size=size) as pilot:
        for key in "234568":
            await pilot.press(key)
            shown = [pane for pane in app.panes if pane.has_class("-max") and pane.region.area]
            assert shown, f"key {key}"


async def test_the_lanes_of_a_finished_run_are_read_between_ticks(
    small_trace: Path, monkeypatch
) -> None:
    monkeypatch.setattr("megacontext.tui.app.TICKS_PER_S", 1e-6)
    monkeypatch.setattr("megacontext.traces.vitals.GROUP", 1)
    source = FileSource(small_trace)
    app = InspectorApp(source, clock=count().__next__)  # one group of batches takes the slice
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: source.vitals().num_rows == source.num_rows)
        await until(pilot, lambda: app.shown.run.vitals.num_rows == source.num_rows)
        assert not app.session.reads_ahead
    source.close()
