"""Scenes: a few facts in one wording, and questions about them.

A scene is text only; :mod:`.writer` inserts it into real text. All facts of a scene share their
statement and kinds of key and value, most also their attribute, so each is a distractor of the
others. ``KINDS`` names the kinds of scenes; ``mixed`` draws one by weight.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from megacontext.core.data.recall import training_code, training_wording, wording
from megacontext.core.data.recall.grammar import compose_code
from megacontext.core.data.recall.lexicon import KEY_KINDS, LAST, VALUE_KINDS, WordLists, side
from megacontext.core.data.recall.phrases import (
    Ask,
    Scene,
    as_question,
    cap,
    cap_around,
    choose,
    distinct,
    draw_attribute,
    draw_lead,
    draw_question,
    draw_statement,
    draw_tail,
    fill,
    style,
    with_training,
    wrap,
)
from megacontext.traces.errors import ConfigError

__all__ = ["KINDS", "Ask", "Scene", "make_scene"]

Rng = np.random.Generator

# Both sides of the split have these in common.
_CODE_QUESTIONS = [
    "what is the value of {k}?",
    "what is {k} set to?",
    "what is {k}?",
    "which value does {k} have?",
    "what does {k} hold?",
    "what is assigned to {k}?",
]
_HANDS_ON = ["{k} = {v}", "VAR {k} = {v}", "let {k} = {v};", "set {k} to {v}."]
_LISTS = [
    "what are all the {a}s of {k}?",
    "list every {a} of {k}.",
    "which {a}s were given for {k}?",
    "name all {a}s for {k}, in order.",
    "what are all the {a}s for {k} mentioned in the provided text?",
]
_CHAT = [
    "my {a} is {v}",
    "I have {v} as my {a}",
    "you can note {v} as my {a}",
    "they gave me the {a} {v}",
    "for me the {a} is {v}",
    "I picked {v} for the {a}",
    "mine is {v}, I mean the {a}",
    "the {a} I use is {v}",
]


def _relation(word_lists: WordLists, rng: Rng, count: int, canonical: bool) -> Scene:
    """Attribute or family statements, optionally with a lead and a tail per scene or per fact."""
    questions: list[str] | None = None
    if rng.random() < 0.8:
        statement = draw_statement(word_lists, rng)
        attribute = draw_attribute(word_lists, rng)
        key_kind = choose(rng, [*KEY_KINDS, "person", "phrase", "open"])
        value_kind = choose(rng, [*VALUE_KINDS, "digits", "code5", "words", "open", "open"])
    else:
        families = [f for f in wording.FAMILIES.values() if _sided(word_lists, f[0], f[1])]
        statements, asked, keys_of, values_of = families[int(rng.integers(len(families)))]
        statement = word_lists.pick(rng, statements)
        questions, attribute = list(asked), ""
        key_kind = choose(rng, keys_of.split("|"))
        value_kind = choose(rng, values_of.split("|"))

    # Facts of one wording; only key and value tell them apart.
    keys = distinct(rng, lambda r: word_lists.key(r, key_kind), count)
    values = [word_lists.value(rng, value_kind) for _ in keys]
    lead = draw_lead(word_lists, rng) if rng.random() < 0.35 else ""
    tail = draw_tail(word_lists, rng) if rng.random() < 0.2 else ""
    upper = rng.random() < 0.03
    texts = []
    for key, value in zip(keys, values, strict=True):
        text = (f"{lead} " if lead else "") + fill(statement, key, value, attribute) + tail
        text = text.upper() if upper else style(rng, text) if rng.random() < 0.2 else cap(text)
        if value not in text:  # a casing changed the value: the answer would be ambiguous
            text = cap_around(fill(statement, key, value, attribute), value)
        texts.append(text + ("." if rng.random() < 0.85 or value[-1:].isalnum() else ""))

    # A question for each fact; a few are statements to be completed.
    core = draw_question(word_lists, rng, questions)
    queries = []
    for i, (key, value) in enumerate(zip(keys, values, strict=True)):
        if rng.random() < 0.5:
            core = draw_question(word_lists, rng, questions)
        shown = key.lower() if rng.random() < 0.05 else key
        question = as_question(word_lists, rng, fill(core, shown, "", attribute))
        if not canonical and rng.random() < 0.12 and statement.rstrip(".").endswith("{v}"):
            prompt = cap(fill(statement[: statement.rindex("{v}")], key, "", attribute))
            queries.append(Ask("\n" + prompt, value, ".\n", (i,)))
        else:
            queries.append(wrap(rng, question, value, (i,), canonical))
    return Scene("relation", tuple(texts), tuple(queries))


def _crossed(word_lists: WordLists, rng: Rng, count: int, canonical: bool) -> Scene:
    """A few keys with a few attributes each: only both together identify a fact."""
    statement = _with_attribute(lambda: draw_statement(word_lists, rng))
    key_kind, value_kind = choose(rng, list(KEY_KINDS)), choose(rng, list(VALUE_KINDS))
    width = int(rng.integers(2, 4))
    attributes = distinct(rng, lambda r: draw_attribute(word_lists, r), width)
    keys = distinct(rng, lambda r: word_lists.key(r, key_kind), max(1, -(-count // width)))
    cells = [(key, attribute) for key in keys for attribute in attributes]
    cells = [cells[int(i)] for i in rng.permutation(len(cells))]
    values = [word_lists.value(rng, value_kind) for _ in cells]
    texts, questions = [], []
    for i, ((key, attribute), value) in enumerate(zip(cells, values, strict=True)):
        texts.append(cap_around(fill(statement, key, value, attribute), value) + ".")
        core = _with_attribute(lambda: draw_question(word_lists, rng, None))
        question = as_question(word_lists, rng, fill(core, key, "", attribute))
        questions.append(wrap(rng, question, value, (i,), canonical))
    return Scene("crossed", tuple(texts), tuple(questions))


def _with_attribute(draw: Callable[[], str]) -> str:
    """A template with the attribute in it; RULER's templates are about magic numbers only."""
    while "{a}" not in (template := draw()):
        pass
    return template


