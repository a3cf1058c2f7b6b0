"""Own facts: several facts in the same words, told apart by their key alone.

Two families of wording share no template: ``calibration`` is what a lens or threshold may be fitted
on, ``held_out`` what it is measured on. ``calibration_list`` asks for three values of one key,
``calibration_chain`` for two names of which the first leads to the second; both are for fitting.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from megacontext.core.benchmarks.planting import Ask, Make, Scene
from megacontext.core.data.recall.lexicon import FIRST, LAST, PLACES, QUALITIES, THINGS

__all__ = ["FACT_TASKS", "FAMILIES", "Wording", "chain_scenes", "fact_scenes", "list_scenes"]

Rng = np.random.Generator
_SAME = 4  # facts in the same words about one question


@dataclass(frozen=True)
class Wording:
    """One way of saying a fact, and of asking for its value up to where the value begins.

    Attributes:
        fact, question, lead: with ``{key}``, the first also with ``{value}``.
        key, value: kinds of ``_KEYS`` and ``_VALUES``.
    """

    fact: str
    question: str
    lead: str
    key: str
    value: str


FAMILIES: dict[str, tuple[Wording, ...]] = {
    "calibration": (
        Wording(
            "The access code of the {key} is {value}.",
            "What is the access code of the {key}?",
            "The access code of the {key} is",
            "thing",
            "digits",
        ),
        Wording(
            "{key} was given the badge number {value} on the first day.",
            "Which badge number was {key} given?",
            "{key} was given the badge number",
            "person",
            "digits",
        ),
        Wording(
            "Remember that {key} moved to {value} last spring.",
            "Where did {key} move last spring?",
            "Last spring {key} moved to",
            "person",
            "place",
        ),
        Wording(
            "The invoice for the {key} carries the reference {value}.",
            "Which reference does the invoice for the {key} carry?",
            "The invoice for the {key} carries the reference",
            "thing",
            "letters",
        ),
        Wording(
            "In the register the {key} is listed under {value}.",
            "Under what is the {key} listed in the register?",
            "In the register the {key} is listed under",
            "thing",
            "letters",
        ),
    ),
    "held_out": (
        Wording(
            "Anyone who wants to open the {key} has to dial {value}.",
            "What has to be dialled to open the {key}?",
            "To open the {key}, one has to dial",
            "thing",
            "digits",
        ),
        Wording(
            "{key} can be reached on extension {value} in the afternoon.",
            "On which extension can {key} be reached?",
            "{key} can be reached on extension",
            "person",
            "digits",
        ),
        Wording(
            "The parents of {key} met while they were students in {value}.",
            "In which city did the parents of {key} meet?",
            "The parents of {key} met in",
            "person",
            "place",
        ),
        Wording(
            "Somebody wrote the password {value} on the back of the {key}.",
            "Which password is written on the back of the {key}?",
            "The password on the back of the {key} is",
            "thing",
            "letters",
        ),
        Wording(
            "The patent for the {key} was filed as {value}.",
            "As what was the patent for the {key} filed?",
            "The patent for the {key} was filed as",
            "thing",
            "letters",
        ),
    ),
}


def _thing(rng: Rng) -> str:
    return f"{rng.choice(QUALITIES)} {rng.choice(THINGS)}"


def _person(rng: Rng) -> str:
    return f"{rng.choice(FIRST)} {rng.choice(LAST)}"


def _digits(rng: Rng) -> str:
    return str(rng.integers(10_000, 100_000))


def _letters(rng: Rng) -> str:
    return "".join(rng.choice(list(string.ascii_uppercase), size=5))


def _place(rng: Rng) -> str:
    return str(rng.choice(PLACES))


_KEYS: dict[str, Callable[[Rng], str]] = {"thing": _thing, "person": _person}
_VALUES: dict[str, Callable[[Rng], str]] = {
    "digits": _digits,
    "letters": _letters,
    "place": _place,
}


def _unique(rng: Rng) -> Callable[[Callable[[Rng], str]], str]:
    """Draws texts that were not drawn before."""
    used: set[str] = set()

    def fresh(draw: Callable[[Rng], str]) -> str:
        while (text := draw(rng)) in used:
            pass
        used.add(text)
        return text

    return fresh


def fact_scenes(family: str) -> Make:
    """Makes scenes of ``_SAME`` facts in one wording, of which one is asked for.

    Keys and values are unique in a history.
    """

    def make(rng: Rng, multiple: int) -> list[Scene]:
        wordings = [FAMILIES[family][i] for i in rng.permutation(len(FAMILIES[family]))]
        fresh = _unique(rng)
        scenes: list[Scene] = []
        for number in range(multiple):
            wording = wordings[number % len(wordings)]
            pairs = [
                (fresh(_KEYS[wording.key]), fresh(_VALUES[wording.value])) for _ in range(_SAME)
            ]
            asked = int(rng.integers(_SAME))
            key, value = pairs[asked]
            question, lead = wording.question.format(key=key), wording.lead.format(key=key)
            text = f"\nQuestion: {question}\nAnswer: {lead}"
            facts = tuple(wording.fact.format(key=key, value=value) for key, value in pairs)
            scenes.append(Scene(facts, Ask(text, value, (asked,))))
        return scenes

    return make


def list_scenes(rng: Rng, multiple: int) -> list[Scene]:
    """Scenes of three values of one key among two facts about other keys; all three are asked for.

    The answer names them in the order of the text.
    """
    fresh = _unique(rng)
    scenes: list[Scene] = []
    for _ in range(multiple):
        asked, *others = (fresh(_thing) for _ in range(_SAME - 1))
        keys = [asked, *others, asked, asked]
        values = [fresh(_person) for _ in keys]
        order = rng.permutation(len(keys))
        facts = tuple(f"The {keys[i]} was lent to {values[i]} for a week." for i in order)
        needed = tuple(at for at, i in enumerate(order) if keys[i] == asked)
        first, second, third = (values[order[at]] for at in needed)
        question = f"To whom was the {asked} lent for a week? Name all three."
        text = f"\nQuestion: {question}\nAnswer: The {asked} was lent to"
        scenes.append(Scene(facts, Ask(text, f"{first}, {second} and {third}", needed)))
    return scenes


def chain_scenes(rng: Rng, multiple: int) -> list[Scene]:
    """Scenes of two chains of two facts; both links of one of them are asked for.

    The second link shares nothing with its question but words that all the chains share.
    """
    fresh = _unique(rng)
    scenes: list[Scene] = []
    for _ in range(multiple):
        chains = [[fresh(_person) for _ in range(3)] for _ in range(2)]
        links = [pair for chain in chains for pair in pairwise(chain)]
        order = rng.permutation(len(links)).tolist()
        facts = tuple(f"{links[i][0]} is also known as {links[i][1]}." for i in order)

        asked = int(rng.integers(len(chains)))
        start, second, third = chains[asked]
        question = f"By which two other names is {start} known?"
        text = f"\nQuestion: {question}\nAnswer: {start} is also known as"
        needed = tuple(sorted(order.index(2 * asked + link) for link in range(2)))
        scenes.append(Scene(facts, Ask(text, f"{second} and {third}", needed)))
    return scenes


FACT_TASKS: dict[str, Make] = {
    "held_out": fact_scenes("held_out"),
    "calibration": fact_scenes("calibration"),
    "calibration_list": list_scenes,
    "calibration_chain": chain_scenes,
}
