"""Batches for the gist encoder: windows of one fixed length over the gists of a whole batch.

A batch's *table* is one run of entries per row: its T raw tokens, the gists of its B blocks, the
gists of its B / K groups. ``window`` selects T entries from the tables of *all* rows: first a
simulated distant past of other rows' gists (tens of level-2 gists and expanded groups, as in a
long history), then the row's own mixed tiling, then padding that no entry attends to. The teacher
sees only the row's own raw text, so the student has to ignore the distant past and to use the
row's own gists.

Every array has one shape per phase, so that nothing is compiled twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from megacontext.core.config.settings import Count, check_fractions
from megacontext.core.data.recall.writer import RecallOptions, RecallSample, RecallWriter
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.rng import generator
from megacontext.core.training.common.copied_tokens import copied_tokens, repeat_pieces
from megacontext.core.training.common.tilings import RowTiling, tile
from megacontext.traces.errors import ConfigError

__all__ = ["GistDataset", "TilingMix"]

Rng = np.random.Generator
_MIN_DISTANT_TARGETS = 64
"""With this many targets at ``TilingMix.behind`` or more, repeat them before using closer ones."""


@dataclass(frozen=True)
class TilingMix:
    """Which tilings a phase draws.

    Attributes:
        length: T, tokens of history per row and entries per window.
        rows: rows per micro-batch and process.
        scored: tokens scored per row.
        gists: fewest and most level-1 gists of a row.
        groups: most level-2 gists of a row; drawn with chance ``group_chance``.
        tail: newest blocks that stay raw, at least.
        recall: share of rows that are recall text.
        gold_raw: fraction of these whose questions and asked facts stay raw, as after a refocus.
        stress: loss weight of the first token of a recalled answer; all others weigh 1.
        far: maximum entries of the simulated distant past; the number is drawn uniformly from 1
            on, and there are none with probability 1 - ``far_chance``.
        copies: fraction of the scored tokens that copy from a coarse block, if there are enough;
            see :mod:`..common.copied_tokens`.
        repeats: fraction of the rows of real text that repeat pieces of coarse blocks.
        apart: minimum tokens between such a block and its copy.
        behind: minimum raw tokens between any gist and a scored token, where there are such
            tokens; in a session the newest blocks are protected, so no gist is closer.
    """

    length: Count = 2048
    rows: Count = 24
    scored: Count = 512
    gists: tuple[int, ...] = (8, 48)
    groups: int = 0
    group_chance: float = 0.0
    tail: int = 4
    recall: float = 0.2
    gold_raw: float = 0.7
    stress: int = 4
    far: int = 0
    far_chance: float = 1.0
    copies: float = 0.0
    repeats: float = 0.0
    apart: int = 32
    behind: int = 0

    def __post_init__(self) -> None:
        check_fractions("tilings", self)
        if len(self.gists) != 2 or not 0 < self.gists[0] <= self.gists[1]:
            raise ConfigError(f"tilings.gists: {list(self.gists)} should be [fewest, most] from 1.")
        if self.far and self.rows < 2:
            raise ConfigError(
                "tilings.far: a far past is made of other rows; set rows to 2 or more."
            )


class GistDataset(Dataset[dict[str, Tensor]]):
    """Item ``step``, each with a leading [accumulation]:

    ``tokens`` int32[R, T]; ``window`` and ``bare`` int32[R, T]: entries of the batch's table with
    gists, and the row's raw tokens alone; ``target`` int32[R, S] history positions of scored
    tokens, ``stress`` int32[R, S] their weights; ``predictor`` and ``predictor_raw`` int32[R, S]:
    the entry before each of them.
    """

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
        self._blocks = mix.length // block_size
        self._groups = self._blocks // block_size
        self._table = mix.length + self._blocks + self._groups  # entries of one row's table

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        parts = [self._micro(step * self._accumulation + i) for i in range(self._accumulation)]
        return {
            name: torch.from_numpy(np.stack([part[name] for part in parts]).astype(np.int32))
            for name in parts[0]
        }

    def _micro(self, step: int) -> dict[str, np.ndarray]:
        rows = []
        for row in range(self._mix.rows):
            rng = generator(self._seed, f"gistnet.row.{self._phase}", step, row, self._rank)
            rows.append(self._row(rng, step, row))
        return {name: np.stack([item[name] for item in rows]) for name in rows[0]}

    def _row(self, rng: Rng, step: int, row: int) -> dict[str, np.ndarray]:
        mix, size = self._mix, self._block_size
        domain = self._streams.domains[int(rng.integers(len(self._streams.domains)))]
        text = self._streams.window(rng, domain, mix.length)

        # Recall text: its answers are scored first, and the asked blocks may stay raw.
        gold = answers = looked_up = np.empty(0, np.int64)
        if rng.random() < mix.recall:
            options = RecallOptions(facts_max=8, scenes_max=3, canonical=bool(rng.random() < 0.3))
            counts = (step * 64 + self._phase, row, self._rank)
            sample = self._writer.sample(text, mix.length, options, *counts)
            text, answers = sample.tokens, np.flatnonzero(np.isin(sample.answer, (1, 2)))
            looked_up = np.flatnonzero(sample.answer == 2)
            if rng.random() < mix.gold_raw:
                gold = _gold_blocks(sample, size)

        # Which blocks are gists, and pieces of them that the text repeats.
        tiling = self._tiling(rng, gold)
        coarse = np.ones(self._blocks, bool)
        coarse[tiling.entries_raw // size] = False
        if mix.repeats and not len(answers) and rng.random() < mix.repeats:
            with_gist = tiling.blocks[: self._level1_count(tiling)]
            text = repeat_pieces(rng, text, coarse, with_gist, size, mix.apart)
        copies = np.empty(0, np.int64)
        if mix.copies:
            copies = copied_tokens(text, coarse, size, size + mix.apart)

        # The rest of the row is a simulated distant past: entries of other rows.
        capacity = mix.length - len(tiling.entries)
        distant = np.empty(0, np.int64)
        if mix.far and capacity and rng.random() < mix.far_chance:
            distant = self._distant_entries(
                rng, row, min(capacity, int(rng.integers(1, mix.far + 1)))
            )

        choice = self._scored_targets(rng, tiling, answers, copies)
        return {
            "tokens": text.astype(np.int64),
            "window": self._padded(np.concatenate([distant, self._to_batch_entries(tiling, row)])),
            "bare": self._padded(tiling.entries_raw + row * self._table),
            "target": tiling.target[choice],
            "stress": np.where(np.isin(tiling.target[choice], looked_up), mix.stress, 1),
            "predictor": tiling.predictor[choice] + len(distant),
            "predictor_raw": tiling.predictor_raw[choice],
        }

    def _padded(self, entries: np.ndarray) -> np.ndarray:
        # Under causal attention, no scored token attends to the padding after it.
        return np.pad(entries, (0, self._mix.length - len(entries)))

    def _level1_count(self, tiling: RowTiling) -> int:
        """How many of ``tiling.blocks`` have a gist of their own; blocks of groups come later."""
        groups = int((tiling.entries >= self._mix.length + len(tiling.blocks)).sum())
        return len(tiling.blocks) - groups * self._block_size

    def _to_batch_entries(self, tiling: RowTiling, row: int) -> np.ndarray:
        """The row's entries, mapped from indices of its own table to those of the batch's."""
        length, size = self._mix.length, self._block_size
        within = tiling.entries >= length
        slot = tiling.entries[within] - length
        level1_count = self._level1_count(tiling)
        groups = (len(tiling.blocks) - level1_count) // size
        first = tiling.blocks[level1_count::size]  # the first block of each group
        position = np.concatenate(
            [
                tiling.blocks[:level1_count],
                np.zeros(groups * size, np.int64),
                self._blocks + first // size,
            ]
        )
        entries = tiling.entries.copy()
        entries[within] = length + position[slot]
        return entries + row * self._table

    def _distant_entries(self, rng: Rng, row: int, count: int) -> np.ndarray:
        """``count`` entries of other rows: runs of level-2 gists between expanded groups."""
        size, length = self._block_size, self._mix.length
        parts: list[np.ndarray] = []
        total = 0

        while total < count:
            draw = rng.random()
            if self._groups and draw < 0.6:
                run = int(rng.integers(1, 17))
                tables = self._other_rows(rng, row, run) * self._table
                part = tables + length + self._blocks + rng.integers(0, self._groups, run)
            else:
                other = int(self._other_rows(rng, row, 1)[0]) * self._table
                first = int(rng.integers(0, max(1, self._blocks - size + 1)))
                part = other + length + np.arange(first, min(self._blocks, first + size))
                if draw > 0.75:  # one of the blocks is raw
                    position = int(rng.integers(len(part)))
                    raw = other + (first + position) * size + np.arange(size)
                    part = np.concatenate([part[:position], raw, part[position + 1 :]])
            parts.append(part)
            total += len(part)
        return np.concatenate(parts)[:count]

    def _other_rows(self, rng: Rng, row: int, count: int) -> np.ndarray:
        other = rng.integers(0, self._mix.rows - 1, count)
        return other + (other >= row)

    def _scored_targets(
        self, rng: Rng, row: RowTiling, answers: np.ndarray, copies: np.ndarray
    ) -> np.ndarray:
        """Indices of the scored targets: answers and copies, then tokens after the first gist."""
        n_scored = self._mix.scored
        chosen = np.flatnonzero(np.isin(row.target, answers))[: n_scored // 2]
        is_gist = row.entries >= self._mix.length
        last_gist = np.maximum.accumulate(np.where(is_gist, np.arange(len(is_gist)), -(1 << 30)))
        distant = row.predictor - last_gist[row.predictor] >= self._mix.behind
        copying = np.flatnonzero(distant & np.isin(row.target, copies))
        max_copies = min(int(self._mix.copies * n_scored), n_scored - len(chosen))
        if max_copies:
            chosen = np.concatenate([chosen, rng.permutation(copying)[:max_copies]])
        later = np.flatnonzero(distant & (row.predictor >= int(np.argmax(is_gist))))
        remaining = n_scored - len(chosen)
        min_later = min(remaining, _MIN_DISTANT_TARGETS) if self._mix.behind else remaining
        pool = later if len(later) >= min_later else np.arange(len(row.target))
        return np.sort(
            np.concatenate([chosen, rng.choice(pool, remaining, replace=len(pool) < remaining)])
        )

    def _tiling(self, rng: Rng, gold: np.ndarray) -> RowTiling:
        mix, size, blocks = self._mix, self._block_size, self._blocks
        free = blocks - mix.tail
        groups = 0
        if mix.groups and rng.random() < mix.group_chance:
            groups = int(rng.integers(1, mix.groups + 1))

        # Asked blocks stay raw: no group and no gist may hold one.
        groups_without_gold = np.setdiff1d(np.arange(free // size), gold // size)
        chosen = np.sort(rng.permutation(groups_without_gold)[:groups])
        in_groups = (chosen[:, None] * size + np.arange(size)).ravel()
        candidates = np.setdiff1d(np.arange(free), np.concatenate([in_groups, gold]))
        count = int(rng.integers(mix.gists[0], mix.gists[1] + 1))
        count = max(0, min(count, len(candidates) - 1))

        form = rng.random()
        if form < 0.4:  # scattered
            gists = rng.choice(candidates, count, replace=False)
        elif form < 0.7:  # the oldest, as a working context has them
            gists = candidates[:count]
        else:  # one run somewhere
            first = int(rng.integers(len(candidates) - count + 1))
            gists = candidates[first : first + count]
        return tile(mix.length, size, np.sort(gists), chosen)


def _gold_blocks(sample: RecallSample, size: int) -> np.ndarray:
    """Blocks that hold a part of an asked fact, of its question or of the answer."""
    spans = [sample.facts[g] for asked in sample.asked for g in asked.gold]
    spans += [(asked.start, asked.answer_stop) for asked in sample.asked]
    numbers = {b for a, z in spans if a >= 0 for b in range(a // size, (z - 1) // size + 1)}
    return np.array(sorted(numbers), np.int64)