def _sided(word_lists: WordLists, *groups: tuple[str, ...]) -> bool:
    return all(any(side(item) == word_lists.split for item in group) for group in groups)


def _code(word_lists: WordLists, rng: Rng, count: int, canonical: bool) -> Scene:
    if rng.random() < 0.5:
        facts = with_training(word_lists, wording.CODE_FACTS, training_code.CODE_FACTS)
        template = word_lists.pick(rng, facts)
    else:
        template = compose_code(rng, word_lists.split)
    keys = distinct(rng, word_lists.identifier, count)
    kind = choose(rng, ["digits", "code5", "word", "made_up", "alnum", "identifier", "path"])
    values = [word_lists.value(rng, kind) for _ in keys]
    comment = "  # " + word_lists.word(rng) if rng.random() < 0.1 and "\n" not in template else ""
    statements = tuple(
        fill(template, key, value) + comment for key, value in zip(keys, values, strict=True)
    )

    # Asked for in prose, or by code that needs the value.
    code_questions = wording.CODE_ASKS
    if word_lists.split == "train":
        code_questions += training_code.CODE_ASKS
    questions = []
    for i, (key, value) in enumerate(zip(keys, values, strict=True)):
        if canonical or rng.random() < 0.5:
            core = choose(
                rng, with_training(word_lists, _CODE_QUESTIONS, training_code.CODE_QUESTIONS)
            )
            question = as_question(word_lists, rng, core.replace("{k}", key))
            questions.append(wrap(rng, question, value, (i,), canonical))
        else:
            prompt, closing = code_questions[int(rng.integers(len(code_questions)))]
            questions.append(Ask("\n" + prompt.replace("{k}", key), value, closing, (i,)))
    return Scene("code", statements, tuple(questions), lines=True)


