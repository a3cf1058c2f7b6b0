"""Needles that share no word with their question: only world knowledge leads to them.

After NoLiMa (Modarressi et al., ICML 2025, arXiv 2502.05167), with needles of our own. Each
history holds facts of the same kind about other people; the answer is a name.
"""

from __future__ import annotations

import numpy as np

from megacontext.core.benchmarks.planting import Ask, Make, Scene
from megacontext.core.data.recall.lexicon import FIRST
from megacontext.traces.errors import ConfigError

__all__ = ["NEEDLES", "NEEDLE_TASKS"]

Rng = np.random.Generator
_DISTRACTORS = 3

NEEDLES: dict[str, tuple[tuple[str, str], ...]] = {
    "travel": (
        ("{name} took the stairs up the Eiffel Tower.", "has been to Paris"),
        ("{name} spent a whole afternoon inside the Colosseum.", "has been to Rome"),
        ("{name} heard Big Ben strike noon.", "has been to London"),
        ("{name} rode a camel around the pyramids of Giza.", "has been to Egypt"),
        ("{name} sailed past the Statue of Liberty at dawn.", "has been to New York"),
        ("{name} wept in front of the Taj Mahal.", "has been to India"),
        ("{name} climbed Mount Fuji in heavy rain.", "has been to Japan"),
        ("{name} walked through the Brandenburg Gate at midnight.", "has been to Berlin"),
        ("{name} cycled across the Golden Gate Bridge.", "has been to San Francisco"),
        ("{name} attended a concert at the Bolshoi Theatre.", "has been to Moscow"),
        ("{name} photographed the Acropolis by moonlight.", "has been to Athens"),
        ("{name} fed a kangaroo on the edge of the outback.", "has been to Australia"),
    ),
    "work": (
        ("{name} pulls out rotten teeth all day.", "is a dentist"),
        ("{name} lands passenger jets even in thick fog.", "is a pilot"),
        ("{name} takes warm loaves out of the oven before sunrise.", "is a baker"),
        ("{name} sprays water on burning houses.", "works for the fire brigade"),
        ("{name} hands out homework to thirty children.", "is a teacher"),
        ("{name} milks forty cows every morning.", "is a farmer"),
        ("{name} operates on broken hearts in the hospital.", "is a surgeon"),
        ("{name} defends the accused in court.", "is a lawyer"),
        ("{name} repairs leaking pipes under kitchen sinks.", "is a plumber"),
        ("{name} stands behind the stove and seasons the soup for the guests.", "is a cook"),
    ),
    "life": (
        ("{name} eats neither meat nor fish.", "is a vegetarian"),
        ("{name} has a pet that barks at the postman.", "owns a dog"),
        ("{name} has a pet that purrs on the sofa.", "owns a cat"),
        ("{name} won the tournament with a checkmate.", "plays chess"),
        ("{name} practises on eighty-eight black and white keys.", "plays the piano"),
        ("{name} watches the rings of Saturn from the roof.", "owns a telescope"),
        ("{name} collects honey while wearing a veil.", "keeps bees"),
        ("{name} hit a home run last summer.", "plays baseball"),
        ("{name} speaks the language of Lisbon at home.", "knows Portuguese"),
        ("{name} said yes and got a golden ring.", "is engaged to be married"),
    ),
}
"""(fact, what is asked for), by kind; no word of meaning stands in both."""


def _scenes(kind: str) -> Make:
    def make(rng: Rng, multiple: int) -> list[Scene]:
        pairs = NEEDLES[kind]
        each = 1 + _DISTRACTORS
        if multiple > len(pairs):
            raise ConfigError(
                f"--shared-haystack: {multiple} needles in a text are too many; use at most "
                f"{len(pairs)}."
            )
        # Facts do not come twice in a history; where they run out, scenes get smaller.
        each = max(1, min(each, len(pairs) // multiple))
        picked = rng.permutation(len(pairs))
        names = [FIRST[i] for i in rng.permutation(len(FIRST))]
        scenes: list[Scene] = []
        for number in range(multiple):
            own = [int(i) for i in picked[number * each : (number + 1) * each]]
            asked = int(rng.integers(each))
            people = names[number * each : (number + 1) * each]
            facts = tuple(
                pairs[i][0].format(name=name) for i, name in zip(own, people, strict=True)
            )
            label = pairs[own[asked]][1]
            question = f"\nQuestion: Which person {label}?\nAnswer: The person who {label} is"
            scenes.append(Scene(facts, Ask(question, people[asked], (asked,))))
        return scenes

    return make


NEEDLE_TASKS: dict[str, Make] = {kind: _scenes(kind) for kind in NEEDLES}
