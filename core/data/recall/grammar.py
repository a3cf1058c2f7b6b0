"""Composed templates: thousands of statement and question forms from small slots.

A template has the fields of :mod:`.wording` (``{a}``, ``{k}``, ``{v}``). It
is on one side of the train / held-out split by its hash, like a written one: whoever draws it
throws away those of the other side. Training templates have more to be composed of.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from megacontext.core.data.recall import training_slots
from megacontext.core.data.recall.lexicon import Split, side
from megacontext.core.data.recall.wording import fragments

__all__ = ["compose_code", "compose_question", "compose_statement"]

Rng = np.random.Generator

_SUBJECTS = fragments(
    """the {a} of {k};{k}'s {a};the {a} for {k};the {a} belonging to {k};the {a} {k} has;
the {a} that {k} uses;the {a} given to {k};the {a} under {k};the {a} from {k};the {a} at {k};
the {a} with {k};the {a} we keep for {k};the {a} assigned to {k};the {a} tied to {k};
the current {a} of {k};the old {a} of {k};the only {a} of {k};{k}, its {a},;the {a} in {k};
the {a} known for {k};the {a} on {k};the exact {a} for {k};{a} of {k};{k} {a};the {k} {a}
""",
    ";",
)
_LINKS = fragments(
    """is;was;is now;is still;has become;became;remains;reads;equals;will be;should be;must be;
happens to be;is called;is known as;is given as;was found to be;appears as;stands at;is set to;
was chosen to be;is said to be;is listed as;is just;is simply;is exactly;shows;says;came out as;
was fixed as;turned out to be;is recorded as;is none other than;has been;counts as;is, we think,;
is:;was:;means;seems to be;ought to be;had to be;is written""",
    ";",
)
_HAS = fragments(
    """has;got;keeps;took;holds;uses;carries;chose;received;was given;was issued;picked;wants;
bears;shows;wears;needs;owns;prefers;asked for;settled on;ended up with;goes by;came with;
is listed with;is registered with;is marked with;is known for;lives with;answers to
""",
    ";",
)
_ROLES = fragments(
    """as its {a};as the {a};for a {a};for the {a};as {a};by way of {a};in the {a} column;
under {a};(the {a});as a kind of {a};when asked for the {a};in place of the old {a}
""",
    ";",
)
_BREAKS = [" - ", ": ", " | ", " / ", " = ", ", ", " -> ", "; ", " :: ", " => ", " ", " .. ", "\t"]
_MARKS = ["", "", "", "", "- ", "* ", "> ", "1) ", "## ", "+ ", "~ ", "[x] "]
_OPENINGS = fragments(
    """what is;what was;tell me;which is;give me;name;repeat;state;what would be;what about;
say;find;look up;recall;do you know;can you give;I am looking for;please state;write down;show me;
how do you call;we need;what do we have for;what did they say about;quote;what exactly is;
remind me of;have you got;read out""",
    ";",
)
_WHICH = fragments(
    """which {a} {h} {k}?;what {a} {h} {k}?;{k} {h} which {a}?;{k} {h} what {a}?;