def _chain(word_lists: WordLists, rng: Rng, count: int, canonical: bool) -> Scene:
    """Variable tracking: a value is assigned from name to name; the question is for the last."""
    chains = max(1, min(3, count // 3))
    hops = int(rng.integers(1, 4))
    form = choose(rng, with_training(word_lists, _HANDS_ON, training_code.HANDS_ON))
    statements: list[tuple[int, int, str]] = []
    questions: list[tuple[int, str, str]] = []
    used = distinct(rng, word_lists.identifier, chains * (hops + 1))
    for c in range(chains):
        names = used[c * (hops + 1) : (c + 1) * (hops + 1)]
        if len(names) < 2:
            break
        value = word_lists.value(rng, choose(rng, ["digits", "code5", "made_up"]))
        previous = value
        for h, name in enumerate(names):
            statements.append((h, c, fill(form, name, previous)))
            previous = name
        questions.append((c, names[-1], value))
    # Chains interleave, and within one chain the order of the hops stays.
    order = sorted(range(len(statements)), key=lambda i: (statements[i][0], rng.random()))
    queries = []
    for chain, name, value in questions:
        gold = tuple(p for p, i in enumerate(order) if statements[i][1] == chain)
        core = choose(rng, ["what is the value of {k}?", "what is the final value of {k}?"])
        queries.append(wrap(rng, cap(core.replace("{k}", name)), value, gold, canonical))
    return Scene("chain", tuple(statements[i][2] for i in order), tuple(queries), lines=True)


def _values(word_lists: WordLists, rng: Rng, count: int, canonical: bool) -> Scene:
    """Several values under one key, asked for together in the order of the text.

    In training the other keys may have several values, too, and each list is asked for.
    """
    attribute, statement = draw_attribute(word_lists, rng), draw_statement(word_lists, rng)
    key_kind = choose(rng, list(KEY_KINDS))
    value_kind = choose(rng, ["digits", "word", "made_up", "person", "place", "code5"])
    key, *others = distinct(rng, lambda r: word_lists.key(r, key_kind), 1 + count // 3)
    n_values = int(rng.integers(2, 5))

    # The first key has several values, the others one, or in training several.
    values_of = {key: distinct(rng, lambda r: word_lists.value(r, value_kind), n_values)}
    values_of |= {other: [word_lists.value(rng, value_kind)] for other in others}
    asked = [key]
    if word_lists.split == "train" and rng.random() < 0.6:
        asked = [key, *others]
        for other in others:
            more = int(rng.integers(0, 4))
            extra_values = distinct(rng, lambda r: word_lists.value(r, value_kind), more)
            values_of[other] += [value for value in extra_values if value not in values_of[other]]

    # Statements in any order; the answer lists the values in the order of the text.
    pairs = [(owner, value) for owner, values in values_of.items() for value in values]
    pairs = [pairs[int(i)] for i in rng.permutation(len(pairs))]
    texts = tuple(cap_around(fill(statement, *pair, attribute), pair[1]) + "." for pair in pairs)
    questions = []
    for owner in asked:
        gold = tuple(position for position, pair in enumerate(pairs) if pair[0] == owner)
        core = choose(rng, with_training(word_lists, _LISTS, training_wording.LISTS))
        question = as_question(word_lists, rng, fill(core, owner, "", attribute))
        answer = ", ".join(pairs[position][1] for position in gold)
        questions.append(wrap(rng, question, answer, gold, canonical))
    return Scene("values", texts, tuple(questions))


def _pairs(word_lists: WordLists, rng: Rng, count: int, canonical: bool) -> Scene:
    """Bare key-value pairs (multi-query associative recall); asked by the bare key."""
    joint = choose(rng, [" ", ": ", " = ", " -> ", ", ", " => ", "\t", " | ", " - "])
    key_kind, value_kind = choose(rng, list(KEY_KINDS)), choose(rng, list(VALUE_KINDS))
    keys = distinct(rng, lambda r: word_lists.key(r, key_kind), count)
    values = [word_lists.value(rng, value_kind) for _ in keys]
    questions = []
    for i, (key, value) in enumerate(zip(keys, values, strict=True)):
        if canonical:
            questions.append(wrap(rng, key + joint.rstrip(), value, (i,), True))
        else:
            questions.append(Ask("\n" + key + joint, value, "\n", (i,)))
    texts = tuple(k + joint + v for k, v in zip(keys, values, strict=True))
    return Scene("pairs", texts, tuple(questions), lines=True)


def _chat(word_lists: WordLists, rng: Rng, count: int, canonical: bool) -> Scene:
    """Facts in a conversation: "my ..." said by named speakers."""
    attribute = draw_attribute(word_lists, rng)
    form = choose(rng, with_training(word_lists, _CHAT, training_wording.CHAT))
    response = choose(rng, ["Noted.", "Okay.", "Got it.", "I see.", "Thanks!", "Alright, saved."])
    value_kind = choose(rng, list(VALUE_KINDS))
    names = distinct(rng, word_lists.person, count)
    values = [word_lists.value(rng, value_kind) for _ in names]
    surname = word_lists.pick(rng, LAST)
    texts = []
    for name, value in zip(names, values, strict=True):
        statement = cap_around(fill(form, "", value, attribute), value) + "."
        texts.append(f"{name}: {statement}\n{surname}: {response}")
    questions = []
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        core = draw_question(word_lists, rng, None)
        question = as_question(word_lists, rng, fill(core, name, "", attribute))
        questions.append(wrap(rng, question, value, (i,), canonical))
    return Scene("chat", tuple(texts), tuple(questions), lines=True)


def _random(word_lists: WordLists, rng: Rng, count: int, canonical: bool) -> Scene:
    """Random words as wording: a question and its fact have only these words in common.

    A model that is trained on templates alone learns the templates; here the wording has no sense.
    """
    value_kind, key_kind = choose(rng, list(VALUE_KINDS)), choose(rng, list(KEY_KINDS))
    shared = word_lists.run(rng, int(rng.integers(1, 9)))
    cut, end = sorted(int(i) for i in rng.integers(0, len(shared) + 1, 2))
    first, middle, last = (" ".join(x) for x in (shared[:cut], shared[cut:end], shared[end:]))
    keys = distinct(rng, lambda r: word_lists.key(r, key_kind), count)
    values = [word_lists.value(rng, value_kind) for _ in keys]

    value_first = rng.random() < 0.3
    texts = []
    for key, value in zip(keys, values, strict=True):
        a, b = (value, key) if value_first else (key, value)
        combined = " ".join(x for x in (first, a, middle, b, last) if x)
        texts.append(cap_around(combined, value) + ".")

    # The question has some of the statement's words, around the key.
    question_words = [w for w in shared if rng.random() < 0.7]
    if rng.random() < 0.5:
        rng.shuffle(question_words)
    questions = []
    for i, (key, value) in enumerate(zip(keys, values, strict=True)):
        position = int(rng.integers(len(question_words) + 1))
        words = [*question_words[:position], key, *question_words[position:]]
        questions.append(wrap(rng, cap(" ".join(words)) + "?", value, (i,), canonical))
    return Scene("random", tuple(texts), tuple(questions))


Maker = Callable[[WordLists, Rng, int, bool], Scene]
KINDS: dict[str, Maker] = {
    "relation": _relation,
    "code": _code,
    "chain": _chain,
    "values": _values,
    "pairs": _pairs,
    "chat": _chat,
    "random": _random,
    "crossed": _crossed,
}
WEIGHTS = {
    "relation": 0.23,
    "code": 0.15,
    "chain": 0.13,
    "values": 0.19,
    "pairs": 0.08,
    "chat": 0.08,
    "random": 0.07,
    "crossed": 0.07,
}


def make_scene(
    word_lists: WordLists, rng: Rng, count: int, kind: str = "mixed", canonical: bool = False
) -> Scene:
    """A scene of about ``count`` facts.

    Args:
        kind: a name of ``KINDS`` or ``mixed``.
        canonical: every question in the canonical wrapper (for evaluation).
    """
    if kind == "mixed":
        names = list(WEIGHTS)
        kind = names[int(rng.choice(len(names), p=list(WEIGHTS.values())))]
    if kind not in KINDS:
        raise ConfigError(f"kind: {kind!r} is no scene; use mixed, {', '.join(KINDS)}.")
    return KINDS[kind](word_lists, rng, max(1, count), canonical)
