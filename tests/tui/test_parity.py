"""One run through a file, a growing file and a live source gives equal frames."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from megacontext.traces.meta import TraceMeta
from megacontext.traces.row import TraceRow
from megacontext.traces.schema import Trigger
from megacontext.traces.synthetic import SyntheticRun
from megacontext.traces.writer import TraceWriter
from megacontext.tui.render.bars import story
from megacontext.tui.render.canvas import Canvas
from megacontext.tui.render.history import draw_heat, draw_map, draw_waterfall
from megacontext.tui.render.inspector import draw_inspector
from megacontext.tui.render.side import draw_actions, draw_budget
from megacontext.tui.render.text import draw_text
from megacontext.tui.sources.file_source import FileSource
from megacontext.tui.sources.live_source import LiveSource, identity
from megacontext.tui.sources.node_history import STATES, snapshot_of
from megacontext.tui.state.frame import Frame
from megacontext.tui.state.view import Node
from megacontext.tui.state.viewer import ViewerState

META = TraceMeta(block_size=8, w_max=160, levels=3)


def rows() -> Iterator[TraceRow]:
    run = SyntheticRun(tokens=400, w_max=160, block_size=8, seed=5, questions=2)
    yield from list(run.rows())[:50]


def canvases(frame: Frame) -> list[Canvas]:
    return [
        draw_map(frame, 100, 6),
        draw_heat(frame, 100, 1, texture=False),
        draw_waterfall(frame, 100, 20, texture=False),
        draw_text(frame, 100, 8),
        draw_actions(frame, 40, 20),
        draw_budget(frame, 40, 8),
        draw_inspector(frame, 40, 20),
    ]


def seen(source: FileSource, clock, position: int) -> list[Canvas]:
    session = ViewerState(source, clock, unhurried=True)
    session.look(lambda view: view.select(None))
    session.play(lambda play: play.grow(source.num_rows).seek(position))
    session.focus_latest()
    session.play(lambda play: play.seek(position))
    session.tick()
    return canvases(session.frame())


@pytest.fixture
def growing(tmp_path: Path) -> tuple[Path, TraceWriter, list[TraceRow]]:
    path = tmp_path / "run.arrow"
    return path, TraceWriter(path, META.to_metadata()), list(rows())


def test_file_follow_and_live_draw_the_same(growing, clock) -> None:
    path, writer, all_rows = growing
    for row in all_rows[:20]:
        writer.put(row)
    writer.flush()
    follow, live = FileSource(path, mode="FOLLOW"), LiveSource(path)
    early = [seen(source, clock, 15) for source in (follow, live)]
    for row in all_rows[20:]:
        writer.put(row)
    writer.flush()
    for source in (follow, live):
        assert source.refresh()
        assert source.status().growing
    writer.close()
    for source in (follow, live):
        source.refresh()
        assert not source.status().growing
        assert source.num_rows == len(all_rows)
    file = FileSource(path)
    assert early[0]
    assert all(a.same(b) for a, b in zip(*early, strict=True))
    for position in (15, 33, 49):
        wanted = seen(file, clock, position)
        for source in (follow, live):
            assert all(
                a.same(b) for a, b in zip(wanted, seen(source, clock, position), strict=True)
            )
    assert all(a.same(b) for a, b in zip(early[0], seen(file, clock, 15), strict=True))


def test_a_killed_writer_is_noticed_and_its_rows_stay(growing) -> None:
    path, writer, all_rows = growing
    for row in all_rows[:16]:
        writer.put(row)
    writer.flush()
    source = FileSource(path, mode="FOLLOW")
    assert source.status().growing
    copy = path.with_name("cut.arrow")
    copy.write_bytes(path.read_bytes())  # what a kill leaves: no footer, no lock
    writer.close()
    cut = FileSource(copy, mode="FOLLOW")
    assert cut.refresh()
    assert cut.status().problem.startswith("Disconnected")
    assert not cut.status().growing
    assert cut.num_rows == 16
    assert cut.row(15).step == source.row(15).step


def test_a_file_cut_in_the_middle_opens_with_its_whole_batches(growing) -> None:
    path, writer, all_rows = growing
    with writer:
        for row in all_rows:
            writer.put(row)
            writer.flush()
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    source = FileSource(path)
    assert 0 < source.num_rows < len(all_rows)
    assert source.row(source.num_rows - 1).damaged == ""


def test_a_glimpse_of_a_row_says_what_the_whole_row_says(growing) -> None:
    path, writer, all_rows = growing
    with writer:
        for number, row in enumerate(all_rows):
            row.scores = None if number == 7 else row.scores
            writer.put(row)
    source = FileSource(path)
    changed = {a.node for n in range(source.num_rows) for a in source.row(n).actions}
    refused = {r.node for n in range(source.num_rows) for r in source.row(n).refused}
    seen_states, seen_events = set(), 0
    for node in {*list(changed)[:12], *list(refused)[:6], Node(1, 0), Node(2, 3), Node(1, 4000)}:
        for number in range(source.num_rows):
            quick, whole = source.look(number, node), snapshot_of(source.row(number), node)
            assert np.array_equal(quick.score, whole.score, equal_nan=True)
            assert quick[1:] == whole[1:]
            seen_states.add(quick.state)
            seen_events += len(quick.events)
    assert len(seen_states) == len(STATES)
    assert seen_events > 20


def test_the_rows_that_did_something_to_a_node_are_those_whose_actions_name_it(growing) -> None:
    path, writer, all_rows = growing
    with writer:
        for row in all_rows[:20]:
            writer.put(row)
        writer.flush()
        source = FileSource(path, mode="FOLLOW")
        half = source.num_rows
        assert 0 < half < len(all_rows)
        acted_in_half = {node: source.acted(node).tolist() for node in (Node(1, 0), Node(1, 5))}
        for row in all_rows[20:]:
            writer.put(row)
    source.refresh()
    assert source.num_rows == len(all_rows)
    named: dict[Node, list[int]] = {Node(1, 4000): []}
    for n in range(source.num_rows):
        for node in {act.node for act in source.row(n).actions}:
            named.setdefault(node, []).append(n)
    assert max(map(len, named.values())) > 1
    for node, rows_of_node in named.items():
        assert source.acted(node).tolist() == rows_of_node
    for node, before in acted_in_half.items():
        assert [n for n in named.get(node, []) if n < half] == before


@pytest.mark.parametrize("mode", ["REPLAY", "FOLLOW"])
@pytest.mark.parametrize("share", [0.7, 0.01, 0.0])
def test_a_file_cut_while_it_is_watched_ends_no_view(growing, clock, mode, share) -> None:
    path, writer, all_rows = growing
    with writer:
        for row in all_rows:
            writer.put(row)
            writer.flush()
    raw = path.read_bytes()
    source = FileSource(path, mode=mode)
    session = ViewerState(source, clock, unhurried=True)
    session.play(lambda play: play.end())
    os.truncate(path, int(len(raw) * share))
    for change in (session.focus_latest, session.drill, lambda: session.search("the")):
        session.tick()
        assert canvases(session.frame())
        change()
        assert canvases(session.frame())
    if mode == "FOLLOW":
        session.tick()
        cut = share > 0.5
        assert (0 < source.num_rows < len(all_rows)) == cut
        assert ("can no longer be read" in source.status().problem) != cut
        path.write_bytes(raw)  # and back again, in place
        session.tick()
        assert source.num_rows == len(all_rows)
        assert source.status().problem == ""


def test_a_damaged_row_says_so_and_its_neighbours_are_shown(growing) -> None:
    path, writer, all_rows = growing
    with writer:
        for row in all_rows:
            writer.put(row)
            writer.flush()
    raw = bytearray(path.read_bytes())
    middle = len(raw) // 2
    raw[middle : middle + 64] = bytes(64)
    path.write_bytes(raw)
    source = FileSource(path)
    problems = [source.row(n).damaged for n in range(source.num_rows)]
    assert any(problems) or source.num_rows < len(all_rows)
    assert problems[0] == ""
    for problem in filter(None, problems):
        assert problem.endswith(".")


def test_a_live_source_waits_for_its_trace_and_ignores_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "run.arrow"
    with TraceWriter(path, META.to_metadata()) as old:
        old.put(next(rows()))
    source = LiveSource(path, stale=identity(path))
    assert source.num_rows == 0
    assert not source.refresh()
    with TraceWriter(path, META.to_metadata()) as new:
        for row in list(rows())[:5]:
            new.put(row)
        new.flush()
        assert source.refresh()
        assert source.num_rows == 5


def test_a_replay_does_not_grow(growing) -> None:
    path, writer, all_rows = growing
    with writer:
        writer.put(all_rows[0])
        writer.flush()
        source = FileSource(path)
        writer.put(all_rows[1])
        writer.flush()
        assert not source.refresh()
        assert source.num_rows == 1


def test_search_and_text_come_from_the_file(small_trace: Path) -> None:
    source = FileSource(small_trace)
    hit = source.find("VAULT code", 0)
    assert hit is not None
    pieces, nll = source.pieces(*hit)
    assert "vault code" in "".join(pieces)
    assert len(nll) == len(pieces)
    assert source.rfind("vault code", source.num_tokens) is not None
    assert np.isfinite(nll).all()


def test_changed_knobs_count_from_their_row_on(growing, clock) -> None:
    path, writer, all_rows = growing
    all_rows[10].knobs = '{"focus": {"tau_expand": 0.5, "n_diff": 9}, "w_max": 160}'
    all_rows[12].knobs = "no json"
    with writer:
        for row in all_rows:
            writer.put(row)
    session = ViewerState(FileSource(path), clock, unhurried=True)
    told = []
    for position in (9, 10, 13):
        session.play(lambda play, position=position: play.seek(position))
        told.append((session.frame().info.tau_expand, session.frame().info.n_diff))
    assert told == [(0.2, 4), (0.5, 9), (0.5, 9)]


def test_a_question_has_thresholds_of_its_own(growing, clock) -> None:
    path, writer, all_rows = growing
    own = {"tau_expand": 0.1, "n_diff": 8}
    said = {"tau_expand": 0.35, "n_diff": 4, "keep_newest": 10, "question": own}
    all_rows[10].knobs = json.dumps({"focus": said})
    all_rows[12].knobs = json.dumps({"focus": said | {"question": own | {"tau_expand": None}}})
    with writer:
        for row in all_rows:
            writer.put(row)
    session = ViewerState(FileSource(path), clock, unhurried=True)
    told = {}
    for position in (9, 11, 13):
        session.play(lambda play, position=position: play.seek(position))
        told[position] = [
            (info.tau_expand, info.n_diff, info.keep_newest)
            for info in map(
                session.frame().info.at,
                (Trigger.BLOCK_CLOSED, Trigger.QUESTION, Trigger.ECHO),
            )
        ]
    assert told[9][0] == told[9][1]  # a trace that says nothing of questions
    assert told[11] == [(0.35, 4, 10), (0.1, 8, 0), (0.35, 8, 0)]
    assert told[13] == [(0.35, 4, 10), (0.35, 8, 0), (0.35, 8, 0)]


@pytest.mark.parametrize(
    ("trigger", "opening"),
    [
        (Trigger.ECHO, "After an echo: "),
        (Trigger.QUESTION, "After a question: "),
        (Trigger.BLOCK_CLOSED, ""),
    ],
)
def test_the_story_begins_with_what_the_refocus_came_after(
    growing, clock, trigger: Trigger, opening: str
) -> None:
    path, writer, all_rows = growing
    row = all_rows[11]
    row.trigger, row.marker = int(trigger), None
    with writer:
        for one in all_rows:
            writer.put(one)
    session = ViewerState(FileSource(path), clock, unhurried=True)
    session.play(lambda play: play.seek(11))
    told = story(session.frame())[0]
    assert told.startswith(opening)
    assert told.startswith("After") == bool(opening)
