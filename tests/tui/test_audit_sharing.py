"""What could not be copied, marked or saved in a day's trial (commit b5ed4f6), by number.

Each test acts as a person does and was seen to fail on that commit.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from megacontext.tui.app import InspectorApp
from megacontext.tui.sources.file_source import FileSource


async def test_d11_a_picture_without_colours_is_not_black_on_black(
    start, story, monkeypatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = start(story(), theme="mc-ansi")
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        assert "fill: #000000" not in app.export_screenshot()


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


async def test_a_mark_is_not_numbered_anew(start, small_trace: Path, tmp_path: Path) -> None:
    trace = tmp_path / "run.arrow"
    trace.write_bytes(small_trace.read_bytes())
    session = start(FileSource(trace)).session
    for row in (5, 5, 9):
        session.play(lambda play, row=row: play.seek(row))
        session.set_marker()
    labels = [m.label for m in session.markers if m.label.startswith("mark ")]
    assert labels == ["mark 1", "mark 2"]


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
