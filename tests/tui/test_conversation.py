"""Asking a running session: the view follows, the answer streams, turns lead to their steps."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from screen import screen_text
from textual.widgets import Input, OptionList

from megacontext.tui.app import InspectorApp
from megacontext.tui.render.bars import draw_title, story
from megacontext.tui.render.conversation import draw_conversation, talk_lines, turn_facts
from megacontext.tui.screens import ConversationScreen
from megacontext.tui.sources.file_source import FileSource
from megacontext.tui.state.turns import (
    Exchange,
    Turn,
    marker_label,
    marker_labels,
    spoken,
    turn_spans,
    without_end,
)
from megacontext.tui.state.view import Node
from megacontext.tui.state.viewer import ViewerState
from megacontext.tui.widgets import ActionsPane, ConversationPane

ASKED = "\nQuestion: Which number opens the gate?\nAnswer:"
SIZES = [(80, 24), (120, 40), (200, 60)]


@pytest.fixture
def asked(story):
    """Rows in which step 36 asks (its row opens block 5) and step 37 answers, one token a word."""

    def make(mode="LIVE", visible=None):
        source = story(mode=mode)
        pieces = ["\nQuestion:", " Which", " number", " opens", " the", " gate", "?", "\nAnswer:"]
        source.raw[36].marker = "typed @288-296; asked @288-296"
        source.raw[36].new_text = pieces
        source.raw[37].marker = "typed @296-300; answered @296-300"
        source.raw[37].new_text = [" 709", "56", ".", "\n", " x", " x", " x", " x"]
        source.raw[37].new_nll = np.array([0.2, 0.1, 0.05, 0.05, 3, 3, 3, 3], np.float32)
        source.pieces_by_token = [text for row in source.raw for text in row.new_text]
        source.nll_by_token = np.concatenate([row.new_nll for row in source.raw])
        source.visible = len(source.raw) if visible is None else visible
        return source

    return make


def test_markers_give_the_turns_and_read_as_words():
    markers = {
        3: "question about gate; asked @10-20",
        4: "answered @20-22; needle planted @30-40 x",
        6: "typed @50-60; asked @50-60",
        9: "typed @70-71",
    }
    first, second = turn_spans(markers)
    assert (first.row, first.start, first.stop, first.answer_stop, first.answer_row) == (
        3, 10, 20, 22, 4,
    )  # fmt: skip
    assert (second.row, second.answer_row) == (6, -1)
    assert [marker_label(said) for said in markers.values()] == [
        "question about gate", "answer; needle planted @30-40 x", "question", "typed",
    ]  # fmt: skip
    assert marker_label("tau_expand 0.2 → 0.05; typed @1-2; answered @1-2") == (
        "tau_expand 0.2 → 0.05; answer"
    )
    assert marker_labels({1: "typed @5-9", 2: "asked @5-9", 3: "typed @11-12"}) == {
        2: "question", 3: "typed",
    }  # fmt: skip
    assert spoken(ASKED) == "Which number opens the gate?"
    assert spoken(" hello \n") == "hello"
    chat = "<|im_start|>user\nWhy is it <3?<|im_end|>\n<|im_start|>assistant\n"
    assert spoken(chat) == "Why is it <3?"
    assert without_end("It is <3.<|im_end|>") == "It is <3."


def test_the_view_follows_what_the_question_opened(asked, clock):
    source = asked(visible=30)
    session = ViewerState(source, clock, unhurried=True)
    session.ask("Which number opens the gate?")
    assert source.control.sent == [("ask", "Which number opens the gate?")]
    source.visible = 36
    session.tick()
    assert session.playback.following, "the question has not arrived yet"
    source.visible = 37
    session.tick()
    assert (session.playback.position, session.playback.following) == (36, False)
    assert session.view.node == Node(1, 5)
    assert session.view.talking
    source.visible = 48
    session.tick()
    assert session.playback.position == 36, "only once: a person may go elsewhere"


def test_an_answer_streams_and_then_comes_from_the_trace_with_its_confidence(asked, clock):
    source = asked(visible=36)
    session = ViewerState(source, clock, unhurried=True)
    session.ask("Which number opens the gate?")
    assert session.frame().turns == ()
    source.control.now = Exchange(ASKED)
    assert session.tick()
    (turn,) = session.frame().turns
    assert (turn.question, turn.answer, turn.row) == ("Which number opens the gate?", "", -1)
    source.visible = 37
    source.control.now = Exchange(ASKED, (" 709", "56"), (0.2, 0.1))
    assert session.tick()
    (turn,) = session.frame().turns
    assert (turn.answer, turn.row, turn.complete) == (" 70956", 36, False)
    assert turn.nll == pytest.approx(0.15)
    assert turn.confidence == pytest.approx(math.exp(-0.15))
    assert not session.only_follows
    source.visible = 38
    source.control.now = replace(source.control.now, complete=True)
    session.tick()
    (turn,) = session.frame().turns
    assert (turn.answer, turn.complete) == (" 70956.\n", True)
    assert turn.nll == pytest.approx(0.1)


def test_the_same_question_asked_again_is_a_turn_of_its_own(asked, clock):
    source = asked()
    session = ViewerState(source, clock, unhurried=True)
    source.control.now = Exchange(ASKED, (" 1",), (0.5,))
    assert [turn.answer for turn in session.frame().turns] == [" 70956.\n", " 1"]


def test_the_pane_shows_question_answer_and_figures_at_any_width(asked, clock):
    session = ViewerState(asked(), clock, unhurried=True)
    frame = session.frame()
    text = " ".join(line.strip() for line in draw_conversation(frame, 40, 8).lines())
    assert "? Which number opens the gate?" in text
    assert "→ 70956." in text
    assert "NLL 0.10 · confidence 90% · step 36" in text
    for width in (1, 2, 5, 17, 30):
        for line in talk_lines(frame, width, 50):
            assert len(line.text) <= max(width, 4)
    assert "i asks" in "".join(draw_conversation(replace(frame, turns=()), 40, 3).lines())


async def test_one_key_asks_and_a_click_goes_back_to_the_question(asked, clock):
    source = asked(visible=40)
    app = InspectorApp(source, clock=clock, ticking=False, unhurried=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("i")
        assert isinstance(app.screen, ConversationScreen)
        await pilot.press(*"why?", "enter")
        assert source.control.sent == [("ask", "why?")]
        pane = app.screen.query_one(ConversationPane)
        assert pane.region.height >= 4
        await pilot.press("end")
        await pilot.click(ConversationPane, offset=(3, 1))
        assert app.session.playback.position == 36
        assert app.session.view.node == Node(1, 5)
        await pilot.press("end", "i", "shift+tab", "enter")
        assert app.session.playback.position == 36
        await pilot.press("escape", "escape", "escape")
        assert not pane.region.area


@pytest.mark.parametrize("size", SIZES)
async def test_the_conversation_is_readable_at_every_size(asked, clock, size):
    app = InspectorApp(asked(), clock=clock, ticking=False, unhurried=True)
    async with app.run_test(size=size) as pilot:
        app.session.ask("why?")
        app.redraw()
        await pilot.pause()
        pane = app.screen.query_one(ConversationPane)
        assert pane.region.height >= 5
        assert "70956" in "".join(strip.text for strip in pane._strips)
        actions = app.screen.query_one(ActionsPane)
        assert bool(actions.region.area) == (size[1] >= 34)
        await pilot.press("8")
        assert pane.region.width > size[0] // 2


async def test_a_replay_lists_its_questions_without_a_line_to_type(asked, clock):
    app = InspectorApp(asked(mode="REPLAY"), clock=clock, ticking=False, unhurried=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("home", "j")
        assert not app.screen.query(Input)
        assert app.screen.query_one(OptionList).option_count == 1
        await pilot.press("enter")
        assert app.session.playback.position == 36


def test_before_the_first_turn_the_story_says_who_is_waited_for(asked, clock):
    source = asked(visible=0)
    source.control.waits = True
    frame = ViewerState(source, clock).frame()
    assert "waits for you: i asks" in story(frame)[0]
    assert "WAITS FOR YOU" in draw_title(frame, 60, 1).lines()[0]


def test_a_trace_on_disk_has_its_turns(tmp_path, asked):
    from megacontext.traces.meta import TraceMeta
    from megacontext.traces.writer import TraceWriter

    path = tmp_path / "run.arrow"
    with TraceWriter(path, TraceMeta(block_size=8, w_max=96, levels=3).to_metadata()) as writer:
        for row in asked().raw:
            writer.put(row)
    source = FileSource(path)
    assert [m.label for m in source.scalars.markers][-2:] == ["question", "answer"]
    (turn,) = ViewerState(source, unhurried=True).frame().turns
    assert (turn.question, turn.answer) == ("Which number opens the gate?", " 70956.\n")
    source.close()


@pytest.mark.parametrize("pieces", [(), (" 709", "56")])
async def test_an_engine_that_is_killed_while_it_answers_streams_no_more(asked, clock, pieces):
    source = asked(visible=30)
    app = InspectorApp(source, clock=clock, ticking=False, unhurried=True)
    async with app.run_test(size=(120, 40)) as pilot:
        app.session.ask("Which number opens the gate?")
        source.control.now = Exchange(ASKED, pieces, (0.2, 0.1)[: len(pieces)])
        app.tick()
        await pilot.pause()
        assert app.session.talk.streaming
        assert "▌" in screen_text(app)
        source.problem = "Disconnected: the engine died (signal 9)."
        source.visible += 1  # a last row comes with it
        app.tick()
        await pilot.pause()
        text = " ".join(screen_text(app).split())
        assert "DISCONNECTED" in text
        assert "▌" not in text.partition("Conversation")[2], "no cursor where nothing comes"
        assert "the run ended" in text
        assert not app.session.talk.streaming


@pytest.mark.parametrize("width", [28, 38, 60])
def test_no_figure_of_a_turn_is_broken_over_two_lines(width: int) -> None:
    turn = Turn("Where?", "Lisbon", nll=0.12, row=2_500, step=2_043, complete=True)
    lines = turn_facts(turn, growing=False, width=width)
    assert " · ".join(lines) == "NLL 0.12 · confidence 89% · step 2,043"
    assert all(len(line) <= width for line in lines)
