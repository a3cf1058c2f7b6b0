"""What a running engine and its commands did wrong in a day's trial (commit b5ed4f6), by number.

Each test acts as a person does and was seen to fail on that commit. The engine's halves of D1 and
D14 are in ``tests/core/runtime/test_asking.py``, a second viewer's pause of D13 in
``test_engine.py`` and ``test_truth.py``.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from screen import screen_lines, screen_text

from megacontext.traces.control import ControlError
from megacontext.tui.dev.pseudo_terminal import PseudoTerminal
from megacontext.tui.live.engine_control import EngineControl
from megacontext.tui.live.engine_process import EngineProcess

COMMAND = [sys.executable, "-m", "megacontext.tui.cli"]


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


async def test_d1_an_engine_that_waits_for_a_turn_says_so(start, fake) -> None:
    source = fake(mode="LIVE", visible=0)
    source.control.waits = True
    app = start(source)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        assert "WAITS FOR YOU" in screen_lines(app)[0]
        assert "starting" not in screen_text(app)


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
