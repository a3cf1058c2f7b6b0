"""Copying, linking, marking and exporting: what leaves the inspector or stays beside a run."""

from __future__ import annotations

import base64
import csv
import json
import re
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from megacontext.traces.errors import ConfigError
from megacontext.tui.app import InspectorApp
from megacontext.tui.commands import BY_ID
from megacontext.tui.render.bars import story as sentence
from megacontext.tui.share import command_of, copy_text, free_path, open_at, write
from megacontext.tui.sources.file_source import FileSource
from megacontext.tui.state.goto import go_to
from megacontext.tui.state.mark_file import MarkFile, mark_path
from megacontext.tui.state.viewer import ViewerState


@pytest.fixture
def session(story, clock) -> ViewerState:
    return ViewerState(story(), clock, unhurried=True)


# -- links ------------------------------------------------------------------------------------
def test_the_command_of_a_place_opens_that_place(session: ViewerState, story, clock) -> None:
    session.source.path = Path("runs/my run.arrow")
    command = command_of(session)
    assert command == "mc-tui replay 'runs/my run.arrow' --at 36:L1@5"
    other = ViewerState(story(), clock, unhurried=True)
    other.seek(3)
    open_at(other, command.rpartition(" ")[2])
    assert other.playback.position == session.playback.position
    assert other.view.node == session.view.node


def test_a_link_names_the_round(fake, clock) -> None:
    session = ViewerState(fake(), clock, unhurried=True)
    rows = [n for n in range(session.source.num_rows) if session.source.row(n).round]
    assert rows
    session.seek(rows[0])
    session.look(lambda view: view.select(None))
    place = command_of(session).rpartition(" ")[2]
    assert re.fullmatch(r"\d+\.2", place)
    session.seek(0)
    open_at(session, place)
    assert session.playback.position == rows[0]
    session.seek(0)
    go_to(session, place)
    assert session.playback.position == rows[0]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("x", "is no place"),
        ("36:L1", "is no place"),
        ("99", "no step 99"),
        ("36.5", "1 round"),
        ("36:L1@900", "not complete"),
        ("36:L0@1", "not complete"),
    ],
)
def test_a_place_that_is_none_is_refused_in_a_sentence(
    session: ViewerState, place: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        open_at(session, place)


# -- copies -----------------------------------------------------------------------------------
def test_what_is_copied_is_what_is_on_screen(session: ViewerState) -> None:
    frame = session.frame()
    assert copy_text(session, "s") == sentence(frame)[0]
    assert copy_text(session, "t") == " The gate opens with the number 70956.\n"
    assert copy_text(session, "n") == "L1@5"
    table = [line.split("\t") for line in copy_text(session, "a").splitlines()]
    assert table[0][:3] == ["step", "action", "node"]
    assert [line[2] for line in table[1:3]] == [str(line.node) for line in frame.log.lines[:2]]
    session.look(lambda view: view.select(None))
    assert copy_text(session, "n") == ""


async def test_a_copy_reaches_the_terminal_by_osc_52(story, clock, monkeypatch) -> None:
    monkeypatch.setattr("megacontext.tui.tools_app.system_clipboard", lambda _: True)
    app = InspectorApp(story(), clock=clock, ticking=False, unhurried=True)
    async with app.run_test(size=(120, 40)) as pilot:
        written: list[str] = []
        assert app._driver is not None
        monkeypatch.setattr(app._driver, "write", written.append)
        await pilot.press("c", "n")
        code = base64.b64encode(b"L1@5").decode()
        assert any(f"\x1b]52;c;{code}" in part for part in written)
        await pilot.press("L")
        assert app.clipboard == "mc-tui replay harbour.arrow --at 36:L1@5"
        assert "Copied" in app.session.notice


# -- marks ------------------------------------------------------------------------------------
def test_marks_outlive_the_viewer(small_trace: Path, tmp_path: Path, clock) -> None:
    trace = tmp_path / "run.arrow"
    trace.write_bytes(small_trace.read_bytes())
    session = ViewerState(FileSource(trace), clock, unhurried=True)
    session.seek(7)
    session.set_marker("odd: the swap rate doubles here")
    session.seek(9)
    session.set_marker()
    session.set_marker()
    assert [m.label for m in session.marks.marks][1] == "mark 1"
    session.seek(11)
    session.set_marker()
    assert session.marks.marks[-1].label == "mark 2"
    again = ViewerState(FileSource(trace), clock, unhurried=True)
    mark = again.marks.at(7)
    assert mark is not None
    assert mark.label == "odd: the swap rate doubles here"
    again.seek(7)
    assert sentence(again.frame())[0].startswith("◆ odd: the swap rate doubles here.")
    again.remove_marker()
    left = json.loads(mark_path(trace).read_text())["marks"]
    assert [entry["row"] for entry in left] == [9, 11]
    again.remove_marker()
    assert "No mark of yours" in again.notice


def test_a_mark_file_that_cannot_be_read_is_left_alone(small_trace: Path, tmp_path: Path) -> None:
    trace = tmp_path / "run.arrow"
    trace.write_bytes(small_trace.read_bytes())
    mark_path(trace).write_text('{"marks": [{"name": 3}]}')
    marks = MarkFile.read(trace)
    assert "cannot be read" in marks.problem
    marks.put(1, 1, "new")
    assert mark_path(trace).read_text() == '{"marks": [{"name": 3}]}'


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    marks = MarkFile(tmp_path / "no such folder" / "run.arrow")
    marks.put(1, 1, "new")
    assert "not saved" in marks.problem
    assert marks.at(1) is not None


# -- files ------------------------------------------------------------------------------------
def test_no_export_takes_a_name_that_is_taken(tmp_path: Path) -> None:
    first = free_path(tmp_path, "a run/7", ".csv")
    assert first.name == "a-run-7.csv"
    first.touch()
    assert free_path(tmp_path, "a run/7", ".csv").name == "a-run-7-2.csv"


def test_the_files_hold_the_run(small_trace: Path, tmp_path: Path, clock) -> None:
    session = ViewerState(FileSource(small_trace), clock)
    rows = session.source.num_rows
    with write(session, "csv", tmp_path).open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == rows
    figures = session.run()
    assert float(lines[40]["us"]) == pytest.approx(float(figures.latency_us[40]), rel=1e-4)
    assert int(lines[40]["voluntary"]) == int(figures.vitals.voluntary[40])
    assert pq.read_metadata(write(session, "parquet", tmp_path)).num_rows == rows
    picture = write(session, "png", tmp_path).read_bytes()
    assert picture.startswith(b"\x89PNG")
    pixels = zlib.decompress(picture[picture.index(b"IDAT") + 4 : picture.rindex(b"IEND") - 8])
    assert len(set(pixels)) > 20


async def test_a_picture_without_colours_can_be_read(story, clock, monkeypatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = InspectorApp(story(), clock=clock, ticking=False, unhurried=True, theme="mc-ansi")
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        picture = app.export_screenshot()
    assert "fill: #000000" not in picture
    assert "fill: #c5c8c6" in picture


async def test_a_mark_is_named_in_the_app(story, clock) -> None:
    app = InspectorApp(story(), clock=clock, ticking=False, unhurried=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press(BY_ID["mark"].key, "h", "i", "enter")
        assert app.session.marks.at(36).label == "hi"
        await pilot.press(BY_ID["unmark"].key)
        assert app.session.marks.at(36) is None
