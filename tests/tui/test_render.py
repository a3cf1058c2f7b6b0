"""The renderers: what cells say, and that no text can escape them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from megacontext.traces.row import TraceRow
from megacontext.tui.app import InspectorApp
from megacontext.tui.palette import RAMP, Role, level_role, score_role
from megacontext.tui.render.bars import draw_scrubber, draw_story, draw_title, row_at
from megacontext.tui.render.canvas import Canvas, clean, width_of
from megacontext.tui.render.history import (
    LABEL,
    draw_heat,
    draw_map,
    draw_waterfall,
    token_at,
)
from megacontext.tui.render.inspector import draw_inspector, why
from megacontext.tui.render.marks import compact, micros, signed, spark
from megacontext.tui.render.side import draw_actions, draw_budget
from megacontext.tui.render.text import draw_text
from megacontext.tui.sources.row_model import Spans
from megacontext.tui.state.frame import Marker
from megacontext.tui.state.playback import Playback
from megacontext.tui.state.view import Node
from megacontext.tui.state.viewer import ViewerState
from megacontext.tui.themes import PALETTES

DRAWERS: tuple[Callable[..., Canvas], ...] = (
    draw_map,
    lambda f, w, h: draw_heat(f, w, h, texture=False),
    lambda f, w, h: draw_heat(f, w, h, texture=True),
    lambda f, w, h: draw_waterfall(f, w, h, texture=False),
    lambda f, w, h: draw_waterfall(f, w, h, texture=True),
    draw_text,
    draw_actions,
    draw_budget,
    draw_inspector,
    draw_title,
    draw_story,
    draw_scrubber,
)


@pytest.fixture
def session(fake, clock) -> ViewerState:
    made = ViewerState(fake(), clock, unhurried=True)
    made.play(lambda play: play.seek(60))
    return made


@pytest.mark.parametrize("size", [(0, 0), (1, 1), (4, 2), (20, 5), (80, 1), (7, 40), (200, 60)])
def test_every_pane_draws_at_every_size(session: ViewerState, size: tuple[int, int]) -> None:
    session.focus_latest()
    session.tick()
    frame = session.frame()
    for draw in DRAWERS:
        canvas = draw(frame, *size)
        assert (canvas.width, canvas.height) == size
        for strip in canvas.strips(PALETTES["mc-dark"]):
            assert strip.cell_length == sum(segment.cell_length for segment in strip)


def test_the_map_shows_each_level_where_the_frontier_has_it(session: ViewerState) -> None:
    frame = session.frame()
    row = frame.row
    assert row is not None
    width = row.history // 8  # one column per block
    canvas = draw_map(frame, LABEL + width, 5)
    lines = canvas.lines()
    for name, line in zip(("L2", "L1", "raw"), lines, strict=False):
        assert line.startswith(name)
    levels = np.repeat(row.after.levels, np.diff(row.after.bounds) // 8)
    for x in range(len(levels)):
        glyphs = [line[LABEL + x] for line in lines[:3]]
        wanted = {0: "▀", 1: "▄", 2: "█"}[min(int(levels[x]), 2)]
        assert wanted in glyphs
        assert sum(glyph != "·" for glyph in glyphs) == 1


@given(st.lists(st.sampled_from([0, 0, 1, 1, 1]), min_size=1, max_size=40), st.integers(1, 60))
def test_column_shares_add_up_to_the_covered_history(levels: list[int], width: int) -> None:
    spans = Spans(np.array(levels, np.int8), 8)
    stop = int(spans.bounds[-1])
    columns = spans.columns(0, stop, width, np.linspace(-1, 1, len(levels)).astype(np.float32))
    assert np.allclose(columns.share.sum(axis=0), 1.0)
    for x in range(width):
        low, high = x * stop / width, (x + 1) * stop / width
        inside = [
            i
            for i in range(len(levels))
            if spans.bounds[i] < high - 1e-9 and spans.bounds[i + 1] > low + 1e-9
        ]
        best = max(np.linspace(-1, 1, len(levels)).astype(np.float32)[i] for i in inside)
        assert columns.score[x] >= best - 1e-6


def test_the_heat_strip_paints_the_highest_score_brightest(session: ViewerState) -> None:
    frame = session.frame()
    row = frame.row
    assert row is not None
    assert row.scores is not None
    canvas = draw_heat(frame, LABEL + 64, 1, texture=False)
    roles = canvas.fg[0, LABEL:]
    best = int(np.nanargmax(row.scores))
    middle = (row.before.bounds[best] + row.before.bounds[best + 1]) / 2
    x = int(middle / row.history * 64)
    assert roles[x] == roles[(roles >= Role.SCORE) & (roles < Role.SCORE + RAMP)].max()


def test_nan_scores_are_drawn_as_zero(fake, clock) -> None:
    def poison(row: TraceRow) -> None:
        assert row.scores is not None
        row.scores = np.full_like(row.scores, np.nan)

    frame = ViewerState(fake(change=poison), clock, unhurried=True).frame()
    canvas = draw_heat(frame, LABEL + 8, 1, texture=False)
    assert set(canvas.fg[0, LABEL:].tolist()) <= {int(score_role(np.zeros(1))[0]), int(Role.FAINT)}
    assert "count as 0" in " ".join(draw_story(frame, 120, 3).lines())


def test_a_click_finds_the_token_that_the_map_drew_there(session: ViewerState) -> None:
    frame = session.frame()
    for x in range(LABEL, 80):
        token = token_at(frame, x, 80)
        assert token is not None
        assert (
            int((token - frame.view.window.start) / frame.view.window.span * (80 - LABEL))
            == x - LABEL
        )
    assert token_at(frame, 2, 80) is None


def test_the_scrubber_and_its_clicks_agree(session: ViewerState) -> None:
    frame = session.frame()
    line = draw_scrubber(frame, 100, 1).lines()[0]
    assert abs(row_at(frame, line.index("●"), 100) - frame.playback.position) <= 1
    assert line.count("▲") >= 1


def test_the_log_says_why_candidates_were_turned_down(session: ViewerState) -> None:
    row = next(n for n in range(session.source.num_rows) if session.source.row(n).refused)
    session.play(lambda play: play.seek(row))
    frame = session.frame()
    refused = [line for line in frame.log.lines if not line.applied]
    assert refused
    text = "\n".join(draw_actions(frame, 60, 40).lines())
    assert "✗" in text
    assert re.search(r"n_diff|budget", text)


def test_the_inspector_explains_a_refusal_in_a_sentence(session: ViewerState) -> None:
    row = next(
        session.source.row(n)
        for n in range(session.source.num_rows)
        if session.source.row(n).refused
    )
    node = row.refused[0].node
    said = why(row, node, session.source.info)
    assert said.startswith("Not expanded although it scored")
    assert said.endswith(".")


def test_the_inspector_tells_a_hidden_node_from_a_closed_one(session: ViewerState) -> None:
    row = session.row
    assert row is not None
    coarse = next(i for i, level in enumerate(row.before.levels) if level == 2)
    inside = Node(1, row.before.node(coarse).index * 8)
    assert "has to be expanded first" in why(row, inside, session.source.info)
    future = Node(1, row.history // 8 + 5)
    assert "Not closed yet" in why(row, future, session.source.info)


HOSTILE = [
    "\x1b[2J\x1b[31mred",
    "\x9b31m",
    "a\x00b\x07c\x08d",
    "\u202eright to left\u202c",
    "\ufeff\u200b\u200d",
    "e\u0301 combining",
    "\ud800 lone surrogate",
    "\U000e0001 tag",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_becomes_harmless_cells(text: str) -> None:
    canvas = Canvas(40, 1)
    canvas.text(0, 0, text)
    out = "".join(segment.text for segment in canvas.strips(PALETTES["mc-dark"])[0])
    assert all(ch.isprintable() for ch in out)
    assert len(clean(text)) == len(text)


@given(st.text(max_size=60), st.integers(-5, 30))
def test_no_text_ever_leaves_its_cells(text: str, x: int) -> None:
    canvas = Canvas(24, 2)
    canvas.text(x, 0, text)
    first, second = canvas.strips(PALETTES["mc-light"])
    assert first.cell_length == 24
    assert "".join(s.text for s in second) == " " * 24
    assert all(ch.isprintable() for segment in first for ch in segment.text)


def test_wide_characters_take_two_cells() -> None:
    canvas = Canvas(6, 1)
    assert canvas.text(0, 0, "漢字ab") == 6
    assert canvas.lines() == ["漢字ab"]
    assert width_of("漢") == 2


def test_a_wide_character_that_does_not_fit_is_left_out() -> None:
    canvas = Canvas(3, 1)
    canvas.text(0, 0, "漢字")
    assert canvas.lines()[0].rstrip() == "漢"


def test_a_ten_megabyte_line_is_cut_to_the_screen(fake, clock) -> None:
    source = fake(rows=3)
    source.pieces_by_token = ["x" * 10_000_000] + [" y"] * 23
    session = ViewerState(source, clock, unhurried=True)
    session.look(lambda view: view.select(Node(1, 0)))
    lines = draw_text(session.frame(), 80, 4).lines()
    assert set(lines[0][1:]) == {"x"}
    assert all(set(line) == {"x"} for line in lines[1:])


def test_search_hits_are_marked_in_the_text(session: ViewerState) -> None:
    session.search("vault")
    frame = session.frame()
    canvas = draw_text(frame, 80, 6)
    marked = "".join(chr(c) for c in canvas.glyph[(canvas.flags & 2).astype(bool)] if c)
    assert marked.lower().startswith("vault")


def test_levels_differ_by_glyph_and_by_hue() -> None:
    dark = PALETTES["mc-dark"].colours
    assert len({dark[level_role(level)] for level in range(3)}) == 3


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (950, "950"),
        (12_345, "12.3k"),
        (582_528, "583k"),
        (1_048_576, "1.05M"),
        (2e6, "2M"),
    ],
)
def test_compact_numbers(number: float, text: str) -> None:
    assert compact(number) == text


def test_small_formats() -> None:
    assert [signed(s) for s in (0.82, -0.41, 1.0, 0.0, float("nan"))] == [
        "+.82",
        "−.41",
        "+1.0",
        "0.00",
        " nan",
    ]
    assert [micros(us) for us in (0, 940, 12_000, 1_200_000)] == ["0", "940µs", "12ms", "1.2s"]
    assert spark([0, 1, 2, 3, 4, 5, 6], 7) == "▁▂▃▄▅▆▇"  # no full block: lines stay apart
    assert spark([float("nan"), 1.0], 5) == " ▇"
    assert spark([], 5) == ""


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_titles_of_panes_are_never_cut_off(story, clock, size) -> None:
    app = InspectorApp(story(), clock=clock, ticking=False, unhurried=True)
    async with app.run_test(size=size) as pilot:
        for keys in (["home"], ["right_square_bracket", "f", "enter"], ["0", "y", "v"]):
            await pilot.press(*keys)
            for pane in app.panes:
                title = re.sub(r"\[[^\]]*\]", "", str(pane.border_title or ""))
                assert len(title) + 2 <= pane.size.width or not pane.display, title


def test_the_present_markers_name_is_shown_first(session: ViewerState) -> None:
    names = ["needle planted rose @40-48", "question about the rose", "question about the mast"]
    markers = tuple(Marker(40 + i, name) for i, name in enumerate(names))
    for row, name in ((40, "needle planted rose"), (41, names[1]), (42, names[2])):
        session.play(partial(Playback.seek, row=row))
        named = draw_scrubber(replace(session.frame(), markers=markers), 80, 2).lines()[1]
        assert name in named
        assert "@" not in named


@pytest.mark.parametrize("size", [(40, 3), (90, 8), (23, 1)])
def test_the_newest_text_is_shown_from_its_end(session: ViewerState, size: tuple[int, int]) -> None:
    session.view = session.view.select(None)
    frame = session.frame()
    assert frame.text is not None
    wanted = "".join(clean(piece) for piece in frame.text.pieces).replace("⏎", "")
    lines = draw_text(frame, *size).lines()
    shown = "".join(line.rstrip() for line in lines).replace(" ", "")
    assert wanted.replace(" ", "").endswith(shown)
    assert len(shown) > size[0] * (size[1] - 1) // 2
    session.scroll_text(-2)
    above = draw_text(session.frame(), *size).lines()
    assert above[2:] == lines[: max(size[1] - 2, 0)]
