"""Batches for the LoRA adapter: real and recall text under random mixed tilings.

Rows of one step have the same number of gists, at other positions, so their windows have one
length. With a teacher cache, rows are the starts of cached slices, together with the original base
model's most likely tokens at the scored positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from megacontext.core.config.settings import check_fractions
from megacontext.core.data.recall.writer import RecallOptions, RecallWriter
from megacontext.core.data.recall_shards import DOMAIN
from megacontext.core.data.teacher_cache import CachedSlice, TeacherCache
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.rng import generator
from megacontext.core.training.common.tilings import RowTiling, stack_tilings, tile
from megacontext.traces.errors import ConfigError

__all__ = ["MixedWindowDataset", "WindowMix"]

Rng = np.random.Generator


@dataclass(frozen=True)
class WindowMix:
    """Which windows a phase draws.

    Attributes:
        length: T, tokens of history per row.
        rows: rows per micro-batch, over all processes.
        scored: raw tokens scored per row, those behind the first gist.
        gists: fewest and most level-1 gists of a row.
        groups: most level-2 gists of a row; drawn with chance ``group_chance``.
        tail: newest blocks that stay raw, at least.
        recall: share of rows that are recall text.
    """

    length: int = 2048
    rows: int = 16
    scored: int = 512
    gists: tuple[int, ...] = (8, 48)
    groups: int = 0
    group_chance: float = 0.0
    tail: int = 4
    recall: float = 0.2

    def __post_init__(self) -> None:
        if len(self.gists) != 2 or not 0 < self.gists[0] <= self.gists[1]:
            raise ConfigError(f"windows.gists: {list(self.gists)} should be [fewest, most] from 1.")
        check_fractions("windows", self)

    def check(self, block_size: int) -> None:
        """Refuse windows that blocks of ``block_size`` cannot tile."""
        free = self.length // block_size - self.tail
        if self.length % block_size or free < 2:
            raise ConfigError(
                f"windows.length: {self.length} is no multiple of block size {block_size} above "
                f"{self.tail} blocks of tail; choose a longer one."
            )
        if self.groups * block_size > free - 2:
            raise ConfigError(
                f"windows.groups: {self.groups} groups of {block_size} blocks do not fit "
                f"{free} blocks; lower it or lengthen the windows."
            )


class MixedWindowDataset(Dataset[dict[str, Tensor]]):
    """Item ``step``: ``tokens`` int32 [accumulation, R, T] and the tensors of ``stack_tilings``.

    With a ``cache`` also ``teacher_ids`` int64 and ``teacher_logp`` float32
    [accumulation, R, S, k].
    """

    def __init__(
        self,
        mix: WindowMix,
        streams: TokenStreams,
        writer: RecallWriter,
        *,
        block_size: int,
        seed: int,
        phase: int,
        accumulation: int = 1,
        cache: TeacherCache | None = None,
    ) -> None:
        mix.check(block_size)
        self._mix, self._streams, self._writer = mix, streams, writer
        self._block_size, self._seed, self._phase = block_size, seed, phase
        self._accumulation = accumulation
        self._cache = cache
        self._slices = {} if cache is None else cache.at_least(mix.length)
        if cache is not None:
            self._check_slices()

    def _check_slices(self) -> None:
        if not set(self._slices) - {DOMAIN}:
            raise ConfigError(
                f"windows.length: no cached slice has {self._mix.length} tokens; shorten the "
                "windows or prepare longer slices."
            )
        if self._mix.recall and DOMAIN not in self._slices:
            raise ConfigError(
                f"windows.recall: {self._mix.recall:g} needs recall text in the cache; set it to 0 "
                "or prepare the data with --recall and --teacher."
            )

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        parts = [self._micro(step * self._accumulation + i) for i in range(self._accumulation)]
        return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}

    def _micro(self, step: int) -> dict[str, Tensor]:
        mix = self._mix
        rng = generator(self._seed, f"lora.step.{self._phase}", step)
        count = int(rng.integers(mix.gists[0], mix.gists[1] + 1))
        groups = 0
        if mix.groups and rng.random() < mix.group_chance:
            groups = int(rng.integers(1, mix.groups + 1))

        # Each row draws for itself, so that a resumed run sees the same rows.
        tokens, rows, slices = [], [], []
        for row in range(mix.rows):
            row_rng = generator(self._seed, f"lora.row.{self._phase}", step, row)
            if self._cache is None:
                tokens.append(self._text(row_rng, step, row))
            else:
                slices.append(self._slice(row_rng, self._cache))
                tokens.append(slices[-1].tokens)
            rows.append(self._tiling(row_rng, count, groups))

        stacked = torch.from_numpy(np.stack(tokens).astype(np.int32))
        batch = {"tokens": stacked, **stack_tilings(rows)}

        # The cache has the teacher's most likely tokens at every position.
        if slices:
            predictor = [row.target - 1 for row in rows]
            ids = np.stack([s.ids[w] for s, w in zip(slices, predictor, strict=True)])
            log_probs = np.stack([s.logp[w] for s, w in zip(slices, predictor, strict=True)])
            batch["teacher_ids"] = torch.from_numpy(ids.astype(np.int64))
            batch["teacher_logp"] = torch.from_numpy(log_probs.astype(np.float32))
        return batch

    def _slice(self, rng: Rng, cache: TeacherCache) -> CachedSlice:
        domains = [domain for domain in self._slices if domain != DOMAIN]
        domain = domains[int(rng.integers(len(domains)))]
        if rng.random() < self._mix.recall:
            domain = DOMAIN
        positions = self._slices[domain]
        return cache.read(*positions[int(rng.integers(len(positions)))], self._mix.length)

    def _text(self, rng: Rng, step: int, row: int) -> np.ndarray:
        domain = self._streams.domains[int(rng.integers(len(self._streams.domains)))]
        text = self._streams.window(rng, domain, self._mix.length)
        if rng.random() >= self._mix.recall:
            return text
        options = RecallOptions(facts_max=8, scenes_max=3)
        # Phases share no counters with each other through the writer's own seed.
        return self._writer.sample(
            text, self._mix.length, options, step * 64 + self._phase, row
        ).tokens

    def _tiling(self, rng: Rng, count: int, groups: int) -> RowTiling:
        mix, size = self._mix, self._block_size
        free = mix.length // size - mix.tail
        chosen = np.sort(rng.permutation(free // size)[:groups])
        within = (chosen[:, None] * size + np.arange(size)).ravel()
        candidates = np.setdiff1d(np.arange(free), within)
        # One block in front of the tail stays raw: there is always something to score.
        count = min(count, free - groups * size - 1)
        form = rng.random()
        if form < 0.4:  # scattered
            gists = rng.choice(candidates, count, replace=False)
        elif form < 0.7:  # the oldest, as a working context has them
            gists = candidates[:count]
        else:  # one run somewhere
            first = int(rng.integers(len(candidates) - count + 1))
            gists = candidates[first : first + count]
        row = tile(mix.length, size, np.sort(gists), chosen)
        later = np.flatnonzero(row.predictor >= int(np.argmax(row.entries >= mix.length)))
        choice = np.sort(rng.choice(later, mix.scored, replace=len(later) < mix.scored))
        return RowTiling(
            row.blocks,
            row.entries,
            row.entries_raw,
            row.target[choice],
            row.predictor[choice],
            row.predictor_raw[choice],
        )
