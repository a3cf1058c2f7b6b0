"""Every defect of a day's trial of the inspector (commit b5ed4f6), by its number.

Each test acts as a person does: keys and clicks go in, the screen, the clipboard or a file is
read. Each was seen to fail on that commit (the two taller terminals of
``test_a_pane_has_more_than_its_title`` on a later one). Elsewhere lie the engine's halves of D1
and D14 (``tests/core/runtime/test_asking.py``), a second viewer's pause of D13
(``test_engine.py``, ``test_truth.py``), contrast (``test_contrast.py``) and the tasks
(``test_tasks.py``).
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from screen import screen_lines, screen_text
from textual.events import MouseScrollDown

from megacontext.traces.control import ControlError
from megacontext.traces.schema import Trigger
from megacontext.tui.app import InspectorApp
from megacontext.tui.dev.pseudo_terminal import PseudoTerminal
from megacontext.tui.diff_app import DiffApp
from megacontext.tui.live.engine_control import EngineControl
from megacontext.tui.live.engine_process import EngineProcess
from megacontext.tui.sources.file_source import FileSource
from megacontext.tui.state.view import Node
from megacontext.tui.widgets import ActionsPane, BudgetPane, MapPane, TextPane, WaterfallPane

COMMAND = [sys.executable, "-m", "megacontext.tui.cli"]


@pytest.fixture
def start(clock):
    """Makes an app on a source; time stands still unless the clock is moved."""

    def build(source, **options) -> InspectorApp:
        return InspectorApp(source, clock=clock, ticking=False, unhurried=True, **options)

    return build


def pane_lines(app, kind) -> list[str]:
    """The lines of one pane, without its title."""
    region = app.query_one(kind).region
    return [
        line[region.x : region.right] for line in screen_lines(app)[region.y + 1 : region.bottom]
    ]


class Refusing:
    """An engine's channel that turns every command down."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, object]]] = []
        self._quiet = socket.socketpair()

    def send(self, command: str, **fields: object) -> dict[str, object]:
        self.seen.append((command, fields))
        raise ControlError("w_max: 10 cannot hold the smallest legal frontier; set it to 252.")

    def events(self) -> list[dict[str, object]]:
        return []

    def fileno(self) -> int:
        return self._quiet[0].fileno()

    def close(self) -> None:
        for end in self._quiet:
            end.close()


