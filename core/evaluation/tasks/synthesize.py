"""Recall tasks made here: facts in held-out wording, planted in real text.

Several facts of different scenes share one history, and each scene is asked about once, so that
a history's gists serve several tasks. All facts of a scene have the same wording: each is a
distractor of the others. Keys, values and wording are from the split that no training text uses
(see :mod:`megacontext.core.data.recall.lexicon`). A history, its question and its answer together
are as long as asked, so that a history of the trained window's length can be read as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tokenizers import Tokenizer

from megacontext.core.config import Config
from megacontext.core.data.recall.lexicon import THINGS, side
from megacontext.core.data.recall.scenes import Ask, Scene
from megacontext.core.data.recall.writer import RecallWriter
from megacontext.core.evaluation.tasks.corpora import boundaries, haystack
from megacontext.core.evaluation.tasks.recall_tasks import RecallTask, Text
from megacontext.core.model import loading
from megacontext.core.model.files import resolve_model
from megacontext.core.rng import generator
from megacontext.core.runtime.pretrained import DEMO, bundle_folder
from megacontext.traces.errors import ConfigError, ModelError, SourceError

__all__ = ["DEFAULT_KINDS", "KINDS", "TaskGenConfig", "TaskGenerator", "make_tasks", "tokenizer_of"]

Rng = np.random.Generator

_FACT = 8  # tokens of the shortest fact, its line ends included


@dataclass(frozen=True)
class TaskGenConfig:
    """What to make.

    Attributes:
        w_max: the budget that ``times`` multiplies, in tokens.
        times: lengths of the histories in multiples of ``w_max``.
        samples: tasks of each length, spread evenly over ``kinds``.
        kinds: names of ``KINDS``.
        facts: same-worded facts in a scene.
        per_history: questions about one history.
        seed: everything follows from it.
    """

    w_max: int
    times: tuple[int, ...] = (4, 16, 64)
    samples: int = 20
    kinds: tuple[str, ...] = ()
    facts: int = 4
    per_history: int = 8
    seed: int = 0

    def histories(self) -> list[tuple[int, int]]:
        """(length in multiples of ``w_max``, number of its first task) of every history."""
        firsts = range(0, self.samples, self.per_history)
        return [(times, first) for first in firsts for times in self.times]

    def kinds_of(self, first: int) -> list[str]:
        """The kinds of the tasks about the history whose first task is ``first``."""
        kinds = self.kinds or DEFAULT_KINDS
        stop = min(self.samples, first + self.per_history)
        return [kinds[number % len(kinds)] for number in range(first, stop)]


@dataclass(frozen=True)
class _Kind:
    """A scene of :mod:`megacontext.core.data.recall.scenes`, more facts, and which asks will do."""

    scene: str
    crowd: int = 1
    single: bool = False
    accepts: Callable[[Ask], bool] = lambda ask: True


def _names_what_it_asks_for(ask: Ask) -> bool:
    """Not a question for magic numbers where the facts speak of something else.

    RULER's wording is right for numbers alone.
    """
    numbers = ask.answer.replace(", ", "").isdigit()
    return numbers or "magic number" not in ask.question


KINDS: dict[str, _Kind] = {
    "passkey": _Kind("relation", single=True, accepts=lambda ask: ask.answer.isdigit()),
    "key_value": _Kind("relation"),
    "multi_key": _Kind("relation", crowd=4),
    "multi_value": _Kind("values", accepts=_names_what_it_asks_for),
    "variables": _Kind("chain"),
    "pairs": _Kind("pairs", crowd=2),
    "conversation": _Kind("chat"),
    "definition": _Kind("code"),
    "common_word": _Kind(""),
}
"""RULER's tasks and three of our own; ``pairs`` is multi-query associative recall (MQAR).

