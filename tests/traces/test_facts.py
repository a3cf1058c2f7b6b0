"""Facts in markers: what is written is what is read."""

from __future__ import annotations

import pytest

from megacontext.traces.facts import Answered, Asked, Planted, QuestionAbout, Typed, reserved_in

FACTS = [Typed(0, 64), Asked(3, 9), Answered(9, 9), Planted(32, 64, "north archive"), Planted(1, 2)]


@pytest.mark.parametrize("fact", FACTS, ids=str)
def test_a_fact_is_read_as_it_was_written_and_by_its_own_type_alone(fact: Typed) -> None:
    for kind in (Typed, Asked, Answered, Planted):
        assert kind.find(str(fact)) == ([fact] if type(fact) is kind else [])
    assert reserved_in(f"my {fact}") is not None


def test_facts_of_one_row_are_told_apart() -> None:
    marker = "; ".join(["start", *map(str, FACTS), "typed by hand"])
    assert Typed.find(marker) == [Typed(0, 64)]
    assert Planted.find(marker) == [Planted(32, 64, "north archive"), Planted(1, 2)]
    assert Asked.find(None) == []


def test_texts_of_traces_that_exist() -> None:
    assert [str(fact) for fact in FACTS] == [
        "typed @0-64",
        "asked @3-9",
        "answered @9-9",
        "needle planted @32-64 north archive",
        "needle planted @1-2",
    ]


@pytest.mark.parametrize(
    ("marker", "question"),
    [
        ("question about the gate", QuestionAbout("the gate")),
        ("question @4-9", QuestionAbout(span=(4, 9))),
        ("start; question; asked @3-9", QuestionAbout()),
        ("question", QuestionAbout()),
        ("a questionable marker", None),
        ("question of taste", None),
        (None, None),
    ],
)
def test_a_question_names_what_it_is_about(
    marker: str | None, question: QuestionAbout | None
) -> None:
    assert QuestionAbout.find(marker) == question
    if question is not None:
        assert QuestionAbout.find(str(question)) == question


@pytest.mark.parametrize("text", ["start", "typed", "question about x", "typed @x-3"])
def test_other_words_are_free(text: str) -> None:
    assert reserved_in(text) is None
