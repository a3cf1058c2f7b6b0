"""What people come for, in a real terminal: by keys, and again by the bytes of a mouse alone.

``test_tasks.py`` does the same within the app and counts every key; here the program runs under
tmux, which says what a person sees and takes what is copied (OSC 52).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from megacontext.traces.synthetic import make_small_trace

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
SIZES = [(120, 40), (80, 24)]


@dataclass
class Terminal:
    """The inspector under tmux, driven from outside."""

    socket: Path
    folder: Path

    def tmux(self, *arguments: str) -> str:
        return subprocess.run(
            ["tmux", "-S", str(self.socket), *arguments],
            capture_output=True, text=True, check=False, timeout=60,
        ).stdout  # fmt: skip

    def start(self, size: tuple[int, int], *arguments: str) -> None:
        program = shlex.join([sys.executable, "-m", "megacontext.tui.cli", *arguments])
        state = self.folder / "state"
        (state / "megacontext").mkdir(parents=True)
        (state / "megacontext" / "inspector-seen").touch()
        command = f"cd {self.folder} && XDG_STATE_HOME={state} {program}"
        new = ("new-session", "-d", "-x", str(size[0]), "-y", str(size[1]), command)
        self.tmux("-f", os.devnull, *new, ";", "set", "-g", "set-clipboard", "on")
        self.see("palette")

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p")

    def see(self, pattern: str) -> None:
        """Wait until a pattern is on the screen, whose line breaks count as spaces."""
        self.wait(lambda: re.search(pattern, " ".join(self.screen().split())), pattern)

    def wait(self, ask: Callable[[], Any], what: str, timeout_s: float = 60) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (found := ask()):
            assert time.monotonic() < deadline, f"{what!r} did not come:\n{self.screen()}"
            time.sleep(0.03)
        return found

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def mouse(self, button: int, x: int, y: int, end: str = "M") -> None:
        """One report of a mouse (SGR), as a terminal sends it; cells count from 0."""
        self.tmux("send-keys", "-l", f"\x1b[<{button};{x + 1};{y + 1}{end}")

    def click(self, x: int, y: int, times: int = 1) -> None:
        for _ in range(times):
            self.mouse(0, x, y)
            self.mouse(0, x, y, "m")

    def place(self, words: str, within: str = "") -> tuple[int, int] | None:
        """Where words stand on a line that also has others."""
        for y, line in enumerate(self.screen().splitlines()):
            if words in line and within in line:
                return line.index(words), y
        return None

    def word_of_the_text(self) -> tuple[int, int] | None:
        """Where a longer word of the text pane stands."""
        lines = self.screen().splitlines()
        for y in range(1, len(lines)):
            if "─Text:" in lines[y - 1] and (found := re.search(r"\b[a-z]{4,}\b", lines[y][:40])):
                return found.start() + 1, y
        return None

    def click_on(self, words: str, within: str = "", times: int = 1) -> None:
        place = self.wait(lambda: self.place(words, within), words)
        self.click(place[0] + 1, place[1], times)

    def choose(self, words: str) -> None:
        """Open the palette, turn the wheel until a command is there, click on it."""
        self.click_on("palette")
        self.see("Search for commands")
        for _ in range(60):
            if self.place(words):
                self.click_on(words)
                return
            self.mouse(65, 40, 14)
            time.sleep(0.05)
        raise AssertionError(f"the palette does not offer {words!r}:\n{self.screen()}")

    def copied(self, pattern: str) -> None:
        """Wait until what was copied is in the terminal's clipboard."""
        self.wait(lambda: re.search(pattern, self.tmux("show-buffer")), pattern)

    def step(self) -> int:
        return int(re.search(r"step ([\d,]+)", self.screen())[1].replace(",", ""))


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(tmp_path / "tmux", tmp_path)
    make_small_trace(tmp_path / "run.arrow", rows=120)
    yield made
    made.tmux("kill-server")


@pytest.mark.parametrize("size", SIZES)
def test_tasks_by_keys(terminal: Terminal, size: tuple[int, int]) -> None:
    terminal.start(size, "replay", "run.arrow")

    # a: why it expanded; b: why one did not.
    terminal.press("]", "f", "Enter")
    terminal.see(r"Inspector: the life of .*in this step")
    terminal.press("0", "e", "x", "Enter")
    terminal.see(r"Not expanded|Not collapsed|Stays|Hidden inside")

    # c, d: the worst moments.
    terminal.press("0", "e", "n")
    terminal.see(r"Highest NLL: [\d.]+ nats")
    terminal.press("e", "s")
    terminal.see(r"Highest swap rate: \d+%")

    # e: where words are, and when the model saw them raw.
    terminal.press("/")
    terminal.tmux("send-keys", "-l", "vault code")
    terminal.press("Enter", "Enter", "Enter")
    terminal.see(r"Raw in steps?|Raw \d+ times|Expanded in steps?")

    # h, i: copy; mark and share.
    terminal.press("c", "n")
    terminal.copied(r"^L\d@\d+")
    terminal.press("m", "Enter", "L")
    terminal.copied(r"mc-tui replay .*run\.arrow --at \d+")
    assert (terminal.folder / "run.arrow.marks.json").exists()


@pytest.mark.parametrize("size", SIZES)
def test_tasks_by_mouse(terminal: Terminal, size: tuple[int, int]) -> None:
    terminal.start(size, "replay", "run.arrow")

    # a: the footer goes to a marker, to what it led to, and to that block's life.
    for words in ("marker", "focus", "drill"):
        terminal.click_on(words, within="palette")
    terminal.see(r"Inspector: the life of .*in this step")

    # b, c, d: a refusal and the worst moments by name.
    for words, seen in (
        ("first step", r"step 0/"),
        ("Next refusal", r"Refusal \d+ of \d+"),
        ("Highest NLL", r"Highest NLL: [\d.]+ nats"),
        ("Highest swap rate", r"Highest swap rate: \d+%"),
    ):
        terminal.choose(words)
        terminal.see(seen)

    # e: twice on a word of the text finds where it also is.
    terminal.click(*terminal.wait(terminal.word_of_the_text, "a word"), times=2)
    terminal.see(r"hit \d+ of \d+")

    # h, i: copy a node; mark, name and share a step.
    terminal.choose("copy the sentence")
    terminal.click_on("the selected node's name")
    terminal.copied(r"^L\d@\d+")
    terminal.choose("mark this step")
    terminal.click_on("✓ ok")
    terminal.wait((terminal.folder / "run.arrow.marks.json").exists, "the mark's file")
    terminal.choose("copy the command that opens")
    terminal.copied(r"mc-tui replay .*run\.arrow --at \d+")

    # l, m: a time by the scrubber; a table.
    before = terminal.step()
    terminal.click(size[0] // 4, size[1] - 2)
    terminal.wait(lambda: terminal.step() != before, "another step")
    terminal.choose("save the screen")
    terminal.click_on("figures of every step")
    terminal.wait(lambda: list(terminal.folder.glob("*.csv")), "a table")


def test_two_runs_by_mouse(terminal: Terminal) -> None:
    make_small_trace(terminal.folder / "other.arrow", rows=120, seed=5)
    terminal.start((120, 40), "diff", "run.arrow", "other.arrow")
    terminal.choose("first step")
    terminal.wait(lambda: terminal.step() < 5, "the first step")
    before = terminal.step()
    terminal.click_on("difference", within="palette")
    terminal.wait(lambda: terminal.step() > before, "a later step")
