"""The command line: help with examples, errors in one sentence, no torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from megacontext.traces.errors import ConfigError
from megacontext.traces.files import is_locked
from megacontext.traces.meta import TraceMeta
from megacontext.traces.paths import lock_path
from megacontext.traces.synthetic import SyntheticRun
from megacontext.traces.writer import TraceWriter
from megacontext.tui.dev.capture import SHOTS
from megacontext.tui.dev.pseudo_terminal import PseudoTerminal
from megacontext.tui.launch import (
    TerminalError,
    choose_trace,
    forget_old_size,
    is_first_run,
    pick_theme,
)
from megacontext.tui.live.connect import Start
from megacontext.tui.live.serve import HOST, command_of, serve
from megacontext.tui.screens.runs import RunsApp, newest_runs


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "megacontext.tui.cli", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | env,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("command", ["live", "replay", "diff", "serve"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert f"mc-tui {command}" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay"],
        ["replay", "x.arrow", "--what"],
        ["nonsense"],
        ["live"],
        ["live", "--config", "a.yaml", "--attach", "b.arrow"],
        ["serve"],
        ["serve", "--replay", "missing.arrow"],
        ["serve", "--replay", "a", "--config", "b"],
        ["serve", "--replay", "a", "--port", "0"],
        ["serve", "--config", "missing.yaml"],
        ["replay", "missing.arrow"],
    ],
)
def test_bad_arguments_are_one_sentence_and_exit_code_two(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("mc-tui: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["live", "--config", "a.yaml", "--attach", "b.arrow"], "drop one of them"),
        (["live"], "give one of them"),
        (["live", "--what"], "See mc-tui live --help."),
        (["nonsense"], "See mc-tui --help."),
        (["serve", "--replay", "x", "--port", "0"], "See mc-tui serve --help."),
    ],
)
def test_a_usage_error_says_what_to_do(arguments: list[str], says: str) -> None:
    assert says in run(*arguments).stderr


def test_the_version_is_the_packages() -> None:
    assert run("--version").stdout == f"mc-tui {metadata.version('megacontext')}\n"


def test_without_a_terminal_it_says_what_else_there_is(small_trace: Path) -> None:
    done = run("replay", str(small_trace))
    assert done.returncode == 2
    assert "needs a terminal" in done.stderr
    assert "trace info" in done.stderr


def test_debug_shows_the_traceback(small_trace: Path) -> None:
    done = run("replay", str(small_trace), "--debug")
    assert "Traceback" in done.stderr


def test_replay_never_imports_torch_or_the_engine(small_trace: Path) -> None:
    script = f"""
import asyncio, sys
from pathlib import Path
import megacontext.tui.cli, megacontext.tui.live.connect, megacontext.tui.launch
from megacontext.tui.app import InspectorApp
from megacontext.tui.sources.file_source import FileSource
async def main():
    app = InspectorApp(FileSource(Path({str(small_trace)!r})))
    async with app.run_test() as pilot:
        await pilot.press("right_square_bracket", "f", "enter")
asyncio.run(main())
bad = [m for m in sys.modules if m.split(".")[0] in ("torch", "transformers")
       or m.startswith(("megacontext.core", "megacontext.simulator"))]
assert not bad, bad
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: p.mkdir(), "folder"),
        (lambda p: p.write_bytes(b""), "empty"),
        (lambda p: p.write_bytes(b"no trace at all"), "not an Arrow"),
    ],
)
def test_files_that_are_no_traces_are_named(tmp_path: Path, make, says: str) -> None:
    path = tmp_path / "thing.arrow"
    make(path)
    done = run("serve", "--replay", str(path))
    assert done.returncode == 2
    assert says in done.stderr


def test_the_theme_follows_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLORTERM", "truecolor")
    assert pick_theme("") == "mc-dark"
    monkeypatch.setenv("COLORTERM", "")
    monkeypatch.setenv("TERM", "xterm")
    assert pick_theme("") == "mc-ansi"
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    assert pick_theme("") == "mc-ansi"
    assert pick_theme("light") == "mc-light"
    with pytest.raises(TerminalError, match="choose one of dark, light, ansi"):
        pick_theme("pink")


def test_the_first_run_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert is_first_run()
    assert not is_first_run()


def test_a_size_left_in_the_environment_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.delenv("LINES", raising=False)
    monkeypatch.delenv("TEXTUAL_DRIVER", raising=False)
    forget_old_size()
    assert "COLUMNS" not in os.environ
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setenv("TEXTUAL_DRIVER", "web")
    forget_old_size()
    assert os.environ["COLUMNS"] == "70"


def test_serve_runs_this_app_on_this_machine_only(small_trace: Path) -> None:
    assert HOST == "127.0.0.1"
    command = command_of(small_trace, None, "mc-light")
    assert command[1:] == [
        "-m", "megacontext.tui.cli", "replay", str(small_trace), "--theme", "mc-light",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="exactly one"):
        serve(replay=None, start=None, attach=None, port=8400, theme="")


