"""Small worlds hidden in prose: people walk, take and give things, and questions need the state.

After bAbI's tasks 1 to 5 (Weston et al., arXiv 1502.05698) and their hiding in long texts
(BABILong, Kuratov et al., NeurIPS 2024), with a generator, actors and wording of our own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from megacontext.core.benchmarks.planting import Ask, Make, Scene
from megacontext.core.data.recall.lexicon import FIRST, words
from megacontext.traces.errors import ConfigError

__all__ = ["WORLD_TASKS"]

Rng = np.random.Generator
_ROOMS = ("cellar", "library", "garden", "kitchen", "attic", "workshop", "chapel", "stable")
_THINGS = words("""apple basket blanket book bottle bucket candle compass crown cup diary flute
guitar hammer helmet jacket kettle lamp lantern mask medal mirror notebook parcel pencil ring rope
sword ticket umbrella violin wallet""")
_WALKS = (
    "{who} walked to the {room}.",
    "{who} went to the {room}.",
    "{who} hurried to the {room}.",
)
_TAKES = ("{who} picked up the {thing}.", "{who} took the {thing}.")
_DROPS = ("{who} put down the {thing}.", "{who} left the {thing} there.")
_SIDES = (("north", "south"), ("east", "west"))


@dataclass
class _World:
    """Two people and two things in the rooms of a house; every sentence is true as it is said."""

    rng: Rng
    people: tuple[str, ...]
    things: tuple[str, ...]
    sentences: list[str] = field(default_factory=list)
    room_of: dict[str, tuple[str, int]] = field(default_factory=dict)
    held: dict[str, tuple[str, int]] = field(default_factory=dict)
    places: dict[str, list[tuple[str, tuple[int, ...]]]] = field(default_factory=dict)

    def say(self, forms: tuple[str, ...], **names: str) -> int:
        self.sentences.append(str(self.rng.choice(forms)).format(**names))
        return len(self.sentences) - 1

    def walk(self, who: str) -> None:
        """To another room; what is carried comes along."""
        now = self.room_of.get(who, ("", -1))[0]
        capacity = str(self.rng.choice([capacity for capacity in _ROOMS if capacity != now]))
        at = self.say(_WALKS, who=who, room=capacity)
        self.room_of[who] = capacity, at
        for thing, (holder, taken) in self.held.items():
            if holder == who:
                self.places.setdefault(thing, []).append((capacity, (taken, at)))

    def take(self, who: str, thing: str) -> None:
        """From the room where they are."""
        at = self.say(_TAKES, who=who, thing=thing)
        self.held[thing] = who, at
        capacity, walked = self.room_of[who]
        self.places.setdefault(thing, []).append((capacity, (walked, at)))

    def drop(self, thing: str) -> None:
        who, _ = self.held.pop(thing)
        self.say(_DROPS, who=who, thing=thing)


def _asked(question: str, lead: str) -> str:
    return f"\nQuestion: {question}\nAnswer: {lead}"


def _one_fact(rng: Rng, people: tuple[str, ...], things: tuple[str, ...]) -> Scene:
    """Where is a person?"""
    world = _World(rng, people, things)
    for number in range(8):
        world.walk(people[number % 2] if number < 2 else str(rng.choice(people)))
    who = str(rng.choice(people))
    capacity, at = world.room_of[who]
    question = _asked(f"Where is {who}?", f"{who} is in the")
    return Scene(tuple(world.sentences), Ask(question, capacity, (at,)))


def _carried(rng: Rng, people: tuple[str, ...], things: tuple[str, ...]) -> _World:
    """Each person takes a thing along through several rooms."""
    world = _World(rng, people, things)
    for who in people:
        world.walk(who)
    for who, thing in zip(people, things, strict=True):
        world.take(who, thing)
    for _ in range(3):
        for who in rng.permutation(people):
            world.walk(str(who))
    for thing in things:
        if rng.random() < 0.5:
            world.drop(thing)
            world.walk(people[things.index(thing)])
    return world


def _two_facts(rng: Rng, people: tuple[str, ...], things: tuple[str, ...]) -> Scene:
    """Where is a thing?"""
    world = _carried(rng, people, things)
    thing = str(rng.choice(things))
    capacity, needed = world.places[thing][-1]
    # Where it was left behind counts, too: without that sentence it would be elsewhere.
    left = [i for i, s in enumerate(world.sentences) if thing in s and i > needed[-1]]
    question = _asked(f"Where is the {thing}?", f"The {thing} is in the")
    return Scene(tuple(world.sentences), Ask(question, capacity, (*needed, *left)))


def _three_facts(rng: Rng, people: tuple[str, ...], things: tuple[str, ...]) -> Scene:
    """Where was a thing before?"""
    world = _carried(rng, people, things)
    thing = str(rng.choice(things))
    trail = world.places[thing]
    # The last visit of that room, and what came directly before it.
    at = len(trail) - 1
    (before, first), (capacity, second) = trail[at - 1], trail[at]
    visits = [i for i, (name, _) in enumerate(trail) if name == capacity]
    if len(visits) > 1:  # the question would have two answers
        return _three_facts(rng, people, things)
    question = _asked(
        f"Where was the {thing} before the {capacity}?",
        f"Before the {capacity}, the {thing} was in the",
    )
    needed = tuple(sorted({*first, *second}))
    return Scene(tuple(world.sentences), Ask(question, before, needed))


def _sides(rng: Rng, people: tuple[str, ...], things: tuple[str, ...]) -> Scene:
    """What lies on one side of a room? Only names tell this scene's rooms from others'."""
    names = [f"{people[0]}'s {capacity}" for capacity in rng.permutation(_ROOMS)[:3]]
    axis = _SIDES[int(rng.integers(2))]
    middle = names[1]
    sentences = (
        f"The {axis[0]}ern neighbour of {middle} is {names[0]}.",
        f"The {axis[1]}ern neighbour of {middle} is {names[2]}.",
    )
    asked = int(rng.integers(2))
    text = f"{axis[asked]} of {middle}"
    question = _asked(f"What lies {text}?", f"What lies {text} is {people[0]}'s")
    answer = names[2 * asked].partition("'s ")[2]
    return Scene(sentences, Ask(question, answer, (asked,)))


def _gifts(rng: Rng, people: tuple[str, ...], things: tuple[str, ...]) -> Scene:
    """Who gave what to whom?"""
    giver, taker = people
    first, second = things
    sentences = (
        f"{giver} gave the {first} to {taker}.",
        f"{taker} gave the {second} to {giver}.",
        f"{taker} thanked {giver}.",
    )
    kind = int(rng.integers(3))
    question, lead, answer = (
        (f"Who gave the {first} away?", f"The {first} was given away by", giver),
        (f"Who received the {first}?", f"The {first} was given to", taker),
        (f"What did {giver} give to {taker}?", f"{giver} gave {taker} the", first),
    )[kind]
    return Scene(sentences, Ask(_asked(question, lead), answer, (0,)))


Build = Callable[[Rng, tuple[str, ...], tuple[str, ...]], Scene]


def _maker(build: Build) -> Make:
    """Scenes of two people and two things each; nobody and nothing is in two of them."""

    def make(rng: Rng, multiple: int) -> list[Scene]:
        people = [FIRST[i] for i in rng.permutation(len(FIRST))]
        things = [_THINGS[i] for i in rng.permutation(len(_THINGS))]
        if 2 * multiple > len(things):
            raise ConfigError(
                f"--shared-haystack: {multiple} worlds in a text are too many; use at most "
                f"{len(things) // 2}."
            )
        pairs = [slice(2 * number, 2 * number + 2) for number in range(multiple)]
        return [build(rng, tuple(people[pair]), tuple(things[pair])) for pair in pairs]

    return make


WORLD_TASKS: dict[str, Make] = {
    "qa1": _maker(_one_fact),
    "qa2": _maker(_two_facts),
    "qa3": _maker(_three_facts),
    "qa4": _maker(_sides),
    "qa5": _maker(_gifts),
}
