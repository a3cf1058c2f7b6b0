"""States for LensNet's training: histories, frontiers over them, and labels.

Two kinds of batch alternate:

* *far* (retrieval): a long history with planted facts; the newest tokens ask for one. The base
  model does not run, so histories are many windows long. The labels are the gold blocks.
* *near* (text): real text that fits the base model's window together with the tokens that come
  next. The labels are the demand of the coming tokens for each block (:mod:`.teacher`), and the
  measured change of their NLL when single entries are shown in more or less detail.

A frontier is drawn as one level per block, so that it tiles the history by construction, or it is
the first one of a session over a long history.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from megacontext.core.config.settings import Count, check_fractions
from megacontext.core.data.recall.scenes import KINDS
from megacontext.core.data.recall.writer import RecallOptions, RecallSample, RecallWriter
from megacontext.core.data.recorded_states import RecordedStates
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.rng import generator
from megacontext.core.training.lensnet.rollout import cold_levels
from megacontext.traces.errors import ConfigError

__all__ = ["LensDataset", "StateMix", "draw_levels", "frontier", "gold_blocks", "window_entries"]

Rng = np.random.Generator
_SCENES = tuple(sorted(KINDS))
_LEAST_BUDGET = 8
"""Blocks that fit the smallest budget of a frontier with four levels and two protected blocks."""


@dataclass(frozen=True)
class StateMix:
    """How states are composed.

    Attributes:
        far_share: share of steps that are far.
        far_rows, far_blocks: rows of a far batch and the most blocks of their histories.
        far_least: minimum blocks; each batch draws a length from there to ``far_blocks``, uniform
            on a log scale. 0: all have ``far_blocks``.
        near_rows, near_blocks: the same for near batches; the window is near_blocks * K tokens.
        horizon: coming tokens that define the labels of near states.
        candidates: entries per near state whose change of NLL is measured.
        w_max: budgets that frontiers are drawn for, each at least 4 K.
        facts_max: most facts of one wording.
        narrow: as in :class:`RecallOptions`.
        plain: share of far states that end in plain text, before any question.
        cold: fraction of states with the first frontier of a session.
        canonical: share of far states that ask in the canonical format.
        recent: newest tokens that the base model reads of a far state, for its hidden states.
        rounds: maximum rounds of the allocator, by the lens's own scores, after which a state's
            loss is computed again; the number is drawn uniformly from 0 on.
        recorded: share of near states that come from recorded sessions and logs, where the
            training config names some.
    """

    far_share: float = 0.5
    far_rows: Count = 8
    far_blocks: Count = 1024
    far_least: int = 0
    near_rows: Count = 8
    near_blocks: Count = 64
    horizon: Count = 64
    candidates: Count = 8
    w_max: tuple[Count, ...] = (512, 1024, 2048)
    facts_max: int = 16
    narrow: float = 0.0
    plain: float = 0.15
    cold: float = 0.6
    canonical: float = 0.5
    recent: int = 512
    rounds: int = 0
    recorded: float = 0.5

    def __post_init__(self) -> None:
        check_fractions("states", self)
        if not 0 <= self.far_least <= self.far_blocks:
            raise ConfigError(
                f"states.far_least: {self.far_least} is outside 0 to far_blocks {self.far_blocks}."
            )

    def draw_blocks(self, rng: Rng) -> int:
        """Blocks of the histories of one far batch."""
        if not self.far_least:
            return self.far_blocks
        low, high = np.log(self.far_least), np.log(self.far_blocks)
        return round(float(np.exp(rng.uniform(low, high))))


def draw_levels(rng: Rng, blocks: int, block_size: int, w_max: int, near: bool) -> np.ndarray:
    """A random legal frontier as one level (0, 1 or 2) per complete block.

    The newest two blocks are raw and complete groups start at level 2. Then random expansions, of
    recent blocks more often, fill a random fraction of the budget.
    """
    level = np.ones(blocks, np.int64)
    groups = blocks // block_size
    level[: groups * block_size] = 2
    if near:
        # A short history is rarely coarse as a whole.
        for group in range(groups):
            if rng.random() < 0.7:
                level[group * block_size : (group + 1) * block_size] = 1
    last = groups - 1
    if blocks - groups * block_size < 2 and groups:
        level[last * block_size :] = 1
    level[-2:] = 0

    def cost() -> int:
        coarse = int((level == 2).sum()) // block_size
        return coarse + int((level == 1).sum()) + block_size * int((level == 0).sum())

    goal = w_max * (0.5 + 0.45 * rng.random())
    while cost() + block_size - 1 <= goal:
        opened = np.flatnonzero(level == 1)
        closed = np.unique(np.flatnonzero(level == 2) // block_size)
        if not len(opened) and not len(closed):
            break
        if len(closed) and (not len(opened) or rng.random() < 0.25):
            group = int(closed[int(len(closed) * rng.random() ** 0.5)])
            level[group * block_size : (group + 1) * block_size] = 1
        else:
            position = int(len(opened) * rng.random() ** 0.6)
            level[opened[position : position + int(rng.integers(1, 3))]] = 0
    return level


def frontier(level: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(levels, node index) of the frontier's entries in order, from one level per block."""
    first = (level < 2) | (np.arange(len(level)) % block_size == 0)
    position = np.flatnonzero(first)
    levels = level[position]
    return levels, np.where(levels == 2, position // block_size, position)


def _indices(levels: np.ndarray, block_size: int) -> np.ndarray:
    """Node index of each entry of a frontier over a whole history."""
    width = block_size ** np.maximum(levels, 1)
    index: np.ndarray = (np.cumsum(width) - width) // width
    return index


def window_entries(level: np.ndarray, block_size: int, extra: int) -> np.ndarray:
    """The window's entries, as indices in [raw tokens | all level-1 gists | all level-2 gists].

    Args:
        extra: raw tokens after the last block; they follow the history's tokens.
    """
    blocks = len(level)
    tokens = blocks * block_size + extra
    position = np.full((blocks, block_size), -1, np.int64)
    raw = level == 0
    position[raw] = np.arange(blocks * block_size).reshape(blocks, block_size)[raw]
    one = np.flatnonzero(level == 1)
    position[one, 0] = tokens + one
    two = np.flatnonzero((level == 2) & (np.arange(blocks) % block_size == 0))
    position[two, 0] = tokens + blocks + two // block_size
    flat = position.ravel()
    return np.concatenate([flat[flat >= 0], np.arange(blocks * block_size, tokens)])


def gold_blocks(facts: list[tuple[int, int]], blocks: int, size: int) -> np.ndarray:
    """1 for each block that any part of a fact stands in, else 0: float32[blocks].

    The line ends that a planted fact starts and ends with are no part of it.
    """
    gold = np.zeros(blocks, np.float32)
    for start, stop in facts:
        if start >= 0:
            gold[(start + 1) // size : -(-(stop - 1) // size)] = 1
    return gold


class LensDataset(Dataset[dict[str, Tensor]]):
    """Item ``step``: a far or a near batch with a leading [accumulation].

    Both: ``n_tokens`` int64[R], ``tokens`` int32[R, ...], ``levels`` and ``index`` int64[R, N]
    (padding: level -1), ``w_max`` and ``rounds`` int64[R].
    Far: ``questions`` int32[R, q], ``recent`` int32[R, recent] newest tokens, ``gold``
    float32[R, B], 1 where an asked fact stands, all zero where nothing is asked; ``surprisal``
    float32[R, B], a plausible value per block that says nothing, or zeros. Near: ``tokens`` hold
    the horizon too; ``windows`` int64[R, C + 1, L] rows of the window as it is and with one
    candidate changed (right-padded), ``lengths`` int64[R, C + 1], ``candidates`` int64[R, C]
    entries, ``detail`` float32[R, C]: +1 where the change shows more, -1 where less.
    """

    def __init__(
        self,
        mix: StateMix,
        streams: TokenStreams,
        writer: RecallWriter,
        *,
        block_size: int,
        query_tokens: int,
        seed: int,
        phase: int,
        rank: int,
        accumulation: int,
        recorded: RecordedStates | None = None,
    ) -> None:
        self._recorded = recorded
        self._mix, self._streams, self._writer = mix, streams, writer
        self._size, self._query, self._seed = block_size, query_tokens, seed
        self._phase, self._rank, self._accumulation = phase, rank, accumulation

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        # All micro-batches of a step are of one kind, on every process.
        draw = generator(self._seed, f"lens.kind.{self._phase}", step)
        far = draw.random() < self._mix.far_share
        rounds = int(draw.integers(self._mix.rounds + 1))
        blocks = self._mix.draw_blocks(draw)
        count = self._mix.far_rows if far else self._mix.near_rows
        rows = []
        for i in range(count * self._accumulation):
            rng = generator(self._seed, f"lens.row.{self._phase}", step, i, self._rank)
            counts = (step * 64 + self._phase, i, self._rank)
            rows.append(self.far(rng, counts, blocks) if far else self.near(rng, counts))
            rows[-1]["rounds"] = np.array(rounds)
        return _stacked(rows, (self._accumulation, count))

    def far(
        self,
        rng: Rng,
        counts: tuple[int, ...],
        blocks: int,
        domain: str = "",
        kind: str = "",
    ) -> dict[str, np.ndarray]:
        """One far state over ``blocks`` blocks; ``kind`` of scene and ``domain`` of text are drawn
        if not given."""
        mix, size = self._mix, self._size
        sample = self._asked(rng, counts, blocks, domain, kind)
        span = sample.asked[0]
        stop = span.answer_start - (int(rng.integers(0, 4)) if rng.random() < 0.3 else 0)
        facts = [sample.facts[g] for g in span.gold]
        if rng.random() < mix.plain:
            stop = int(rng.integers(blocks * size, span.start + 1))
            facts = []
        # The start is chosen such that the history ends inside the question.
        first = (stop - blocks * size) // size * size
        tokens = sample.tokens[first:stop].astype(np.int32)
        facts = [(a - first, b - first) for a, b in facts]
        w_max = int(rng.choice(mix.w_max))
        if rng.random() < mix.cold:
            levels = cold_levels(len(tokens), w_max, size)
            index = _indices(levels, size)
        else:
            level = draw_levels(rng, blocks, size, w_max, near=False)
            levels, index = frontier(level, size)
        # Only a model that reads the history knows it; it must not matter where it is known.
        surprisal = np.maximum(rng.normal(3.0, 0.8, blocks), 0) * (rng.random() < 0.6)
        return {
            "tokens": tokens[: blocks * size],
            "questions": tokens[-self._query :],
            "recent": tokens[-mix.recent :],
            "n_tokens": np.array(len(tokens)),
            "gold": gold_blocks(facts, blocks, size),
            "surprisal": surprisal.astype(np.float32),
            "w_max": np.array(w_max),
            "levels": levels,
            "index": index,
        }

    def _asked(
        self, rng: Rng, counts: tuple[int, ...], blocks: int, domain: str, kind: str
    ) -> RecallSample:
        """A long text with planted facts that ends in a question about some of them."""
        mix, size = self._mix, self._size
        domains = self._streams.domains
        chosen = domain or domains[int(rng.integers(len(domains)))]
        if not kind:
            kind = "mixed" if rng.random() < 0.5 else _SCENES[int(rng.integers(len(_SCENES)))]

        length = (blocks + 8) * size
        options = RecallOptions(
            kind=kind,
            facts_max=mix.facts_max,
            narrow=mix.narrow,
            scenes_max=2,
            asked_max=1,
            interleaved=0.0,
            canonical=bool(rng.random() < mix.canonical),
        )

        # A draw may place its question too early; the next one has other text.
        for attempt in range(64):
            text = self._streams.window(rng, chosen, length)
            sample = self._writer.sample(text, length, options, counts[0], counts[1], attempt)
            if sample.asked and sample.asked[0].start >= blocks * size:
                return sample
        raise ConfigError(
            f"states.far_blocks: no question fits behind {blocks} blocks of {size} tokens;"
            " use more blocks."
        )

    def near(self, rng: Rng, counts: tuple[int, ...], domain: str = "") -> dict[str, np.ndarray]:
        """One near state."""
        mix, size = self._mix, self._size
        if self._recorded is not None and not domain and rng.random() < mix.recorded:
            tokens, level, budget = self._recorded_state(rng, self._recorded)
        else:
            tokens = self._text(rng, domain)
            level, budget = self._drawn_levels(rng)
        levels, index = frontier(level, size)

        # Candidates: entries whose level could change, each in a window of its own.
        width = np.where(levels == 2, size, 1)
        open_to_change = np.flatnonzero((index + 1) * width <= mix.near_blocks - 2)
        picked = rng.choice(
            open_to_change, mix.candidates, replace=len(open_to_change) < mix.candidates
        )
        windows = [window_entries(level, size, mix.horizon)]
        detail = np.ones(mix.candidates, np.float32)
        for i, entry in enumerate(picked):
            changed = level.copy()
            start = int(index[entry] * width[entry])
            changed[start : start + int(width[entry])] = {0: 1, 1: 0, 2: 1}[int(levels[entry])]
            detail[i] = -1.0 if levels[entry] == 0 else 1.0
            windows.append(window_entries(changed, size, mix.horizon))

        max_length = mix.near_blocks * size + mix.horizon
        padded = np.zeros((len(windows), max_length), np.int64)
        for row, window in zip(padded, windows, strict=True):
            row[: len(window)] = window
        return {
            "tokens": tokens,
            "n_tokens": np.array(mix.near_blocks * size),
            "levels": levels,
            "index": index,
            "w_max": np.array(budget),
            "windows": padded,
            "lengths": np.array([len(window) for window in windows]),
            "candidates": picked,
            "detail": detail,
        }

    def _text(self, rng: Rng, domain: str) -> np.ndarray:
        """int32 tokens of a near state of plain text."""
        domains = self._streams.domains
        chosen = domain or domains[int(rng.integers(len(domains)))]
        length = self._mix.near_blocks * self._size + self._mix.horizon
        return self._streams.window(rng, chosen, length).astype(np.int32)

    def _drawn_levels(self, rng: Rng) -> tuple[np.ndarray, int]:
        """(one level per block, budget): as a session starts, or drawn at random."""
        mix, size = self._mix, self._size
        budget = min(int(rng.choice(mix.w_max)), mix.near_blocks * size // 2)
        if rng.random() < mix.cold:
            levels = cold_levels(mix.near_blocks * size, budget, size)
            return np.repeat(levels, size ** (levels.clip(1) - 1)), budget
        return draw_levels(rng, mix.near_blocks, size, budget, near=True), budget

    def _recorded_state(
        self, rng: Rng, states: RecordedStates
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """(tokens, one level per block, budget) of a recorded state; its budget is what its blocks
        cost, and a free block, or the least legal one. A log has no levels: they are drawn."""
        state = states[int(rng.integers(len(states)))]
        tokens = state.tokens.astype(np.int32)
        if not len(state.levels):
            return tokens, *self._drawn_levels(rng)
        levels, _ = frontier(state.levels, self._size)
        cost = int(np.where(levels == 0, self._size, 1).sum())
        return tokens, state.levels, max(cost + self._size, _LEAST_BUDGET * self._size)


def _stacked(rows: list[dict[str, np.ndarray]], shape: tuple[int, int]) -> dict[str, Tensor]:
    """Rows as tensors [*shape, ...]; ``levels`` and ``index`` are padded to the longest."""
    max_length = max(len(row["levels"]) for row in rows)
    result = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name in ("levels", "index"):
            fill = -1 if name == "levels" else 0
            values = [np.pad(v, (0, max_length - len(v)), constant_values=fill) for v in values]
        stacked = np.stack(values)
        result[name] = torch.from_numpy(stacked.reshape(*shape, *stacked.shape[1:]))
    return result