def test_under_serve_one_engine_runs_for_all_tabs_and_ends_with_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, trace = tmp_path / "run.yaml", tmp_path / "t.arrow"
    config.write_text("seed: 0\n")
    script = (
        "import signal; from pathlib import Path; from megacontext.traces.target import claim\n"
        f"claim(Path({str(trace)!r}), overwrite=False); signal.pause()"
    )
    monkeypatch.setattr(
        "megacontext.tui.live.connect.engine_command", lambda *_: [sys.executable, "-c", script]
    )
    served: list[tuple[list[str], bool]] = []

    class Server:
        def __init__(self, command: str, **_: object) -> None:
            self.command = command

        def serve(self) -> None:
            served.append((self.command.split(), is_locked(lock_path(trace))))

    monkeypatch.setitem(sys.modules, "textual_serve.server", SimpleNamespace(Server=Server))
    start = Start(config, trace)
    serve(replay=None, start=start, attach=None, port=8400, theme="dark")
    ((command, running),) = served
    assert running, "the engine was there before the first tab"
    assert command[3:6] == ["live", "--attach", str(trace)], "a tab joins it and starts none"
    assert not is_locked(lock_path(trace)), "and it ended with the server"


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_a_real_terminal_shows_the_run_and_obeys_keys(small_trace: Path, tmp_path: Path) -> None:
    socket = str(tmp_path / "tmux")

    def tmux(*arguments: str) -> str:
        return subprocess.run(
            ["tmux", "-S", socket, *arguments], capture_output=True, text=True, check=False
        ).stdout

    state = tmp_path / "state"
    (state / "megacontext").mkdir(parents=True)
    (state / "megacontext" / "inspector-seen").touch()
    env = f"XDG_STATE_HOME={state} COLUMNS=70 LINES=20"  # the size as a shell leaves it behind
    command = f"{env} {sys.executable} -m megacontext.tui.cli replay {small_trace}"
    tmux("new-session", "-d", "-x", "120", "-y", "40", command)
    try:
        screen = _see(tmux, "Map: all")
        assert {len(line) for line in screen.splitlines()} >= {120}
        tmux("send-keys", "]", "f", "Enter")
        screen = _see(tmux, "Inspector: the life of")
        assert "in this step" in screen
        tmux("resize-window", "-x", "20", "-y", "5")
        _see(tmux, "raw", but_not="Inspector")
        tmux("resize-window", "-x", "100", "-y", "30")
        screen = _see(tmux, "Inspector: the life of")
        assert {len(line) for line in screen.splitlines()} >= {100}
        tmux("send-keys", "q")
        for _ in range(600):
            if "no server" in tmux("ls") or not tmux("ls"):
                return
        raise AssertionError("q did not leave")
    finally:
        tmux("kill-server")


def test_no_escape_sequence_of_the_text_reaches_the_terminal(tmp_path: Path) -> None:
    trace = tmp_path / "hostile.arrow"
    hostile = ["\x1b]0;taken\x07", "\x1b[2Jgone", "\x9b31m", "\u202eback", "\x00\x08", " e\u0301 "]
    with TraceWriter(trace, TraceMeta(block_size=8, w_max=160, levels=3).to_metadata()) as writer:
        for row in list(SyntheticRun(tokens=160, w_max=160, block_size=8).rows())[:12]:
            row.new_text = [hostile[i % len(hostile)] for i in range(len(row.new_text))]
            row.marker = "".join(hostile)
            writer.put(row)
    (tmp_path / "megacontext").mkdir()
    (tmp_path / "megacontext" / "inspector-seen").touch()
    command = [sys.executable, "-m", "megacontext.tui.cli", "replay", str(trace)]
    terminal = PseudoTerminal.start(command, (120, 40), {"XDG_STATE_HOME": str(tmp_path)})
    try:
        painted = terminal.read_through(b"]0;taken", 60)
    finally:
        terminal.stop()
    assert "·]0;taken".encode() in painted
    for sequence in (b"\x1b]0;taken", b"\x1b[2Jgone", "\x9b31m".encode(), "\u202e".encode(), b"\0"):
        assert sequence not in painted


def _see(tmux, wanted: str, but_not: str = "\0") -> str:
    """The screen once ``wanted`` is on it."""
    screen = ""
    for _ in range(3000):
        screen = tmux("capture-pane", "-p")
        if wanted in screen and but_not not in screen:
            return screen
    raise AssertionError(f"{wanted!r} never came:\n{screen}")


@pytest.mark.slow
def test_the_documentations_pictures_can_be_made_again(small_trace: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "megacontext.tui.dev.capture", str(small_trace), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in tmp_path.glob("*.svg")} == {
        shot.name for shot in SHOTS if not shot.heads
    }


async def test_replay_without_a_trace_offers_the_newest_runs_first(
    small_trace: Path, tmp_path: Path
) -> None:
    for age, name in enumerate(("new", "older", "oldest")):
        path = tmp_path / f"{name}.arrow"
        path.write_bytes(small_trace.read_bytes())
        os.utime(path, (1_700_000_000 - age, 1_700_000_000 - age))
    runs = newest_runs(tmp_path)
    assert [path.stem for path in runs] == ["new", "older", "oldest"]
    app = RunsApp(runs)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("down", "enter")
    assert app.return_value == tmp_path / "older.arrow"


def test_replay_without_any_trace_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"replay needs a trace, and .* has none"):
        choose_trace(tmp_path)
