"""Batches for the gist encoder: windows of one fixed length over the gists of a whole batch.

A batch's *table* is one run of entries per row: its T raw tokens, the gists of its B blocks, the
gists of its B / K groups. ``window`` picks T entries from the tables of *all* rows: in front a far
past made of other rows' gists (tens of level-2 gists and opened groups, as a long history has
them), then the row's own mixed tiling, then padding that nothing reads. The teacher knows only the
row's own raw text, so the far past has to be harmless and the own gists have to help.

Every array has one shape per phase, so that compiled code and workers never wait for a new one.
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
_FEW = 64  # distant tokens that may be scored more than once rather than near ones too


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
        gold_raw: share of these whose questions and asked facts stay raw, as a lens leaves them.
        stress: how much more than others a token counts whose answer has to be looked up.
        far: most entries of a far past; it has any number up to that, with chance ``far_chance``.
        copies: share of the scored tokens that copy from a block that is coarse, where there are
            so many; see :mod:`..common.copied_tokens`.
        repeats: share of the rows of real text that repeat pieces of coarse blocks.
        apart: fewest tokens between such a block and what copies from it.
        behind: fewest raw tokens between any gist and a scored token, where there are such tokens;
            a session scores none right behind a gist, for its newest blocks are protected.
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
        return {name: np.stack([made[name] for made in rows]) for name in rows[0]}

    def _row(self, rng: Rng, step: int, row: int) -> dict[str, np.ndarray]:
        mix, size = self._mix, self._block_size
        domain = self._streams.domains[int(rng.integers(len(self._streams.domains)))]
        text = self._streams.window(rng, domain, mix.length)

        # Recall text: its answers are scored first, and the asked blocks may stay raw.
        golden = answers = looked_up = np.empty(0, np.int64)
        if rng.random() < mix.recall:
            options = RecallOptions(facts_max=8, scenes_max=3, canonical=bool(rng.random() < 0.3))
            counts = (step * 64 + self._phase, row, self._rank)
            sample = self._writer.sample(text, mix.length, options, *counts)
            text, answers = sample.tokens, np.flatnonzero(np.isin(sample.answer, (1, 2)))
            looked_up = np.flatnonzero(sample.answer == 2)
            if rng.random() < mix.gold_raw:
                golden = _golden(sample, size)

        # Which blocks are gists, and pieces of them that the text repeats.
        own = self._tiling(rng, golden)
        coarse = np.ones(self._blocks, bool)
        coarse[own.kept_raw // size] = False
        if mix.repeats and not len(answers) and rng.random() < mix.repeats:
            records = own.blocks[: self._results(own)]
            text = repeat_pieces(rng, text, coarse, records, size, mix.apart)
        copies = np.empty(0, np.int64)
        if mix.copies:
            copies = copied_tokens(text, coarse, size, size + mix.apart)

        # What is left of the row is filled with a far past: entries of other rows.
        capacity = mix.length - len(own.kept)
        far = np.empty(0, np.int64)
        if mix.far and capacity and rng.random() < mix.far_chance:
            far = self._far(rng, row, min(capacity, int(rng.integers(1, mix.far + 1))))

        choice = self._scored(rng, own, answers, copies)
        return {
            "tokens": text.astype(np.int64),
            "window": self._padded(np.concatenate([far, self._placed(own, row)])),
            "bare": self._padded(own.kept_raw + row * self._table),
            "target": own.target[choice],
            "stress": np.where(np.isin(own.target[choice], looked_up), mix.stress, 1),
            "predictor": own.predictor[choice] + len(far),
            "predictor_raw": own.predictor_raw[choice],
        }

    def _padded(self, entries: np.ndarray) -> np.ndarray:
        # Causal attention never looks behind: what stands there is of no account.
        return np.pad(entries, (0, self._mix.length - len(entries)))

    def _results(self, own: RowTiling) -> int:
        """How many of its blocks stand as gists of their own; those of the groups come behind."""
        groups = int((own.kept >= self._mix.length + len(own.blocks)).sum())
        return len(own.blocks) - groups * self._block_size

    def _placed(self, own: RowTiling, row: int) -> np.ndarray:
        """The row's tiling, from its own table's slots to entries of the batch's table."""
        length, size = self._mix.length, self._block_size
        within = own.kept >= length
        slot = own.kept[within] - length
        records = self._results(own)
        groups = (len(own.blocks) - records) // size
        first = own.blocks[records::size]  # the first block of each group
        position = np.concatenate(
            [own.blocks[:records], np.zeros(groups * size, np.int64), self._blocks + first // size]
        )
        kept = own.kept.copy()
        kept[within] = length + position[slot]
        return kept + row * self._table

    def _far(self, rng: Rng, row: int, count: int) -> np.ndarray:
        """``count`` entries of other rows: runs of level-2 gists between opened groups."""
        size, length = self._block_size, self._mix.length
        found: list[np.ndarray] = []
        total = 0

        while total < count:
            form = rng.random()
            if self._groups and form < 0.6:
                run = int(rng.integers(1, 17))
                tables = self._others(rng, row, run) * self._table
                part = tables + length + self._blocks + rng.integers(0, self._groups, run)
            else:
                other = int(self._others(rng, row, 1)[0]) * self._table
                first = int(rng.integers(0, max(1, self._blocks - size + 1)))
                part = other + length + np.arange(first, min(self._blocks, first + size))
                if form > 0.75:  # one of them was opened as well
                    position = int(rng.integers(len(part)))
                    raw = other + (first + position) * size + np.arange(size)
                    part = np.concatenate([part[:position], raw, part[position + 1 :]])
            found.append(part)
            total += len(part)
        return np.concatenate(found)[:count]

    def _others(self, rng: Rng, row: int, count: int) -> np.ndarray:
        other = rng.integers(0, self._mix.rows - 1, count)
        return other + (other >= row)

    def _scored(
        self, rng: Rng, row: RowTiling, answers: np.ndarray, copies: np.ndarray
    ) -> np.ndarray:
        """Which targets count: answers and copies, then tokens behind the first gist."""
        target = self._mix.scored
        asked = np.flatnonzero(np.isin(row.target, answers))[: target // 2]
        is_gist = row.kept >= self._mix.length
        latest = np.maximum.accumulate(np.where(is_gist, np.arange(len(is_gist)), -(1 << 30)))
        distant = row.predictor - latest[row.predictor] >= self._mix.behind
        copying = np.flatnonzero(distant & np.isin(row.target, copies))
        most = min(int(self._mix.copies * target), target - len(asked))
        if most:
            asked = np.concatenate([asked, rng.permutation(copying)[:most]])
        later = np.flatnonzero(distant & (row.predictor >= int(np.argmax(is_gist))))
        left = target - len(asked)
        enough = min(left, _FEW) if self._mix.behind else left
        pool = later if len(later) >= enough else np.arange(len(row.target))
        return np.sort(np.concatenate([asked, rng.choice(pool, left, replace=len(pool) < left)]))

    def _tiling(self, rng: Rng, golden: np.ndarray) -> RowTiling:
        mix, size, blocks = self._mix, self._block_size, self._blocks
        free = blocks - mix.tail
        groups = 0
        if mix.groups and rng.random() < mix.group_chance:
            groups = int(rng.integers(1, mix.groups + 1))

        # Asked blocks stay raw: no group and no gist may hold one.
        whole = np.setdiff1d(np.arange(free // size), golden // size)
        chosen = np.sort(rng.permutation(whole)[:groups])
        taken = (chosen[:, None] * size + np.arange(size)).ravel()
        candidates = np.setdiff1d(np.arange(free), np.concatenate([taken, golden]))
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


def _golden(sample: RecallSample, size: int) -> np.ndarray:
    """Blocks that hold a part of an asked fact, of its question or of the answer."""
    spans = [sample.facts[g] for asked in sample.asked for g in asked.gold]
    spans += [(asked.start, asked.answer_stop) for asked in sample.asked]
    numbers = {b for a, z in spans if a >= 0 for b in range(a // size, (z - 1) // size + 1)}
    return np.array(sorted(numbers), np.int64)
