"""What scenes are made of: facts, questions, and the wording that both draw from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from megacontext.core.data.recall import training_slots, training_wording, wording
from megacontext.core.data.recall.grammar import compose_question, compose_statement
from megacontext.core.data.recall.lexicon import WordLists

__all__ = [
    "Ask",
    "Scene",
    "as_question",
    "cap",
    "cap_around",
    "choose",
    "distinct",
    "draw_attribute",
    "draw_lead",
    "draw_question",
    "draw_statement",
    "draw_tail",
    "fill",
    "style",
    "with_training",
    "wrap",
]

Rng = np.random.Generator


@dataclass(frozen=True)
class Ask:
    """One question: ``prompt`` ends where ``answer`` starts; ``closing`` ends the answer.

    ``question`` is the bare wording without a wrapper (empty for code and continuation prompts).
    ``gold`` are the indices of the statements the answer needs.
    """

    prompt: str
    answer: str
    closing: str
    gold: tuple[int, ...]
    question: str = ""


@dataclass(frozen=True)
class Scene:
    """Statements in order and questions about them. Statements of code scenes are whole lines."""

    kind: str
    statements: tuple[str, ...]
    asks: tuple[Ask, ...]
    lines: bool = False


# The canonical wrapper is the first: evaluation decodes greedily behind "\nAnswer:" up to "\n".
_WRAPPERS: tuple[tuple[str, str], ...] = (
    ("\nQuestion: {q}\nAnswer: ", "\n"),
    ("\nQ: {q}\nA: ", "\n"),
    ("\nUser: {q}\nAssistant: ", "\n"),
    (" {q} ", "."),
    ("\n{q}\n", "\n"),
    ("\n> {q}\n", "\n"),
    ("\nquestion: {q} answer: ", "\n"),
    ("\n- {q} ", "\n"),
    ('\n"{q}"\n"', '."\n'),
    ("\n# {q}\n# ", "\n"),
)


def choose(rng: Rng, items: tuple[str, ...] | list[str]) -> str:
    return items[int(rng.integers(len(items)))]


def with_training(word_lists: WordLists, listed: list[str], more: list[str]) -> list[str]:
    """The templates of both splits; for the training split, its own ones as well."""
    return [*listed, *more] if word_lists.split == "train" else listed


def cap(text: str) -> str:
    return text[:1].upper() + text[1:]


def cap_around(text: str, value: str) -> str:
    """Capitalized, unless the text starts with the value, which keeps its spelling."""
    return text if text.startswith(value) else cap(text)


def style(rng: Rng, text: str) -> str:
    """One of several casings; keys and values keep their spelling in most of them."""
    form = rng.random()
    if form < 0.7:
        return cap(text)
    if form < 0.95:
        return text
    return text.upper() if form < 0.975 else text.lower()


def distinct(rng: Rng, draw: Callable[[Rng], str], count: int) -> list[str]:
    items: dict[str, None] = {}
    for _ in range(count * 6):
        if len(items) == count:
            break
        items[draw(rng)] = None
    return list(items)


def wrap(rng: Rng, question: str, answer: str, gold: tuple[int, ...], canonical: bool) -> Ask:
    index = 0 if canonical or rng.random() < 0.45 else int(rng.integers(1, len(_WRAPPERS)))
    prompt, closing = _WRAPPERS[index]
    return Ask(prompt.replace("{q}", question), answer, closing, gold, question)


def as_question(word_lists: WordLists, rng: Rng, core: str) -> str:
    leads = with_training(word_lists, wording.QUESTION_LEADS, training_slots.QUESTION_LEADS)
    lead = word_lists.pick(rng, leads) + " " if rng.random() < 0.25 else ""
    return cap(lead + core) if rng.random() < 0.85 else lead + core


def draw_statement(word_lists: WordLists, rng: Rng) -> str:
    """A written or a composed template, at times with a few stray words in it."""
    if rng.random() < 0.4:
        listed = with_training(word_lists, wording.STATEMENTS, training_wording.STATEMENTS)
        template = word_lists.pick(rng, listed)
    else:
        template = compose_statement(rng, word_lists.split)
    if rng.random() < 0.12:
        words = template.split(" ")
        position = int(rng.integers(len(words) + 1))
        stray = [word_lists.word(rng) for _ in range(int(rng.integers(1, 5)))]
        if word_lists.split != "train" or "{v}" not in "".join(
            words[max(0, position - 1) : position + 1]
        ):
            words[position:position] = stray
        template = " ".join(words)
    return _perturbed(word_lists, rng, template, 0.08)


def draw_lead(word_lists: WordLists, rng: Rng) -> str:
    return word_lists.pick(
        rng, with_training(word_lists, wording.STATEMENT_LEADS, training_slots.LEADS)
    )


def draw_tail(word_lists: WordLists, rng: Rng) -> str:
    return word_lists.pick(
        rng, with_training(word_lists, wording.STATEMENT_TAILS, training_slots.TAILS)
    )


def draw_question(word_lists: WordLists, rng: Rng, written: list[str] | None) -> str:
    if written is not None:
        return word_lists.pick(rng, written)
    if rng.random() < 0.5:
        listed = with_training(word_lists, wording.QUESTIONS, training_wording.QUESTIONS)
        core = word_lists.pick(rng, listed)
    else:
        core = compose_question(rng, word_lists.split)
    return _perturbed(word_lists, rng, core, 0.15)


def _perturbed(word_lists: WordLists, rng: Rng, template: str, prob: float) -> str:
    """In the training split, with probability ``prob``: words removed, replaced or inserted.

    Words next to the value do not change, so that it stays clear where the value ends.
    """
    if word_lists.split != "train" or rng.random() >= prob:
        return template

    # One to three times: insert words, remove some, or replace some.
    for _ in range(int(rng.integers(1, 4))):
        words = template.split(" ")
        fields = [i for i, word in enumerate(words) if "{" in word]
        value = [i for i in fields if "{v}" in words[i]]
        other_words = [i for i in range(len(words)) if i not in fields]

        form = rng.random()
        if form < 0.4 or not other_words:
            positions = [i for i in range(len(words) + 1) if i not in value and i - 1 not in value]
            if positions:
                at = positions[int(rng.integers(len(positions)))]
                words[at:at] = word_lists.run(rng, int(rng.integers(1, 6)))
        else:
            at = other_words[int(rng.integers(len(other_words)))]
            if at - 1 in value or at + 1 in value:
                continue
            words[at : at + 1] = [] if form < 0.6 else word_lists.run(rng, int(rng.integers(1, 3)))
        template = " ".join(words)
    return template


def draw_attribute(word_lists: WordLists, rng: Rng) -> str:
    """Mostly listed attributes; any word can be one."""
    form = rng.random()
    if form < 0.6:
        return word_lists.pick(
            rng, with_training(word_lists, wording.ATTRIBUTES, training_wording.ATTRIBUTES)
        )
    if form < 0.85:
        return word_lists.some_word(rng)
    return f"{word_lists.word(rng)} {word_lists.some_word(rng)}"


def fill(template: str, key: str, value: str, attribute: str = "") -> str:
    return template.replace("{a}", attribute).replace("{k}", key).replace("{v}", value)
