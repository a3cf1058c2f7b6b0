"""Whatever is typed at a prompt, pasted or left in a side file: a sentence, never a crash."""

from __future__ import annotations

from pathlib import Path

import pytest
from screen import screen_lines, screen_text

from megacontext.tui.sources.file_source import FileSource
from megacontext.tui.state.goto import go_to
from megacontext.tui.state.mark_file import MarkFile, mark_path
from megacontext.tui.state.viewer import ViewerState

BAD = [
    "",
    " ",
    "9" * 400,
    "9" * 400 + "h",
    "999999999h",
    "999999999999",
    "t" + "9" * 18,
    "t-1",
    "L0@0",
    "L99@999999999999999",
    "1.9999",
    "0.0:L1@1",
    "36:L99@5",
    "-3",
    "1e9",
    "nan",
    "\x1b[2J\x1b]0;title\x07",
    "[bold]x[/bold][/]",
    '"',
    "((((",
    "\ud800",
    "a\u0301" * 300,
    "漢字" * 200,
    "x" * 5000,
]


@pytest.mark.parametrize("text", BAD)
def test_no_input_breaks_a_prompt(story, clock, text: str) -> None:
    session = ViewerState(story(), clock, unhurried=True)
    for prompt in (go_to, ViewerState.search, ViewerState.set_marker):
        prompt(session, text)
        frame = session.frame()
        assert frame.row is not None
        assert 0 <= frame.playback.position < session.source.num_rows
    session.view = session.view.__class__(log_filter=text)
    assert session.frame().log.total >= 0


@pytest.mark.parametrize(
    "text", [t for t in BAD if t.strip() and "\ud800" not in t and not t.startswith("\x1b")]
)
async def test_typed_into_the_app_it_leaves_a_picture(start, story, text: str) -> None:
    app = start(story())
    async with app.run_test(size=(80, 24)) as pilot:
        go_to(app.session, text)
        app.redraw()
        app.session.search(text)
        app.filter_actions(text)
        app.redraw()
        await pilot.pause()
        assert all(len(line) <= 80 * 2 for line in screen_lines(app))
        assert "\x1b" not in screen_text(app)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b'{"marks": 3}',
        b'{"marks": [{"row": -1, "name": "x"}]}',
        b'{"marks": [{"row": 1e30, "name": "x"}]}',
        b'{"marks": [{"row": 99999999999999999999, "name": "x"}]}',
        b"[" * 200_000,
    ],
)
def test_a_bad_file_of_marks_is_a_sentence_and_is_kept(
    small_trace: Path, tmp_path: Path, content: bytes
) -> None:
    trace = tmp_path / "run.arrow"
    trace.write_bytes(small_trace.read_bytes())
    mark_path(trace).write_bytes(content)
    session = ViewerState(FileSource(trace), unhurried=True)
    assert "cannot be read" in session.notice
    assert session.marks.marks == []
    session.set_marker("mine")
    assert mark_path(trace).read_bytes() == content, "it may be repaired"
    session.source.close()


def test_a_mark_beyond_the_end_is_drawn_nowhere(small_trace: Path, tmp_path: Path) -> None:
    trace = tmp_path / "run.arrow"
    trace.write_bytes(small_trace.read_bytes())
    mark_path(trace).write_text('{"marks": [{"row": 4000000, "name": "\\u001b[2Jx"}]}')
    session = ViewerState(FileSource(trace), unhurried=True)
    session.to_marker(1)
    assert session.frame().row is not None
    session.source.close()


def test_a_name_that_no_encoding_has_is_saved(small_trace: Path, tmp_path: Path) -> None:
    marks = MarkFile(tmp_path / "run.arrow")
    marks.put(3, 3, "a\ud800b")
    assert marks.problem == ""
    assert MarkFile.read(tmp_path / "run.arrow").at(3) is not None
