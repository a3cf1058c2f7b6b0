"""Synthetic recall text: facts planted in real text and asked for later.

A sample is a window of exactly ``length`` tokens: filler from real documents, planted statements
at line and sentence ends, questions directly followed by their short answers. Three layouts:

* *full*: one contiguous window.
* *gappy*: a long history of which only some K-aligned blocks are in the window, including those of
  the asked facts, plus the recent tail. That is what a base model reads under MegaContext if
  distant history is dropped: text is cut at multiples of K, positions are contiguous.
* *coarse*: the same, with each other block replaced by a single token
  (:mod:`.window_sampling`), as in a window with token gists.

The canonical question format, for evaluation by greedy decoding up to the line end, is
``"\\nQuestion: {question}\\nAnswer:"`` with the answer ``" {answer}\\n"``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from tokenizers import Tokenizer

from megacontext.core.data.recall.lexicon import Split, WordLists, word_pieces
from megacontext.core.data.recall.sample import AskedSpan, RecallOptions, RecallSample
from megacontext.core.data.recall.scenes import Ask, Scene, make_scene
from megacontext.core.data.recall.window_sampling import (
    CoarseEntries,
    coarse_window,
    distractor_blocks,
    gappy_mask,
)
from megacontext.core.data.shards import token_dtype
from megacontext.core.rng import generator

__all__ = ["AskedSpan", "RecallOptions", "RecallSample", "RecallWriter"]

Rng = np.random.Generator

# Text around a statement that has its own line; the plain form is the most frequent.
_BEFORE = ("",) * 12 + (".", ".", ";", ")", "]", "}", ":", ",", '"', " #")
_BREAKS = ("\n",) * 6 + ("\n\n",) * 5 + ("\n\n\n", "\n    ", "\n        ", "\n\t")
_MARKERS = ("# ", "- ", "> ", "* ", "// ", '"', "    # ")
_AFTER = ("\n",) * 6 + ("\n\n",) * 3 + ("\n    ", "\n\n    ", " ")


@dataclass
class _Insertion:
    """A text to insert into the filler: a statement, or an interleaved question."""

    ids: list[int]
    position_millionths: int
    order: int
    fact: int = -1
    ask: Ask | None = None
    kind: str = ""
    gold: tuple[int, ...] = ()
    answer: tuple[int, int] = (0, 0)


@dataclass
class _Plan:
    facts: int = 0
    pieces: list[_Insertion] = field(default_factory=list)
    final: list[_Insertion] = field(default_factory=list)

    def size(self) -> int:
        return sum(len(p.ids) for p in self.pieces) + sum(len(p.ids) for p in self.final)


class RecallWriter:
    """Writes recall samples of one split; every sample is a function of (seed, counters)."""

    def __init__(self, tokenizer: Tokenizer, split: Split, seed: int, block_size: int = 32) -> None:
        self._tokenizer = tokenizer
        self._seed = seed
        self._block_size = block_size
        self._split = split
        self._dtype = token_dtype(tokenizer.get_vocab_size())
        parts = tokenizer.decode_batch([[i] for i in range(tokenizer.get_vocab_size())], False)
        ends_line = np.array([p.endswith("\n") for p in parts])
        ends_sentence = np.array([p.rstrip("\"')").endswith((".", "!", "?")) for p in parts])
        self._boundary = np.where(ends_line, 2, np.where(ends_sentence, 1, 0)).astype(np.uint8)
        common = [p.strip() for p in parts if p.startswith(" ") and p.strip().isalpha()]
        words = tuple(w for w in common if 3 < len(w) < 12 and w.isascii() and w.islower())
        starts, tails = word_pieces(parts) if split == "train" else ((), ())
        self.word_lists = WordLists(split, words, starts=starts, tails=tails)
        self._blank = frozenset(i for i, p in enumerate(parts) if not p.strip())

    def scene(self, count: int, kind: str, *counts: int, canonical: bool = True) -> Scene:
        """The texts without a sample, for callers that insert the facts themselves."""
        rng = generator(self._seed, f"recall.scene.{self._split}", *counts)
        return make_scene(self.word_lists, rng, count, kind, canonical)

    def sample(
        self, filler: np.ndarray, length: int, options: RecallOptions, *counts: int
    ) -> RecallSample:
        """One sample of exactly ``length`` tokens.

        Args:
            filler: real text, at least ``length`` tokens (gappy and coarse samples use all of it,
                up to ``stretch_max * length``).
        """
        rng = generator(self._seed, f"recall.sample.{self._split}", *counts)
        start = int(rng.integers(max(1, len(filler) - 96)))
        text = self._tokenizer.decode(filler[start : start + 96].tolist())
        words = tuple(w for w in text.split() if len(w) < 20)[1:-1]
        narrow = options.narrow > 0 and rng.random() < options.narrow
        pool = int(rng.integers(1, 1 << 31)) if narrow else 0
        plan = self._plan(rng, length, options, replace(self.word_lists, text=words, pool=pool))
        if options.gappy or options.coarse:
            return self._sample_window(rng, plan, filler, length, options)
        body = filler[: length - plan.size()]
        tokens, facts, asked = self._insert(rng, plan, body)
        return self._finish(tokens, facts, asked)

    def _plan(self, rng: Rng, length: int, options: RecallOptions, word_lists: WordLists) -> _Plan:
        """Draws scenes until the options' limits or their part of the window are used."""
        plan = _Plan()
        capacity = int(length * options.fill)
        asked_left = 1 if options.canonical else int(rng.integers(1, options.asked_max + 1))
        scenes = int(rng.integers(1, options.scenes_max + 1))
        for number in range(scenes):
            count = int(rng.integers(1, options.facts_max + 1)) if rng.random() < 0.85 else 1
            scene = make_scene(word_lists, rng, count, options.kind, options.canonical)
            parts = [self._statement(text, scene.lines, rng) for text in scene.statements]
            fraction = asked_left if number == scenes - 1 else max(1, asked_left // 2)
            if options.canonical and plan.final:
                fraction = 0  # the later scenes are distractors
            chosen = rng.permutation(len(scene.asks))[:fraction]
            questions = [self._ask(scene.asks[int(i)], scene.kind, plan.facts) for i in chosen]
            needed = sum(len(p) for p in parts) + sum(len(a.ids) for a in questions)
            if needed > capacity:
                if plan.final:
                    break
                return self._plan(rng, length, _with_fewer_facts(options), word_lists)
            capacity -= needed
            # Statements of code and chains keep their order; clustered with a small chance.
            positions = np.sort(rng.random(len(parts)))
            if rng.random() < 0.2:
                positions = positions[0] + (positions - positions[0]) * 0.02
            for i, ids in enumerate(parts):
                order = len(plan.pieces)
                plan.pieces.append(_Insertion(ids, int(positions[i] * 1e6), order, plan.facts + i))
            for ask in questions:
                at_end = options.canonical or options.gappy or options.coarse
                if at_end or rng.random() >= options.interleaved:
                    plan.final.append(ask)
                    continue
                latest = max(int(positions[g - plan.facts] * 1e6) for g in ask.gold)
                ask.position_millionths = int(rng.integers(latest, 1_000_001))
                ask.order = len(plan.pieces)
                plan.pieces.append(ask)
            plan.facts += len(parts)
            asked_left -= len(questions)
            if asked_left <= 0 and rng.random() < 0.5:
                break
        order_of_final = rng.permutation(len(plan.final))
        plan.final = [plan.final[int(i)] for i in order_of_final]
        return plan

    def _statement(self, text: str, line: bool, rng: Rng) -> list[int]:
        """A statement as its own line or as a sentence of the running text.

        The tokenizer merges a line end with what follows into one of many tokens (``";\\n\\n"``,
        ``"\\n    "``), so the text around a statement varies as much as in real text.
        """
        if not line and rng.random() < 0.4:
            return self._encode(" " + text)
        lead = _sampled(rng, _BEFORE) + _sampled(rng, _BREAKS)
        if not line and rng.random() < 0.25:
            lead += _sampled(rng, _MARKERS)
        return self._encode(lead + text + _sampled(rng, _AFTER))

    def _ask(self, ask: Ask, kind: str, first_fact: int) -> _Insertion:
        # Encoded as one text, as it would be in a document. The answer's tokens follow from the
        # offsets, so a leading space belongs to the answer's first token.
        text = ask.prompt + ask.answer + ask.closing
        encoding = self._tokenizer.encode(text)
        start = len(ask.prompt.rstrip(" "))
        stop = len(ask.prompt) + len(ask.answer)
        within = [i for i, (a, b) in enumerate(encoding.offsets) if b > start and a < stop]
        gold = tuple(first_fact + g for g in ask.gold)
        span = (within[0], within[-1] + 1)
        return _Insertion(encoding.ids, 1_000_000, 0, ask=ask, kind=kind, gold=gold, answer=span)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def _insert(
        self, rng: Rng, plan: _Plan, body: np.ndarray
    ) -> tuple[np.ndarray, list[tuple[int, int]], list[AskedSpan]]:
        """Filler with all insertions at line and sentence ends, then the final questions."""
        boundaries = np.flatnonzero(self._boundary[body]) + 1
        if len(boundaries) < 4:
            boundaries = np.arange(8, max(9, len(body)), 16)

        # Each text is inserted at the next boundary after its drawn position.
        parts: list[np.ndarray] = []
        facts = [(-1, -1)] * plan.facts
        asked: list[AskedSpan] = []
        position = cursor = 0
        for piece in sorted(plan.pieces, key=lambda p: (p.position_millionths, p.order)):
            target = int(piece.position_millionths / 1e6 * len(body))
            index = min(int(np.searchsorted(boundaries, target)), len(boundaries) - 1)
            cut = max(cursor, min(int(boundaries[index]), len(body)))
            parts.append(body[cursor:cut])
            position += cut - cursor
            cursor = cut
            parts.append(np.array(piece.ids, self._dtype))
            if piece.ask is None:
                facts[piece.fact] = (position, position + len(piece.ids))
            else:
                asked.append(_span(piece, position))
            position += len(piece.ids)
        parts.append(body[cursor:])
        position += len(body) - cursor

        for piece in plan.final:
            parts.append(np.array(piece.ids, self._dtype))
            asked.append(_span(piece, position))
            position += len(piece.ids)
        return np.concatenate(parts), facts, asked

    def _sample_window(
        self, rng: Rng, plan: _Plan, filler: np.ndarray, length: int, options: RecallOptions
    ) -> RecallSample:
        """Some blocks of a longer history, including the gold ones, and the tail with questions."""
        block = self._block_size
        final = sum(len(p.ids) for p in plan.final)
        max_filler = min(len(filler), length * int(rng.integers(2, options.stretch_max + 1)))
        tokens, facts, asked = self._insert(rng, plan, filler[:max_filler])

        # The newest text stays whole; of the rest, the asked blocks and distractors.
        recent = int(rng.integers(1, max(2, int(length * options.recent) // block))) * block
        tail_start = (len(tokens) - final - recent) // block * block
        blocks = tail_start // block
        capacity = length - (len(tokens) - tail_start)
        fact_blocks = [(a // block, (b - 1) // block + 1) for a, b in facts]
        asked_for = {g for span in asked for g in span.gold}
        gold_blocks = {b for g in asked_for for b in range(*fact_blocks[g]) if b < blocks}
        max_raw_blocks = (capacity - (blocks if options.coarse else 0)) // block
        gold_blocks |= distractor_blocks(rng, fact_blocks, gold_blocks, blocks, max_raw_blocks)

        # Other blocks become coarse entries, or are left out.
        entries = None
        if options.coarse:
            window = coarse_window(rng, tokens, blocks * block, gold_blocks, length, block, filler)
            index, previous, entries = window.index, window.older, window.entries
            ignored = window.silent
        else:
            keep_mask = gappy_mask(rng, blocks, gold_blocks, capacity // block)
            mask = np.ones(len(tokens), bool)
            mask[: blocks * block] = np.repeat(keep_mask, block)
            index = _with_exact_length(mask, length)
            previous, ignored = tokens[:0], np.zeros(len(index), bool)

        # Map the spans of facts and questions to the window; a fact may be cut off.
        new_index = np.full(len(tokens) + 1, -1, np.int64)
        new_index[index] = np.arange(len(index)) + len(previous)
        answered = []
        for ask in asked:
            new_span = _map_ask(new_index, ask)
            if all((new_index[slice(*facts[g])] >= 0).all() for g in ask.gold):
                answered.append(new_span)
            else:  # not all gold facts fit the window: the answer cannot be learned
                ignored[new_span.answer_start : new_span.answer_stop + 1] = True
        return self._finish(
            np.concatenate([previous, tokens[index]]),
            [_map_span(new_index, *fact) for fact in facts],
            answered,
            ignored,
            entries,
        )

    def _finish(
        self,
        tokens: np.ndarray,
        facts: list[tuple[int, int]],
        asked: list[AskedSpan],
        ignored: np.ndarray | None = None,
        coarse: CoarseEntries | None = None,
    ) -> RecallSample:
        answer = np.zeros(len(tokens), np.uint8)
        tokens_i64 = tokens.astype(np.int64)
        pairs = (tokens_i64[:-1] << 32) + tokens_i64[1:]  # pairs[i] ends at token i + 1
        for span in asked:
            # The token after the answer teaches the model where to stop.
            answer[span.answer_start : span.answer_stop + 1] = 1
            first_word = span.answer_start
            while first_word < span.answer_stop - 1 and int(tokens[first_word]) in self._blank:
                first_word += 1
            answer[span.answer_start : first_word + 1] = 2
            first = span.answer_stop if span.kind == "values" else first_word + 1
            answer[span.answer_start : first] = 2
            for at in range(first, span.answer_stop):
                if pairs[at - 1] not in pairs[: max(0, span.start - 1)]:
                    answer[at] = 2
        if ignored is not None:
            answer[ignored] = 3
        typed_tokens = tokens.astype(self._dtype)
        return RecallSample(typed_tokens, answer, tuple(facts), tuple(asked), coarse)


def _with_exact_length(mask: np.ndarray, length: int) -> np.ndarray:
    """Exactly ``length`` positions: drops the oldest, or adds the newest of those left out."""
    index = np.flatnonzero(mask)
    index = index[max(0, len(index) - length) :]
    removed = np.flatnonzero(~mask)
    return np.sort(np.concatenate([index, removed[len(removed) - (length - len(index)) :]]))


def _sampled(rng: Rng, items: tuple[str, ...]) -> str:
    return items[int(rng.integers(len(items)))]


def _with_fewer_facts(options: RecallOptions) -> RecallOptions:
    """Options with fewer facts and questions, for a window that is too small for the draw."""
    return replace(
        options,
        facts_max=max(1, options.facts_max // 2),
        scenes_max=1,
        asked_max=max(1, options.asked_max // 2),
    )


def _span(piece: _Insertion, position: int) -> AskedSpan:
    assert piece.ask is not None
    start, stop = (position + offset for offset in piece.answer)
    ask = piece.ask
    return AskedSpan(piece.kind, position, start, stop, piece.gold, ask.question, ask.answer)


def _map_span(new_index: np.ndarray, start: int, stop: int) -> tuple[int, int]:
    if start < 0:
        return (-1, -1)
    within = new_index[start:stop]
    within = within[within >= 0]
    return (int(within[0]), int(within[-1]) + 1) if len(within) else (-1, -1)


def _map_ask(new_index: np.ndarray, span: AskedSpan) -> AskedSpan:
    a, b = int(new_index[span.answer_start]), int(new_index[span.answer_stop - 1]) + 1
    start = int(new_index[span.start])
    return AskedSpan(span.kind, start, a, b, span.gold, span.question, span.answer)
