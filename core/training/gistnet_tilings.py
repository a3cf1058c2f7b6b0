"""Mixed tilings of a window of real text, as index tensors, and the batches made of them.

A row's *table* is its T raw tokens, then the gists of its N chosen blocks, then the gists of its
M chosen groups of K blocks; ``kept`` picks the window's entries from it in order. Rows of one
step have the same counts and therefore the same length; where the gists stand differs by row.

A token is scored where it is raw in every compared window. Its predictor is the entry before it,
whatever that is, and windows are compared by the token's place in the history, never by its
place in a window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from megacontext.core.data.recall import RecallOptions, RecallWriter
from megacontext.core.rng import generator
from megacontext.core.training.mixture import TokenStreams

__all__ = ["GistRows", "RowTiling", "TilingMix", "stack_tilings", "tile"]

Rng = np.random.Generator


@dataclass(frozen=True)
class TilingMix:
    """Which tilings a phase draws.

    Attributes:
        length: T, tokens of history per row.
        rows: rows per micro-batch and process.
        scored: tokens scored per row.
        gists: fewest and most level-1 gists of a row.
        groups: most level-2 gists of a row; drawn with chance ``group_chance``.
        tail: newest blocks that stay raw, at least.
        recall: share of rows that are recall text.
    """

    length: int = 2048
    rows: int = 24
    scored: int = 512
    gists: tuple[int, ...] = (8, 48)
    groups: int = 0
    group_chance: float = 0.0
    tail: int = 4
    recall: float = 0.2


@dataclass(frozen=True)
class RowTiling:
    """Index arrays of one row; see the module's docstring.

    Attributes:
        blocks: [N + M * K] blocks to encode, those of the groups last.
        kept: [L] window entries; kept_raw: [L - N - M] the same without gists.
        target: [S] history positions of scored tokens.
        predictor: [S] entry of ``kept`` before each; predictor_raw: the same for ``kept_raw``.
    """

    blocks: np.ndarray
    kept: np.ndarray
    kept_raw: np.ndarray
    target: np.ndarray
    predictor: np.ndarray
    predictor_raw: np.ndarray


def tile(
    length: int,
    block_size: int,
    gists: np.ndarray,
    groups: np.ndarray,
    choose: np.ndarray | None = None,
) -> RowTiling:
    """The row in which ``gists`` (blocks) and ``groups`` (of K blocks) are coarse, the rest raw.

    Args:
        gists: sorted block numbers outside the groups. groups: sorted group numbers.
        choose: history positions to score where possible; all raw ones if not given.
    """
    n_blocks = length // block_size
    level = np.zeros(n_blocks, np.int64)
    level[gists] = 1
    inside = (groups[:, None] * block_size + np.arange(block_size)).ravel()
    level[inside] = 2
    slot = np.full(n_blocks, -1, np.int64)
    slot[gists] = length + np.arange(len(gists))
    coded = len(gists) + len(inside)
    slot[groups * block_size] = length + coded + np.arange(len(groups))
    raw = np.repeat(level == 0, block_size)
    # One value per token: its own index where raw, the gist's slot on a coarse entry's first.
    table = np.where(raw, np.arange(length), -1)
    table[np.arange(n_blocks) * block_size] = np.where(
        level == 0, np.arange(n_blocks) * block_size, slot
    )
    kept = table[table >= 0]
    kept_raw = np.flatnonzero(raw)
    is_raw = kept < length
    entry = np.full(length, -1, np.int64)
    entry[kept[is_raw]] = np.flatnonzero(is_raw)
    entry_raw = np.full(length, -1, np.int64)
    entry_raw[kept_raw] = np.arange(len(kept_raw))
    usable = np.flatnonzero((entry > 0) & (entry_raw > 0))
    target = usable if choose is None else np.intersect1d(usable, choose)
    return RowTiling(
        np.concatenate([gists, inside]).astype(np.int64),
        kept,
        kept_raw,
        target,
        entry[target] - 1,
        entry_raw[target] - 1,
    )


def stack_tilings(rows: list[RowTiling]) -> dict[str, Tensor]:
    """Rows of equal counts as int64 tensors [R, ...] by attribute name."""
    names = ("blocks", "kept", "kept_raw", "target", "predictor", "predictor_raw")
    return {n: torch.from_numpy(np.stack([getattr(row, n) for row in rows])) for n in names}


class GistRows(Dataset[dict[str, Tensor]]):
    """Item ``step``: ``tokens`` [accumulation, R, T] and the tensors of ``stack_tilings``."""

    def __init__(
        self,
        mix: TilingMix,
        streams: TokenStreams,
        writer: RecallWriter,
        *,
        block_size: int,
        seed: int,
        phase: int,
        rank: int,
        accumulation: int,
    ) -> None:
        self._mix, self._streams, self._writer = mix, streams, writer
        self._block_size, self._seed, self._phase = block_size, seed, phase
        self._rank, self._accumulation = rank, accumulation

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        parts = [self._micro(step * self._accumulation + i) for i in range(self._accumulation)]
        return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}

    def _micro(self, step: int) -> dict[str, Tensor]:
        mix = self._mix
        # The counts are equal on all processes: equal shapes, equal time.
        rng = generator(self._seed, f"gistnet.step.{self._phase}", step)
        count = int(rng.integers(mix.gists[0], mix.gists[1] + 1))
        groups = 0
        if mix.groups and rng.random() < mix.group_chance:
            groups = int(rng.integers(1, mix.groups + 1))
        tokens, rows = [], []
        for row in range(mix.rows):
            draw = generator(self._seed, f"gistnet.row.{self._phase}", step, row, self._rank)
            tokens.append(self._text(draw, step, row))
            rows.append(self._tiling(draw, count, groups))
        stacked = torch.from_numpy(np.stack(tokens).astype(np.int32))
        return {"tokens": stacked, **stack_tilings(rows)}

    def _text(self, rng: Rng, step: int, row: int) -> np.ndarray:
        domain = self._streams.domains[int(rng.integers(len(self._streams.domains)))]
        text = self._streams.window(rng, domain, self._mix.length)
        if rng.random() >= self._mix.recall:
            return text
        options = RecallOptions(facts_max=8, scenes_max=3)
        counters = (step * 64 + self._phase, row, self._rank)
        return self._writer.sample(text, self._mix.length, options, *counters).tokens

    def _tiling(self, rng: Rng, count: int, groups: int) -> RowTiling:
        mix, size = self._mix, self._block_size
        n_blocks = mix.length // size
        free = n_blocks - mix.tail
        chosen = np.sort(rng.choice(max(1, free // size), groups, replace=False))
        taken = (chosen[:, None] * size + np.arange(size)).ravel()
        candidates = np.setdiff1d(np.arange(free), taken)
        count = min(count, len(candidates) - 1)
        form = rng.random()
        if form < 0.4:  # scattered
            gists = rng.choice(candidates, count, replace=False)
        elif form < 0.7:  # the oldest, as a working context has them
            gists = candidates[:count]
        else:  # one run somewhere
            first = int(rng.integers(len(candidates) - count + 1))
            gists = candidates[first : first + count]
        row = tile(mix.length, size, np.sort(gists), chosen)
        first_gist = int(np.argmax(row.kept >= mix.length)) * 1
        later = np.flatnonzero(row.predictor >= first_gist)
        pool = later if len(later) >= mix.scored else np.arange(len(row.target))
        pick = np.sort(rng.choice(pool, mix.scored, replace=len(pool) < mix.scored))
        return RowTiling(
            row.blocks,
            row.kept,
            row.kept_raw,
            row.target[pick],
            row.predictor[pick],
            row.predictor_raw[pick],
        )