``common_word`` asks for the most frequent word of a list of words. Nothing is gold there: it
needs all of the history.
"""
DEFAULT_KINDS = tuple(kind for kind in KINDS if kind != "common_word")


def tokenizer_of(config: Config) -> Tokenizer:
    """The tokenizer of the config's model, without loading the model.

    Raises:
        ModelError: no readable tokenizer, or one that is not of the fast kind.
    """
    path = str(bundle_folder() / "base") if config.model.path == DEMO else config.model.path
    hf = loading.load_tokenizer(resolve_model(path))
    if not getattr(hf, "is_fast", False):
        raise ModelError(f"model.path {path!r} has no tokenizer.json; use a model that has one.")
    backend: Tokenizer = hf.backend_tokenizer
    return backend


def make_tasks(
    options: TaskGenConfig, tokenizer: Tokenizer, texts: Sequence[Text], block_size: int = 32
) -> list[RecallTask]:
    """The tasks; those of one history follow each other, lengths take turns.

    Raises:
        ConfigError: an unknown kind or an impossible number.
        SourceError: the texts are too short.
    """
    factory = TaskGenerator(options, tokenizer, texts, block_size)
    return [
        task for times, first in options.histories() for task in factory.of_history(times, first)
    ]


class TaskGenerator:
    """Makes the tasks of one history at a time; each is a function of (options, times, first).

    Raises:
        ConfigError: an unknown kind or an impossible number.
    """

    def __init__(
        self,
        options: TaskGenConfig,
        tokenizer: Tokenizer,
        texts: Sequence[Text],
        block_size: int = 32,
    ) -> None:
        for kind in options.kinds:
            if kind not in KINDS:
                raise ConfigError(f"--kinds: {kind!r} is unknown; use some of {', '.join(KINDS)}.")
        if min(options.samples, options.facts, options.per_history, *options.times) < 1:
            raise ConfigError(
                f"--samples {options.samples}, --facts {options.facts}, --per-history "
                f"{options.per_history} and --times {list(options.times)} must be at least 1."
            )
        least = min(options.times)
        most = _fact_tokens(options, least) // _FACT
        if options.facts > most >= 1 and set(options.kinds) != {"common_word"}:
            raise ConfigError(
                f"--facts is {options.facts}, but a history of {least} * w_max has room for at "
                f"most {most} in a scene; lower --facts or raise --times."
            )
        self._options = options
        self._tokenizer = tokenizer
        self._texts = texts
        self._writer = RecallWriter(tokenizer, "heldout", options.seed, block_size)
        if not any(side(word) == "heldout" for word in self._writer.word_lists.words):
            # A vocabulary of bytes or of another script has no words to draw.
            self._writer.word_lists = replace(self._writer.word_lists, words=tuple(THINGS))

    def of_history(self, times: int, first: int) -> list[RecallTask]:
        """Tasks ``first`` and following about one history of ``times`` * w_max tokens."""
        options = self._options
        kinds = options.kinds_of(first)
        rng = generator(options.seed, "eval.tasks", times, first)
        tokens = _length(options, times)
        words = [kind for kind in kinds if kind == "common_word"]
        common_words = [
            _common_word(self._writer, self._tokenizer, tokens, times, rng) for _ in words
        ]
        asked = [
            (kind, *_scene(self._writer, options.facts, kind, times, first + number))
            for number, kind in enumerate(kinds)
            if kind != "common_word"
        ]
        if not asked:
            return common_words
        statements = [f"\n{text}\n" for _, scene, _ in asked for text in scene.statements]
        left = tokens - sum(len(self._tokenizer.encode(text).ids) for text in statements)
        if left < _text(options):
            raise ConfigError(
                f"--times {times}: the {len(statements)} facts of --per-history "
                f"{options.per_history} questions leave {max(left, 0)} of {tokens} tokens for "
                "text; lower --per-history, --facts or raise --times."
            )
        # Texts have 3 to 4 characters a token, some less: what is too long is cut to the token.
        for chars in (left * 5, left * 9):
            text = haystack(self._texts, chars, options.seed, first * 1000 + times)
            ends = [stop for _, stop in self._tokenizer.encode(text).offsets[:left]]
            if len(ends) == left:
                break
        # The newest window's worth of text holds no fact: recency alone cannot answer.
        last = ends[-min(_newest(options), len(ends))]
        return common_words + _plant(text[: ends[-1]], last, asked, times, rng)


def _length(options: TaskGenConfig, times: int) -> int:
    """Tokens of a history; an eighth of w_max is left to a question and its answer."""
    return times * options.w_max - options.w_max // 8


def _newest(options: TaskGenConfig) -> int:
    """Tokens at a history's end that hold no fact."""
    return options.w_max * 5 // 4


