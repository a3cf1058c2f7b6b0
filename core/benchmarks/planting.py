"""Sentences of our own hidden in real text, to a length in tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from megacontext.core.benchmarks.tasks import BenchTask
from megacontext.core.config.sources import FolderSource, PythonSource, TextSource
from megacontext.core.rng import generator
from megacontext.core.sources.plain import folder_texts, text_texts
from megacontext.core.sources.python import python_texts
from megacontext.traces.errors import ConfigError, SourceError

__all__ = ["Ask", "Haystack", "Scene", "make_set"]

Rng = np.random.Generator
_CHARS_PER_TOKEN = 5  # more text is taken where it has more
_FILLED = 0.98
"""Fraction of a text's length that may be cut off to end with a line."""


@dataclass(frozen=True)
class Ask:
    """A question about a scene: what is read, what is expected, and which sentences it needs."""

    question: str
    answer: str
    needed: tuple[int, ...]


@dataclass(frozen=True)
class Scene:
    """Sentences that stand in the text in this order, each a line, and one question about them."""

    sentences: tuple[str, ...]
    ask: Ask


class Haystack:
    """Real text, document by document in an order drawn for each history; ``chars`` in all.

    Args:
        paths: text files or folders of them; by default the running Python's documentation
            and library.

    Raises:
        SourceError: a path cannot be read or holds no text.
    """

    def __init__(self, paths: Sequence[Path] = ()) -> None:
        self._documents = _documents(tuple(str(path) for path in paths))
        self.chars = sum(len(text) for text in self._documents)

    def text(self, n_tokens: int, tokenizer: Tokenizer, rng: Rng) -> str:
        """Whole documents and the beginning of one: ``n_tokens`` tokens at most, and hardly less.

        It ends with a line, or inside one that is so long that leaving it out would be felt.

        Raises:
            SourceError: all documents together are shorter.
        """
        order = rng.permutation(len(self._documents))
        chars = n_tokens * _CHARS_PER_TOKEN
        while True:
            text = self._beginning(order, chars)
            spans = tokenizer.encode(text, add_special_tokens=False).offsets
            if len(spans) >= n_tokens:
                break
            if len(text) >= self.chars:
                raise SourceError(
                    f"--haystack holds {len(spans):,} tokens but {n_tokens:,} are needed; name "
                    "more text or ask for a smaller --lengths."
                )
            chars *= 2

        # Cut at a line end, else between words.
        text = text[: spans[n_tokens - 1][1]] if n_tokens else ""
        for end in ("\n", " "):
            at = text.rfind(end) + 1
            if at >= _FILLED * len(text):
                return text[:at] if end == "\n" else text[: at - 1] + "\n"
        return text[:-1] + "\n"

    def _beginning(self, order: np.ndarray, chars: int) -> str:
        """``chars`` characters of the documents in this order, or all there are."""
        taken: list[str] = []
        size = 0
        for at in order:
            taken.append(self._documents[at][: chars - size])
            size += len(taken[-1])
            if size >= chars:
                break
        return "".join(taken)


@lru_cache(maxsize=2)
def _documents(paths: tuple[str, ...]) -> list[str]:
    if not paths:
        return list(python_texts(PythonSource(package="pydoc+stdlib", max_tokens=0)))
    texts: list[str] = []
    for path in paths:
        if Path(path).is_dir():
            parts = folder_texts(FolderSource(path=path, pattern="**/*.*"))
        else:
            parts = iter(["".join(text_texts(TextSource(path=path)))])
        texts += [piece if piece.endswith("\n") else piece + "\n" for piece in parts]
    if not any(text.strip() for text in texts):
        raise SourceError("--haystack holds no text; name files or folders with text.")
    return texts


Make = Callable[[Rng, int], list[Scene]]
"""(random numbers, how many) -> scenes that can share a history."""