which {a} is with {k}?;for {k}, which {a}?;{k} and which {a}?;what {a} belongs with {k}?;
what stands as {a} beside {k}?;by which {a} is {k} known?;which {a} can be tied to {k}?;
what does {k} have as {a}?;what did {k} get as {a}?;what has {k} for a {a}?
""",
    ";",
)
_AUXILIARY = ["does", "did", "has", "had", "would", "should", "may", "will"]

_KEYWORDS = [
    "",
    "",
    "",
    "",
    "let ",
    "var ",
    "const ",
    "val ",
    "final ",
    "static ",
    "local ",
    "set ",
]
_KEYWORDS += ["my ", "def ", "auto ", "string ", "int ", "export ", "global ", "use ", "#define "]
_KEYWORDS += ["self.", "this.", "cfg.", "opts.", "$", "@", "--", "-D", ":", "# ", "// ", "; ", "* "]
_TYPES = ["", "", "", "", ": str", ": int", ": string", ": &str", ": Final", " string", "[0]", "?"]
_SETS = [
    " = ",
    "=",
    " := ",
    ": ",
    " <- ",
    " -> ",
    " => ",
    " == ",
    " ",
    "\t",
    " : ",
    ", ",
    " | ",
    "(",
]
_QUOTED = ["{v}", "{v}", '"{v}"', '"{v}"', "'{v}'", "`{v}`", "<{v}>", "[{v}]", 'f"{v}"']
_ENDS = ["", "", "", "", ";", ",", " \\", "  # set", " |"]


class _Slots(NamedTuple):
    """What templates are composed of."""

    subjects: list[str]
    links: list[str]
    has: list[str]
    roles: list[str]
    breaks: list[str]
    marks: list[str]
    openings: list[str]
    which: list[str]


_LISTED = _Slots(_SUBJECTS, _LINKS, _HAS, _ROLES, _BREAKS, _MARKS, _OPENINGS, _WHICH)
_MORE = _Slots(
    training_slots.SUBJECTS,
    training_slots.LINKS,
    training_slots.HAS,
    training_slots.ROLES,
    training_slots.BREAKS,
    training_slots.MARKS,
    training_slots.OPENINGS,
    training_slots.WHICH,
)
_SLOTS: dict[Split, _Slots] = {
    "heldout": _LISTED,
    "train": _Slots(*([*listed, *more] for listed, more in zip(_LISTED, _MORE, strict=True))),
}


def _choose(rng: Rng, items: list[str]) -> str:
    return items[int(rng.integers(len(items)))]


def compose_statement(rng: Rng, split: Split) -> str:
    """A statement template of ``split`` with all three fields."""
    slots = _SLOTS[split]
    while True:
        form = rng.random()
        if form < 0.4:
            text = f"{_choose(rng, slots.subjects)} {_choose(rng, slots.links)} {{v}}"
        elif form < 0.6:
            text = f"{{k}} {_choose(rng, slots.has)} {{v}} {_choose(rng, slots.roles)}"
        elif form < 0.68:
            text = f"{{k}} {_choose(rng, slots.has)} the {{a}} {{v}}"
        elif form < 0.78:
            text = f"{{v}} {_choose(rng, slots.links)} {_choose(rng, slots.subjects)}"
        else:
            order = ["{k}", "{a}", "{v}"] if rng.random() < 0.6 else ["{a}", "{k}", "{v}"]
            if rng.random() < 0.15:
                order = ["{v}", "{k}", "{a}"]
            first, second = _choose(rng, slots.breaks), _choose(rng, slots.breaks)
            text = _choose(rng, slots.marks) + order[0] + first + order[1] + second + order[2]
        if side(text) == split:
            return text


def compose_question(rng: Rng, split: Split) -> str:
    """A question template of ``split`` with ``{a}`` and ``{k}``."""
    slots = _SLOTS[split]
    while True:
        if rng.random() < 0.65:
            end = "?" if rng.random() < 0.8 else _choose(rng, [".", ":", "", "!"])
            opening, subject = _choose(rng, slots.openings), _choose(rng, slots.subjects)
            text = f"{opening} {subject.rstrip(',')}{end}"
        else:
            text = _choose(rng, slots.which).replace("{h}", _choose(rng, _AUXILIARY))
        if side(text) == split:
            return text


def compose_code(rng: Rng, split: Split) -> str:
    """A line of code or of a configuration, of ``split``, with ``{k}`` and ``{v}``."""
    while True:
        sets = _choose(rng, _SETS)
        value, end = _choose(rng, _QUOTED), _choose(rng, _ENDS)
        if sets == "(":
            end = ");" if end == ";" else ")"
        text = f"{_choose(rng, _KEYWORDS)}{{k}}{_choose(rng, _TYPES)}{sets}{value}{end}"
        if side(text) == split:
            return text
