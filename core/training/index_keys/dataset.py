"""Batches for the retriever: pieces of history, questions about them, and their gold blocks.

Four sources, so that the retriever cannot rely on one wording, or on wording alone:

* ``recall``: planted facts and questions of the training split (:mod:`core.data.recall.writer`).
* ``random``: a random key is inserted into a piece of the history and into the question. Other
  pieces of the history have the same text with other keys, so only the key identifies the block.
* ``cloze``: a span of a block is the question for that block (inverse cloze, Lee et al. 2019).
* ``lexical``: the newest tokens of real text are the question for the earlier blocks of their
  document that share rare tokens with them (distilled from BM25's weights).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import Dataset

from megacontext.core.config.settings import Count, check_fractions
from megacontext.core.data.recall.lexicon import side
from megacontext.core.data.recall.scenes import KINDS
from megacontext.core.data.recall.writer import RecallOptions, RecallWriter
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.rng import generator
from megacontext.traces.errors import ConfigError

__all__ = ["NO_TOKEN", "KeyDataset", "KeyMix", "gold_share", "question_tokens"]

NO_TOKEN = -1
_SCENES = tuple(sorted(KINDS))
Rng = np.random.Generator


@dataclass(frozen=True)
class KeyMix:
    """How a batch is composed.

    Attributes:
        samples: pieces of history per micro-batch and process; blocks: length of each.
        asks: questions kept of each.
        sources: name to share, see the module's docstring.
        facts_max: most facts of one wording in a recall sample.
        narrow: as in :class:`RecallOptions`.
        single: share of recall samples whose scenes are all of one kind, each kind as often.
        canonical: share of recall samples that end in one question in the canonical format.
    """

    samples: Count = 96
    blocks: Count = 32
    asks: Count = 4
    sources: dict[str, float] = field(
        default_factory=lambda: {"recall": 0.5, "random": 0.2, "cloze": 0.15, "lexical": 0.15}
    )
    facts_max: Count = 16
    narrow: float = 0.0
    single: float = 0.4
    canonical: float = 0.25

    def __post_init__(self) -> None:
        check_fractions("mix", self)
        known = {"recall", "random", "cloze", "lexical"}
        for name in self.sources:
            if name not in known:
                raise ConfigError(
                    f"keys.sources: {name!r} is unknown; choose from {', '.join(sorted(known))}."
                )


def question_tokens(tokens: np.ndarray, stop: int, count: int) -> np.ndarray:
    """The ``count`` tokens before ``stop``, padded on the left: int64."""
    latest = tokens[max(0, stop - count) : stop]
    padded = np.full(count, NO_TOKEN, np.int64)
    padded[count - len(latest) :] = latest
    return padded


def gold_share(spans: list[tuple[int, int]], blocks: int, block: int) -> np.ndarray:
    """Fraction of the asked facts' tokens in each block: float32[blocks], sums to 1 (or 0)."""
    fraction = np.zeros(blocks, np.float32)
    for start, stop in spans:
        for number in range(max(0, start) // block, min(blocks, -(-stop // block))):
            within = min(stop, (number + 1) * block) - max(start, number * block)
            fraction[number] += within / max(1, stop - start)
    total = fraction.sum()
    return fraction / total if total > 0 else fraction


class KeyDataset(Dataset[dict[str, Tensor]]):
    """Item ``step``, each with a leading [accumulation]:

    ``tokens`` int32[S, blocks * K]; ``questions`` int32[S, A, q] (padding -1); ``goal``
    float32[S, A, blocks], the share of each block (all zero: not asked); ``before`` int32[S, A],
    blocks of its own sample that a question may point at.
    """

    def __init__(
        self,
        mix: KeyMix,
        streams: TokenStreams,
        tokenizer: Tokenizer,
        idf: np.ndarray,
        *,
        block_size: int,
        query_tokens: int,
        seed: int,
        phase: int,
        rank: int,
        accumulation: int,
    ) -> None:
        self._mix, self._streams, self._idf = mix, streams, idf
        self._block, self._query, self._seed = block_size, query_tokens, seed
        self._phase, self._rank, self._accumulation = phase, rank, accumulation
        self._writer = RecallWriter(tokenizer, "train", seed, block_size)
        self._tokenizer = tokenizer
        words = [w for w in self._writer.word_lists.words if side(w) == "train"]
        self._words = [self._forms(word) for word in words]
        self._digits = [tokenizer.encode(str(d)).ids for d in range(10)]
        self._names = sorted(mix.sources)
        weights = np.array([mix.sources[name] for name in self._names])
        self._source_probs = weights / weights.sum()

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        mix = self._mix
        rows = [self._row(step, i) for i in range(mix.samples * self._accumulation)]
        shape = (self._accumulation, mix.samples)
        return {name: _split(np.stack([row[name] for row in rows]), shape) for name in rows[0]}

    def _row(self, step: int, row: int) -> dict[str, np.ndarray]:
        rng = generator(self._seed, f"keys.row.{self._phase}", step, row, self._rank)
        source = self._names[int(rng.choice(len(self._names), p=self._source_probs))]
        domain = self._streams.domains[int(rng.integers(len(self._streams.domains)))]
        length = self._mix.blocks * self._block
        text = self._streams.window(rng, domain, length + 4 * self._block).astype(np.int64)
        counts = (step * 64 + self._phase, row, self._rank)

        if source == "recall":
            tokens, questions_read = self._recall(rng, text, length, counts)
        elif source == "random":
            tokens, questions_read = self._random(rng, text, length)
        elif source == "cloze":
            tokens, questions_read = self._cloze(rng, text, length)
        else:
            tokens, questions_read = self._lexical(rng, text, length)

        # Fewer questions than asks leave rows of padding without a goal.
        queries, blocks = self._mix.asks, self._mix.blocks
        questions = np.full((queries, self._query), NO_TOKEN, np.int32)
        goal = np.zeros((queries, blocks), np.float32)
        before = np.full(queries, blocks, np.int32)
        for i, (question, fraction, limit) in enumerate(questions_read[:queries]):
            questions[i], goal[i], before[i] = question, fraction, limit
        return {
            "tokens": tokens[:length].astype(np.int32),
            "questions": questions,
            "goal": goal,
            "before": before,
        }

    def _recall(
        self, rng: Rng, text: np.ndarray, length: int, counts: tuple[int, int, int]
    ) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray, int]]]:
        kind = "mixed"
        if rng.random() < self._mix.single:
            kind = _SCENES[int(rng.integers(len(_SCENES)))]
        options = RecallOptions(
            kind=kind,
            facts_max=self._mix.facts_max,
            narrow=self._mix.narrow,
            scenes_max=3,
            asked_max=2 * self._mix.asks,
            interleaved=0.0,
            canonical=bool(rng.random() < self._mix.canonical),
        )
        sample = self._writer.sample(text[:length], length, options, *counts)
        tokens = sample.tokens.astype(np.int64)
        if not sample.asked:
            return tokens, []
        # After the first question the answers are repeated, which would be too easy to find.
        limit = min(span.start for span in sample.asked) // self._block
        questions = []
        for span in sample.asked:
            stop = span.answer_start - (int(rng.integers(0, 4)) if rng.random() < 0.3 else 0)
            facts = [sample.facts[g] for g in span.gold]
            fraction = gold_share(facts, self._mix.blocks, self._block)
            fraction[limit:] = 0
            if fraction.sum() > 0:
                question = question_tokens(tokens, stop, self._query)
                questions.append((question, fraction / fraction.sum(), limit))
        return tokens, questions

    def _random(
        self, rng: Rng, text: np.ndarray, length: int
    ) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray, int]]]:
        count = int(rng.integers(2, 13))
        remaining = text[length:]
        first = int(rng.integers(0, 40))
        statement = remaining[first : first + int(rng.integers(6, 15))]
        wording = remaining[64 + int(rng.integers(0, 20)) :][: int(rng.integers(4, 18))]
        statement_cut, question_cut = (
            int(rng.integers(len(statement) + 1)),
            int(rng.integers(len(wording) + 1)),
        )

        # Facts differ in key and value alone, at random positions of the text.
        keys = [self._key(rng) for _ in range(count)]
        positions = np.sort(rng.choice(length - 64, count, replace=False))
        parts, spans, cursor, position = [], [], 0, 0
        for index, key in zip(positions, keys, strict=True):
            value = self._key(rng)[0]
            fact = np.concatenate(
                [statement[:statement_cut], key[0], value, statement[statement_cut:]]
            )
            parts += [text[cursor:index], fact]
            position += index - cursor
            spans.append((position, position + len(fact)))
            position, cursor = position + len(fact), int(index)

        # Questions have other words than the statements, and the key in another form.
        tokens = np.concatenate([*parts, text[cursor:]])[:length]
        questions = []
        for which in rng.permutation(count)[: self._mix.asks]:
            question = np.concatenate(
                [wording[:question_cut], keys[which][1], wording[question_cut:]]
            )
            lead = text[length - int(rng.integers(0, 20)) : length]
            question = np.concatenate([lead, question])
            fraction = gold_share([spans[which]], self._mix.blocks, self._block)
            if fraction.sum() > 0:
                padded = question_tokens(question, len(question), self._query)
                questions.append((padded, fraction, self._mix.blocks))
        return tokens, questions

    def _key(self, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
        """The same random key in two casings: one to three words, or a number."""
        if rng.random() < 0.35:
            digits = [self._digits[int(d)] for d in rng.integers(0, 10, int(rng.integers(2, 7)))]
            ids = np.array([i for d in digits for i in d], np.int64)
            return ids, ids
        statement_form: list[int] = []
        question_form: list[int] = []
        for _ in range(int(rng.integers(1, 4))):
            if rng.random() < 0.3:
                word = self._forms(self._writer.word_lists.made_up(rng))
            else:
                word = self._words[int(rng.integers(len(self._words)))]
            form = int(rng.integers(4))
            statement_form += word[form]
            question_form += word[form if rng.random() < 0.6 else int(rng.integers(4))]
        return np.array(statement_form, np.int64), np.array(question_form, np.int64)

    def _forms(self, word: str) -> list[list[int]]:
        texts = (" " + word, " " + word.capitalize(), word.capitalize(), " " + word.upper())
        return [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]

    def _cloze(
        self, rng: Rng, text: np.ndarray, length: int
    ) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray, int]]]:
        tokens, questions = text[:length], []
        for gold in rng.choice(self._mix.blocks, self._mix.asks, replace=False):
            width = int(rng.integers(4, 20))
            start = int(gold) * self._block + int(rng.integers(0, self._block - width))
            span = tokens[start : start + width]
            lead = text[length + int(rng.integers(0, 64)) :][: int(rng.integers(0, 16))]
            question = np.concatenate([lead, span])
            fraction = np.zeros(self._mix.blocks, np.float32)
            fraction[gold] = 1
            padded = question_tokens(question, len(question), self._query)
            questions.append((padded, fraction, self._mix.blocks))
        return tokens, questions

    def _lexical(
        self, rng: Rng, text: np.ndarray, length: int
    ) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray, int]]]:
        tokens, questions = text[:length], []
        blocks = tokens.reshape(self._mix.blocks, self._block)
        for _ in range(self._mix.asks):
            stop = length + int(rng.integers(32, 4 * self._block + 1))
            question = question_tokens(text, stop, self._query)
            terms = np.unique(question[question >= 0])
            weight = self._idf[terms]
            present = (blocks[:, :, None] == terms).any(axis=1)
            score = present @ np.where(weight > 3.0, weight, 0)
            if score.max() < 6:
                continue
            soft = np.exp((score - score.max()) / 1.5).astype(np.float32)
            questions.append((question, soft / soft.sum(), self._mix.blocks))
        return tokens, questions


def _split(rows: np.ndarray, shape: tuple[int, int]) -> Tensor:
    return torch.from_numpy(rows.reshape(*shape, *rows.shape[1:]))