def make_set(
    benchmark: str,
    factories: dict[str, Make],
    tokenizer: Tokenizer,
    haystack: Haystack,
    lengths: Sequence[int],
    samples: int,
    *,
    shared: int = 1,
    seed: int = 0,
    max_tokens: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[BenchTask]:
    """Tasks of every maker and length, those of one history in a row.

    The scenes of a sample are the same at every length, so that lengths can be compared.

    Args:
        factories: by the name of the task.
        lengths: tokens of history, question and answer together; 0: the sentences alone.
        shared: questions about one history.

    Raises:
        ConfigError: a length that the sentences alone do not fit.
        SourceError: too little text.
    """
    tasks: list[BenchTask] = []
    total = len(lengths) * len(factories)
    for length in sorted(lengths):
        for name, make in factories.items():
            for group, first in enumerate(range(0, samples, shared)):
                multiple = min(shared, samples - first)
                scenes = make(generator(seed, f"bench.{benchmark}.{name}", group), multiple)
                rng = generator(seed, f"bench.plant.{name}", group, length)
                history, spans = _plant(scenes, tokenizer, haystack, length, max_tokens, rng)

                # A task for each question about this history.
                for number, (scene, own) in enumerate(zip(scenes, spans, strict=True), first):
                    gold = tuple(own[i] for i in sorted(scene.ask.needed))
                    tasks.append(
                        BenchTask(
                            benchmark=benchmark,
                            name=name,
                            length=length,
                            sample=number,
                            history=history,
                            question=scene.ask.question,
                            outputs=(scene.ask.answer,),
                            metric="part",
                            max_tokens=max_tokens,
                            stop="\n",
                            gold=gold,
                            group=group,
                        )
                    )
            progress(len({(t.name, t.length) for t in tasks}), total)
    return tasks


Spans = list[list[tuple[int, int]]]


def _plant(
    scenes: Sequence[Scene],
    tokenizer: Tokenizer,
    haystack: Haystack,
    length: int,
    max_tokens: int,
    rng: Rng,
) -> tuple[str, Spans]:
    """A history of about ``length`` tokens, never more, and where each sentence stands in it."""
    longest = max((scene.ask.question for scene in scenes), key=len)
    order = _interleaved(scenes, rng)
    lines = [scenes[scene].sentences[number] + "\n" for scene, number in order]
    min_length = _count(tokenizer, "".join(lines) + longest) + max_tokens
    if length and min_length > length:
        raise ConfigError(
            f"--lengths: {length} is too short, the sentences and the question alone take "
            f"{min_length} tokens; use longer texts or a smaller --shared-haystack."
        )

    # Text to hide them in; planted sentences split a token here and there.
    texts, positions = "", np.zeros(len(lines), np.int64)
    n_tokens = length - min_length - len(lines)
    if length and n_tokens > 0:
        texts = haystack.text(
            n_tokens, tokenizer, generator(int(rng.integers(2**62)), "bench.haystack")
        )

    # Each sentence stands behind a line end.
    ends = np.flatnonzero(np.frombuffer(texts.encode("utf-32-le"), np.uint32) == ord("\n")) + 1
    if len(ends):
        positions = np.sort(rng.choice(ends, size=len(lines), replace=len(ends) < len(lines)))
    return _assembled(texts, lines, positions, order, scenes)


def _assembled(
    text: str,
    lines: list[str],
    places: np.ndarray,
    order: list[tuple[int, int]],
    scenes: Sequence[Scene],
) -> tuple[str, Spans]:
    spans: Spans = [[(0, 0)] * len(scene.sentences) for scene in scenes]
    parts: list[str] = []
    at = size = 0
    for line, position, (scene, number) in zip(lines, places.tolist(), order, strict=True):
        parts += [text[at:position], line]
        size += position - at
        spans[scene][number] = (size, size + len(line) - 1)
        size += len(line)
        at = position
    return "".join([*parts, text[at:]]), spans


def _interleaved(scenes: Sequence[Scene], rng: Rng) -> list[tuple[int, int]]:
    """(scene, sentence) in the order of the history; each scene's own order stays."""
    turns = [i for i, scene in enumerate(scenes) for _ in scene.sentences]
    rng.shuffle(turns)
    taken = [0] * len(scenes)
    order = []
    for scene in turns:
        order.append((scene, taken[scene]))
        taken[scene] += 1
    return order


def _count(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False).ids)