def _text(options: TaskGenConfig) -> int:
    """Fewest tokens of text that facts are planted in."""
    return _newest(options) * 6 // 5


def _fact_tokens(options: TaskGenConfig, times: int) -> int:
    """Most tokens that the facts of a history may take."""
    return max(0, _length(options, times) - _text(options))


def _scene(
    writer: RecallWriter, facts: int, kind: str, times: int, number: int
) -> tuple[Scene, Ask]:
    """A scene in held-out wording and the question to ask about it."""
    of_kind = KINDS[kind]
    count = 1 if of_kind.single else facts * of_kind.crowd
    for attempt in range(1000):
        scene = writer.scene(count, of_kind.scene, times, number, attempt)
        for ask in scene.asks:
            if of_kind.accepts(ask) and "\n" not in ask.answer:
                return scene, ask
    raise SourceError(f"--kinds: no {kind} scene could be made; leave it out.")


def _plant(
    filler: str, last: int, asked: list[tuple[str, Scene, Ask]], times: int, rng: Rng
) -> list[RecallTask]:
    """All scenes in one text; facts at line and sentence ends before ``last``, in order."""
    positions = boundaries(filler)
    positions = positions[positions <= last]
    if len(positions) == 0:
        positions = np.arange(0, last + 1, 80)
    chunks: list[tuple[int, int, int, str]] = []  # place, scene, statement, text
    for at, (_, scene, _) in enumerate(asked):
        chosen = np.sort(rng.choice(positions, len(scene.statements)))
        for i, text in enumerate(scene.statements):
            chunks.append((int(chosen[i]), at, i, text))
    parts: list[str] = []
    spans: dict[tuple[int, int], tuple[int, int]] = {}
    cursor = length = 0
    for position, at, i, text in sorted(chunks, key=lambda p: p[:3]):
        # A line of its own; behind a line end, every other one with an empty line before it.
        lead = "" if filler[position - 1 : position] == "\n" and rng.random() < 0.5 else "\n"
        parts += [filler[cursor:position], lead, text, "\n"]
        length += position - cursor + len(lead)
        spans[at, i] = (length, length + len(text))
        length += len(text) + 1
        cursor = position
    history = "".join([*parts, filler[cursor:]])
    return [
        RecallTask(
            history,
            ask.question or ask.prompt,
            ask.answer,
            tuple(spans[at, i] for i in ask.gold),
            kind,
            times,
        )
        for at, (kind, _, ask) in enumerate(asked)
    ]


def _common_word(
    writer: RecallWriter, tokenizer: Tokenizer, tokens: int, times: int, rng: Rng
) -> RecallTask:
    """A list of words in which one is three times as frequent as any other."""
    words = list(dict.fromkeys(writer.word_lists.word(rng) for _ in range(200)))
    weights = np.ones(len(words))
    weights[0] = 3.0
    choices = rng.choice(len(words), tokens, p=weights / weights.sum())
    text = " ".join(words[int(i)] for i in choices)
    text = text[: tokenizer.encode(text).offsets[tokens - 1][1]]
    question = "Which word is the most frequent one in the list above?"
    return RecallTask(text, question, words[0], (), "common_word", times)