def answers_of(control: EngineControl) -> list[str]:
    """What was refused, once there is something."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if said := control.answers():
            return said
    raise AssertionError("nothing was refused")


def mc_tui(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=120, cwd=cwd
    )


# -- blockers -----------------------------------------------------------------------------------
def test_d2_live_does_not_replace_a_trace_that_is_there(small_trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.arrow"
    out.write_bytes(small_trace.read_bytes())
    (tmp_path / "README.md").write_text("some text " * 400)
    (tmp_path / "text.yaml").write_text("source: {kind: text, path: README.md}\n")
    terminal = PseudoTerminal.start(
        [*COMMAND, "live", "--config", str(tmp_path / "text.yaml"), "--out", str(out)],
        (80, 24),
        {"XDG_STATE_HOME": str(tmp_path)},
    )
    try:
        assert b"--overwrite" in terminal.read_through(b"--overwrite", 60)
    finally:
        terminal.stop()
    assert out.read_bytes() == small_trace.read_bytes()


# -- major --------------------------------------------------------------------------------------
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


async def test_d4_an_answer_of_the_story_line_expires_while_the_run_goes_on(
    start, fake, clock
) -> None:
    source = fake(mode="LIVE", visible=20)
    app = start(source)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("p", "p")
        await pilot.pause()
        assert "The engine runs again." in screen_text(app)
        for _ in range(15):
            clock.now += 1
            source.visible += 1
            app.tick()
        await pilot.pause()
        assert "The engine runs again." not in screen_text(app)


@pytest.mark.parametrize("width", [60, 80])
async def test_d5_a_paused_engine_is_said_at_80_columns(start, fake, width: int) -> None:
    source = fake(mode="LIVE", change=lambda row: setattr(row, "step", row.step + 1_000_000))
    source.info = replace(source.info, name="a-run-with-a-long-name-20261130-101500.arrow")
    app = start(source)
    async with app.run_test(size=(width, 24)) as pilot:
        await pilot.press("p")
        await pilot.pause()
        title = screen_lines(app)[0]
        assert "PAUSED" in title
        assert "REC" in title


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


async def test_d11_a_picture_without_colours_is_not_black_on_black(
    start, story, monkeypatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = start(story(), theme="mc-ansi")
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        assert "fill: #000000" not in app.export_screenshot()


def test_d12_a_second_engine_of_one_name_leaves_the_firsts_last_words(tmp_path: Path) -> None:
    code = "import sys; print('word {}'); sys.exit(2)"
    engines = [
        EngineProcess([sys.executable, "-c", code.format(n)], tmp_path / "run.arrow")
        for n in (1, 2)
    ]
    for engine in engines:
        assert engine.wait(30)
    assert [engine.problem()[-6:] for engine in engines] == ["word 1", "word 2"]


async def test_d13_o_says_that_the_engine_waits_afterwards(start, fake) -> None:
    source = fake(mode="LIVE", visible=20)
    app = start(source)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("question_mark")
        await pilot.pause()
        help_text = str(app.screen.query("Static").last().visual)
        assert re.search(r"one refocus, then wait", help_text), "o leaves the engine waiting"
        await pilot.press("escape", "o")
        await pilot.pause()
        assert "waits" in screen_text(app)


async def test_d14_a_knob_says_before_and_after(start, fake) -> None:
    source = fake(mode="LIVE", visible=20)
    app = start(source)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("k", *["backspace"] * 6, *"0.05", "enter")
        await pilot.pause()
        assert ("knob", "tau_expand", 0.05) in source.control.sent
        assert re.search(r"tau_expand 0\.\d+ → 0\.05", screen_text(app))


def test_d14_half_an_action_is_not_rounded_without_a_word() -> None:
    channel = Refusing()
    control = EngineControl(channel)
    control.knob("n_diff", 2.5)
    answers_of(control)
    control.detach()
    assert ("set", {"key": "focus.n_diff", "value": 2.5}) in channel.seen


async def test_d15_two_pictures_of_one_step_are_two_files(
    start, story, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app = start(story())
    async with app.run_test(size=(80, 24)) as pilot:
        for theme in ("mc-dark", "mc-light"):
            app.theme = theme
            await pilot.press("x")
            await pilot.press("s")
            await pilot.pause()
            for _ in range(200):
                if len(list(tmp_path.glob("*.svg"))) > (theme == "mc-light"):
                    break
                await pilot.pause(0.02)
        assert len(list(tmp_path.glob("*.svg"))) == 2
        assert not app.screen.query("Toast"), "it would hide what the story line says already"


async def test_d16_a_node_and_the_way_to_it_are_copied(start, story, monkeypatch) -> None:
    app = start(story())
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("c", "n")
        assert app.clipboard == "L1@5"
        await pilot.press("L")
        assert app.clipboard.endswith(" --at 36:L1@5")


def test_d16_marks_outlive_the_app(small_trace: Path, tmp_path: Path, clock) -> None:
    trace = tmp_path / "run.arrow"
    trace.write_bytes(small_trace.read_bytes())
    first = InspectorApp(FileSource(trace), clock=clock, ticking=False, unhurried=True).session
    first.play(lambda play: play.seek(7))
    first.set_marker()
    again = InspectorApp(FileSource(trace), clock=clock, ticking=False, unhurried=True).session
    assert 7 in {marker.row for marker in again.markers}


# -- minor --------------------------------------------------------------------------------------
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


async def test_a_constant_zero_is_drawn_at_the_bottom(start, fake) -> None:
    def still(row) -> None:
        row.actions = row.actions[:0]

    app = start(fake(change=still))
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("end")
        await pilot.pause()
        (swap,) = [line for line in pane_lines(app, BudgetPane) if line.startswith("swap")]
        assert set(swap) & set("▂▃▄▅▆▇█") == set()


async def test_a_mark_is_not_numbered_anew(start, small_trace: Path, tmp_path: Path) -> None:
    trace = tmp_path / "run.arrow"
    trace.write_bytes(small_trace.read_bytes())
    session = start(FileSource(trace)).session
    for row in (5, 5, 9):
        session.play(lambda play, row=row: play.seek(row))
        session.set_marker()
    labels = [m.label for m in session.markers if m.label.startswith("mark ")]
    assert labels == ["mark 1", "mark 2"]


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


async def test_a_finished_replay_follows_nothing(start, story) -> None:
    app = start(story())
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("end")
        await pilot.pause()
        assert "FOLLOW" not in screen_text(app)
        assert "follow" not in screen_lines(app)[-1], "nor does the footer offer it"


async def test_the_legend_shows_the_shades_that_are_used(start, story) -> None:
    app = start(story(), theme="mc-ansi")
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        text = screen_text(app)
        title = next(line for line in text.splitlines() if "Waterfall" in line)
        used = {glyph for line in pane_lines(app, WaterfallPane) for glyph in line[6:]}
        assert used & set("░▒▓█") <= set(title)
        assert title.count("█") <= 1


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


def test_answers_of_the_engine_name_no_raw_command() -> None:
    control = EngineControl(Refusing())
    control.knob("w_max", 10.0)
    (said,) = answers_of(control)
    control.detach()
    assert not said.startswith("set")
    assert "w_max: 10 cannot hold the smallest legal frontier" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("live", "--config", "a.yaml", "--attach", "b.arrow"), "both"),
        (("--version",), "mc-tui 0."),
        (("live", "--theme"), "mc-tui live --help"),
        (("serve", "--replay", "none.arrow", "--theme", "dark"), "none.arrow"),
    ],
)
def test_the_command_line_says_what_was_wrong(arguments: tuple[str, ...], says: str) -> None:
    done = mc_tui(*arguments)
    assert says in " ".join((done.stdout + done.stderr).split())


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
        await pilot.pause()
        text = screen_text(app)
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


def test_marker_labels_of_an_exported_page_are_whole(
    story, tmp_path: Path, small_trace: Path
) -> None:
    page = tmp_path / "run.html"
    done = subprocess.run(
        [sys.executable, "-m", "megacontext.core.cli", "trace", "export", str(small_trace),
         "--out", str(page)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    labels = re.findall(r'<text [^>]*class="dim">([^<]*planted[^<]*)</text>', page.read_text())
    assert labels
    assert not [label for label in labels if "@" in label], "cut within the tokens it is about"
