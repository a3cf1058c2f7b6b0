"""Batches for the base model: real text and recall text; contiguous, gappy and coarse rows.

Row r of step s in phase p is a function of (seed, p, s, r) alone: workers, ranks and resumes
never change it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import Dataset

from megacontext.core.config.settings import Count, check_fractions
from megacontext.core.data.recall.window_sampling import CoarseEntries, coarse_window
from megacontext.core.data.recall.writer import RecallOptions, RecallWriter
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.data.tokenizer import BOS
from megacontext.core.rng import generator
from megacontext.core.training.common.copied_tokens import copied_in, repeated_in
from megacontext.core.training.common.gist_inputs import assign_gists
from megacontext.traces.errors import ConfigError

__all__ = [
    "ANSWER",
    "COPIED",
    "FILLER",
    "LOOKED_UP",
    "PLAIN",
    "SILENT",
    "BaseDataset",
    "Phase",
]

Rng = np.random.Generator
# What a predicted token is: 1 to 3 are the marks of RecallSample.answer.
PLAIN, ANSWER, LOOKED_UP, SILENT, FILLER, COPIED = range(6)
_MIN_COPY_DISTANCE = 32  # tokens between a gist and what copies from its block
_SHORTEST = 256  # a shorter window cannot hold a fact, some filler and a question


@dataclass(frozen=True)
class Phase:
    """One stage of the curriculum.

    Attributes:
        share: part of the budget.
        length: tokens per row.
        batch_tokens: tokens per optimizer step, over all processes.
        recall: share of rows that are recall text.
        gappy: share of the recall rows that are gappy windows.
        coarse: share of the recall rows that are windows with coarse entries.
        gappy_text: share of the plain rows that are gappy windows.
        coarse_text: share of the plain rows that are windows with coarse entries.
        repeats: fraction of these whose newest text repeats pieces of blocks that are gists.
        gists: capacity of a batch in level-1 gists, per row; 0: coarse entries are tokens.
        token_gists: fraction of the coarse windows whose entries are tokens in spite of ``gists``.
        packed: fraction of rows that pack 2 or 4 shorter windows, so that short ones are trained.
        facts_max, scenes_max, asked_max, fill, narrow, recent: see :class:`RecallOptions`.
        weights: domain to sampling weight.
    """

    share: float
    length: Count
    batch_tokens: Count = 131_072
    recall: float = 0.25
    gappy: float = 0.3
    coarse: float = 0.0
    gappy_text: float = 0.04
    coarse_text: float = 0.0
    repeats: float = 0.0
    gists: int = 0
    token_gists: float = 0.2
    packed: float = 0.0
    facts_max: int = 12
    scenes_max: int = 4
    asked_max: int = 10
    fill: float = 0.5
    narrow: float = 0.0
    recent: float = 0.25
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fractions("phases", self)
        for coarse, gappy in (("coarse", "gappy"), ("coarse_text", "gappy_text")):
            if getattr(self, gappy) + getattr(self, coarse) > 1:
                raise ConfigError(
                    f"phases.{coarse}: {getattr(self, coarse)} and {gappy} "
                    f"{getattr(self, gappy)} add up to more than 1; lower one of them."
                )
        if self.gists < 0:
            raise ConfigError(f"phases.gists: {self.gists} is below 0; use 0 for none.")
        if self.batch_tokens < self.length or self.batch_tokens % self.length:
            raise ConfigError(
                f"phases.batch_tokens: {self.batch_tokens} is no multiple of length {self.length}."
            )


@dataclass(frozen=True)
class Row:
    """``tokens`` [length + 1], ``marks`` uint8 [length] of the predicted tokens, and the coarse
    entries, if any."""

    tokens: np.ndarray
    marks: np.ndarray
    coarse: CoarseEntries | None


class BaseDataset(Dataset[dict[str, Tensor]]):
    """Item ``step``: ``tokens`` int32 [accumulation, rows, length + 1] and ``marks`` uint8
    [accumulation, rows, length] of the predicted tokens: ``PLAIN`` text, ``ANSWER``, the
    ``LOOKED_UP`` first token of an answer, ``SILENT`` (unpredictable), ``FILLER`` around
    facts, ``COPIED`` from a block that is a gist.

    With ``phase.gists`` also ``places`` int32 [accumulation, rows, length] and ``blocks`` int32
    [accumulation, N, 2K] of the gists (see :func:`..common.gist_inputs.assign_gists`).
    """

    def __init__(
        self,
        phase: Phase,
        number: int,
        streams: TokenStreams,
        tokenizer: Tokenizer,
        *,
        seed: int,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
        block_size: int = 32,
    ) -> None:
        rows = phase.batch_tokens // phase.length
        if rows % (world * accumulation):
            raise ConfigError(
                f"phases.batch_tokens: {rows} rows of {phase.length} do not split over {world} "
                f"processes × {accumulation} micro-batches; change batch_tokens."
            )
        unknown = sorted(set(phase.weights) - set(streams.domains))
        if unknown:
            known = ", ".join(streams.domains)
            raise ConfigError(f"phases.weights: {unknown[0]!r} is no domain of the data ({known}).")
        self._phase, self._number, self._streams, self._seed = phase, number, streams, seed
        self._rows = range(rank, rows, world)
        self._accumulation, self._block = accumulation, block_size
        self._writer = RecallWriter(tokenizer, "train", seed, block_size)
        self._bos = tokenizer.token_to_id(BOS)
        weights = phase.weights or dict.fromkeys(streams.domains, 1.0)
        self._domains = list(weights)
        self._domain_probs = np.array(list(weights.values())) / sum(weights.values())

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        rows = [self.row(step, row) for row in self._rows]
        tokens = np.stack([row.tokens for row in rows]).astype(np.int32)
        batch = {"tokens": tokens, "marks": np.stack([row.marks for row in rows])}
        micro = len(rows) // self._accumulation

        # Level-2 gists are drawn per micro-batch, since each encodes its own blocks.
        if self._phase.gists:
            rng = generator(self._seed, "base.uppers", self._number, step)
            capacity = -(-self._phase.gists * micro // self._block) * self._block
            per_micro_batch = [
                assign_gists(
                    rng,
                    [row.coarse for row in rows[start : start + micro]],
                    self._phase.length,
                    capacity,
                    self._block,
                )
                for start in range(0, len(rows), micro)
            ]
            batch["places"] = np.concatenate([positions for positions, _ in per_micro_batch])
            batch["blocks"] = np.concatenate([blocks for _, blocks in per_micro_batch])

        return {
            name: torch.from_numpy(value).view(
                self._accumulation, len(value) // self._accumulation, -1
            )
            for name, value in batch.items()
        }

    def row(self, step: int, row: int) -> Row:
        """One row of ``length`` + 1 tokens."""
        rng = generator(self._seed, "base.row", self._number, step, row)
        length = self._phase.length + 1
        parts = 1
        if rng.random() < self._phase.packed:
            parts = int(rng.choice([2, 4]))
            while parts > 1 and length // parts < _SHORTEST:
                parts //= 2
        sizes = [length // parts] * parts
        sizes[-1] += length - sum(sizes)
        drawn_parts = [self._part(rng, size, (step, row, i)) for i, size in enumerate(sizes)]
        tokens = np.concatenate([tokens for tokens, _, _ in drawn_parts])
        labels = np.concatenate([labels for _, labels, _ in drawn_parts])
        starts = np.cumsum([0, *sizes[:-1]]).tolist()
        entries = [
            e.shifted(at)
            for (_, _, e), at in zip(drawn_parts, starts, strict=True)
            if e is not None
        ]
        coarse = None
        if entries and self._phase.gists:
            # The last token is only predicted, never read.
            coarse = CoarseEntries(
                np.concatenate([e.level1_positions for e in entries]),
                np.concatenate([e.blocks for e in entries]),
                np.concatenate([e.level2_positions for e in entries]),
            ).until(length - 1)
        return Row(tokens, labels[1:], coarse)

    def _part(
        self, rng: Rng, length: int, counts: tuple[int, int, int]
    ) -> tuple[np.ndarray, np.ndarray, CoarseEntries | None]:
        phase = self._phase
        domain = self._domains[int(rng.choice(len(self._domains), p=self._domain_probs))]
        is_recall = rng.random() < phase.recall
        form = rng.random()
        gappy_below, coarse_fraction = phase.gappy_text, phase.coarse_text
        if is_recall:
            gappy_below, coarse_fraction = phase.gappy, phase.coarse
        gappy, coarse = form < gappy_below, gappy_below <= form < gappy_below + coarse_fraction
        text = self._streams.window(rng, domain, length * 6 if gappy or coarse else length)
        entries = None
        if is_recall:
            options = RecallOptions(
                gappy=gappy,
                coarse=coarse,
                facts_max=phase.facts_max,
                scenes_max=phase.scenes_max,
                asked_max=phase.asked_max,
                fill=phase.fill,
                narrow=phase.narrow,
                recent=phase.recent,
            )
            # Phases share no counters with each other through the writer's own seed.
            step = counts[0] * 64 + self._number
            sample = self._writer.sample(text, length, options, step, *counts[1:])
            tokens, entries = sample.tokens, sample.coarse
            labels = np.where(sample.answer == PLAIN, FILLER, sample.answer).astype(np.uint8)
        elif coarse:
            tokens, labels, entries = self._coarse_text(rng, text, length)
        else:
            tokens = self._gaps(rng, text, length) if gappy else text
            labels = np.full(length, PLAIN, np.uint8)
        if rng.random() < 0.3 and not (phase.gists and coarse):
            tokens = tokens.copy()
            tokens[0] = self._bos
        if entries is not None and phase.gists and rng.random() < phase.token_gists:
            entries = None
            labels = np.where(labels == COPIED, PLAIN, labels).astype(np.uint8)
        return tokens, labels, entries

    def _coarse_text(
        self, rng: Rng, text: np.ndarray, length: int
    ) -> tuple[np.ndarray, np.ndarray, CoarseEntries]:
        """A long history whose older part is mostly coarse."""
        past = text[: length * int(rng.integers(2, 7))]
        recent = int(rng.integers(length // 8, length // 2))
        tail_start = (len(past) - recent) // self._block * self._block
        window = coarse_window(rng, past, tail_start, set(), length, self._block, text)
        tokens = np.concatenate([window.older, past[window.index]])
        entries, ignored = window.entries, window.silent
        labels = np.where(ignored, SILENT, PLAIN).astype(np.uint8)

        # With gists, tokens may copy from the blocks that gists replace.
        if self._phase.gists:
            gist_blocks = entries.blocks[:, self._block :]
            if self._phase.repeats and rng.random() < self._phase.repeats:
                text_start = int(np.flatnonzero(ignored)[-1]) + 1 if ignored.any() else 0
                tokens[text_start:] = repeated_in(
                    rng, tokens[text_start:], gist_blocks, _MIN_COPY_DISTANCE
                )
            labels[
                copied_in(
                    tokens, ignored, entries.level1_positions, gist_blocks, _MIN_COPY_DISTANCE
                )
            ] = COPIED
        return tokens, labels, entries

    def _gaps(self, rng: Rng, text: np.ndarray, length: int) -> np.ndarray:
        """Random runs of blocks of ``text``, then its end: ``length`` tokens in order."""
        block = self._block
        recent = int(rng.integers(length // 8, length // 2))
        blocks = (len(text) - recent) // block
        target = -(-(length - recent) // block)
        keep_mask = np.zeros(blocks, bool)
        while int(keep_mask.sum()) < target:
            start = int(rng.integers(blocks))
            keep_mask[start : start + int(rng.integers(1, 9))] = True
        index = np.flatnonzero(np.repeat(keep_mask, block))
        combined = np.concatenate([text[index], text[blocks * block :]])
        return combined[len(combined) - length :]
