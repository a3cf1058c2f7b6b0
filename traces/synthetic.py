"""Made traces: legal in every row, as large as wanted, without an engine or a model.

For the inspector's tests and speed figures. A few focus points wander over a growing history;
scores follow them; a small greedy policy spends the budget. ``needle planted @start-stop`` and
``question`` markers are set so that time-to-focus can be measured.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from megacontext.traces.errors import TraceError
from megacontext.traces.meta import TraceMeta
from megacontext.traces.row import ACTION_DTYPE, REJECTED_DTYPE, TraceRow
from megacontext.traces.schema import ActionKind, KVMode, Phase, Reason, Trigger
from megacontext.traces.state import apply_actions, cost_of, spans_of, starts_of
from megacontext.traces.writer import TraceWriter

__all__ = ["SyntheticRun", "make_small_trace", "make_trace"]

_EPOCH_NS = 1_767_225_600_000_000_000  # a fixed instant: made traces are the same in every run
_N_DIFF, _COOLDOWN, _ROUNDS, _TAU = 4, 2, 3, 0.2
_PROTECTED = 4  # newest blocks that stay raw
_MAX_REJECTED = 8
_VOCABULARY = 4_096
_NEEDLE = " the vault code is"


@dataclass(slots=True)
class _Candidates:
    """Collapse candidates over the scored frontier: the node made, its entries, its score."""

    first: np.ndarray  # I64[c], first entry of the sibling group
    count: np.ndarray  # I64[c], entries of the group
    level: np.ndarray  # I64[c], level of the gist that appears
    score: np.ndarray  # F32[c], mean over the group


@dataclass(slots=True)
class _Round:
    """What one round decided."""

    actions: list[tuple[int, int, int, float, int, bool, int]] = field(default_factory=list)
    rejected: list[tuple[int, int, int, float, int]] = field(default_factory=list)


class SyntheticRun:
    """The state behind a made trace; ``rows()`` yields its rows one after the other.

    Args:
        tokens: the history never grows beyond this.
        w_max: budget in entries.
        block_size: K, a power of two, at least 8.
        seed: every number of the trace follows from it.
        questions: how many needle/question pairs, spread over the run.
    """

    def __init__(
        self, *, tokens: int, w_max: int, block_size: int = 32, seed: int = 0, questions: int = 8
    ) -> None:
        if block_size < 8:
            raise TraceError(f"block_size = {block_size} is too small for a made trace; use 8.")
        smallest = (block_size - 1) * 8 + 12 * block_size  # room to choose under cooldown
        if w_max < smallest:
            raise TraceError(f"entries = {w_max} is too small; use at least {smallest}.")

        self.tokens, self.w_max, self.block_size = tokens, w_max, block_size
        key = np.array([seed, zlib.crc32(b"made trace")], np.uint64)
        self._random = np.random.Generator(np.random.Philox(key=key))
        self._words = self._vocabulary()
        self._history = self._tail = self._step = 0
        self._levels = np.empty(0, np.int8)
        self._recent: list[tuple[int, int, int]] = []  # (step, level, index) of flips
        self._focus = np.array([0.2, 0.5, 0.9])  # as shares of the history
        self._speed = self._random.normal(0, 1e-4, 3)
        self._asked: tuple[int, int] | None = None  # needle under question, and steps left
        self._needles: list[int] = []
        blocks = tokens // block_size
        interval = max(6, blocks // (questions + 1))
        self._fact_blocks = set(range(interval // 3, blocks, interval)) if questions else set()
        self._ask_at = {b + interval // 2 for b in self._fact_blocks}

    @property
    def max_level(self) -> int:
        """The highest level whose nodes fit into the history."""
        level, width = 1, self.block_size**2
        while width <= self.tokens:
            level, width = level + 1, width * self.block_size
        return level

    def rows(self) -> Iterator[TraceRow]:
        """All rows; each block is a step, each question a step of several rounds."""
        for block in range(self.tokens // self.block_size):
            marker, needle = None, None
            if block in self._fact_blocks:
                needle = self._history
                marker = f"needle planted @{needle}-{needle + self.block_size}"
                self._needles.append(needle)
            yield from self._refocus(self.block_size - self._tail, Trigger.BLOCK_CLOSED, marker)
            if block in self._ask_at and self._needles:
                self._asked = self._needles[-1], 24
                yield from self._refocus(self.block_size // 2, Trigger.QUESTION, "question")

    # ------------------------------------------------------------------ one refocus

    def _refocus(self, count: int, trigger: Trigger, marker: str | None) -> Iterator[TraceRow]:
        added = np.empty(0, np.int8)
        self._history += count
        self._tail += count
        if self._tail == self.block_size:
            self._tail, added = 0, np.zeros(1, np.int8)
            self._levels = np.concatenate([self._levels, added])
        self._move_focus()
        new_tokens, new_text, new_nll = self._new_text(count, marker)

        for number in range(_ROUNDS if trigger == Trigger.QUESTION else 1):
            scores = self._scores()
            decided = self._decide(scores.astype(np.float32), forced=number == 0)
            row = TraceRow(
                step=self._step,
                round=number,
                t_ns=_EPOCH_NS + self._step * 50_000_000 + number * 1_000_000,
                phase=Phase.DECODE if self._asked else Phase.INGEST,
                history_tokens=self._history,
                tail_tokens=self._tail,
                levels=self._levels,
                scores=scores,
                actions=np.array(decided.actions, ACTION_DTYPE),
                rejected=np.array(decided.rejected, REJECTED_DTYPE),
                budget_used=0,
                w_max=self.w_max,
                trigger=trigger,
            )
            if number == 0:
                row.new_tokens, row.new_text, row.new_nll = new_tokens, new_text, new_nll
                row.appended_levels, row.marker = added, marker

            self._levels = apply_actions(self._levels, row.actions, self.block_size)
            row.budget_used = cost_of(self._levels, self.block_size, self._tail)
            self._measure(row)
            yield row
        self._step += 1

    def _move_focus(self) -> None:
        self._speed = 0.98 * self._speed + self._random.normal(0, 3e-5, 3)
        self._focus = np.abs(self._focus + self._speed)
        self._focus = np.where(self._focus > 1, 2 - self._focus, self._focus)
        if self._random.random() < 0.004:  # attention jumps
            self._focus[self._random.integers(3)] = self._random.random()
        if self._asked is not None:
            needle, left = self._asked
            self._asked = (needle, left - 1) if left > 1 else None

    def _scores(self) -> np.ndarray:
        starts = starts_of(self._levels, self.block_size).astype(np.float32)
        ends = starts + spans_of(self._levels, self.block_size)
        noise = self._random.standard_normal(len(starts), np.float32)
        score = 0.04 * noise - 0.08 + 0.12 * np.sin(starts / 9_770 + self._step / 60)
        limits = self.block_size * np.array([6.0, 14.0, 4.0])
        widths = np.clip(self._history / 60, self.block_size, limits)
        for fraction, width in zip(self._focus, widths, strict=True):
            score += _bump(starts, ends, fraction * self._history, width)
        if self._asked is not None:
            score += 1.2 * _bump(starts, ends, self._asked[0] + 1.0, self.block_size / 2)
        score += 0.4 * np.exp((starts - self._history) / (12 * self.block_size))
        score[self._levels == 0] -= 0.1  # detail that nobody looks at goes first
        return np.clip(score, -1, 1).astype(np.float16)

    # ------------------------------------------------------------------ decisions

    def _decide(self, scores: np.ndarray, forced: bool) -> _Round:
        levels, size = self._levels, self.block_size
        decided = _Round()
        starts = starts_of(levels, size)
        used = np.zeros(len(levels), bool)
        expandable, groups = self._candidates(levels, starts, scores)
        free = self.w_max - cost_of(levels, size, self._tail)
        cheap = groups.score - ((groups.level == 1) & (groups.score < 0.1))  # stale detail first
        order: Iterator[int] = iter(np.argsort(cheap, kind="stable").tolist())

        while forced and free < 2 * size:
            group = self._next_group(groups, order, used)
            if group is None:
                raise TraceError("the made trace ran out of collapses; raise entries.")
            self._collapse(decided, groups, group, starts, Reason.HEADROOM)
            free += size - 1

        best = np.flatnonzero(expandable & (scores > _TAU))
        best = best[np.argsort(-scores[best], kind="stable")]
        voluntary = 0
        for entry in best[: _N_DIFF + _MAX_REJECTED].tolist():
            node = int(levels[entry]), int(starts[entry]) // size ** int(levels[entry])
            score = float(scores[entry])
            if used[entry]:
                continue
            paid = free - (size - 1) >= 2 * size
            group = None
            if not paid and voluntary + 2 <= _N_DIFF:
                used[entry] = True
                group = self._next_group(groups, order, used)
                used[entry] = False
                if group is not None and groups.score[group] >= score:
                    order, group = iter(()), None  # the cheapest left costs more than it gains
            if voluntary >= _N_DIFF or (not paid and group is None):
                reason = Reason.N_DIFF if voluntary + 1 >= _N_DIFF else Reason.BUDGET
                decided.rejected.append((ActionKind.EXPAND, *node, score, reason))
                continue
            if group is not None:
                self._collapse(decided, groups, group, starts, Reason.PAIR)
                free, voluntary = free + size - 1, voluntary + 1
            used[entry] = True
            decided.actions.append((ActionKind.EXPAND, *node, score, size - 1, False, 0))
            self._recent.append((self._step, *node))
            free, voluntary = free - (size - 1), voluntary + 1

        while voluntary < _N_DIFF:
            group = self._next_group(groups, order, used)
            if group is None or groups.score[group] > -_TAU:
                break
            self._collapse(decided, groups, group, starts, Reason.SCORE)
            voluntary += 1
        return decided

    def _candidates(
        self, levels: np.ndarray, starts: np.ndarray, scores: np.ndarray
    ) -> tuple[np.ndarray, _Candidates]:
        size = self.block_size
        expandable = levels > 0
        raw = np.flatnonzero(levels == 0)
        raw = raw[starts[raw] < self._history - (_PROTECTED + 1) * size]
        # A run of K entries that starts aligned and ends K spans later is a sibling group.
        first = np.arange(max(0, len(levels) - size + 1))
        level = levels[first].astype(np.int64)
        span = spans_of(levels[first], size)
        whole = (level > 0) & (level < self.max_level) & (starts[first] % (span * size) == 0)
        first = first[whole]
        last = first + size - 1
        covered = starts[last] + spans_of(levels[last], size) - starts[first]
        raw_nodes = np.concatenate(
            ([0], np.cumsum(levels == 0))
        )  # a raw block spans what an L1 does
        mixed = raw_nodes[first + size] > raw_nodes[first]
        first = first[(covered == size * span[whole]) & ~mixed]
        sums = np.concatenate(([0.0], np.cumsum(scores, dtype=np.float64)))
        groups = _Candidates(
            first=np.concatenate([raw, first]),
            count=np.concatenate([np.ones_like(raw), np.full_like(first, size)]),
            level=np.concatenate([np.ones_like(raw), levels[first].astype(np.int64) + 1]),
            score=np.concatenate([scores[raw], (sums[first + size] - sums[first]) / size]),
        )
        self._cool(expandable, groups, starts, levels)
        return expandable, groups

    def _cool(
        self, expandable: np.ndarray, groups: _Candidates, starts: np.ndarray, levels: np.ndarray
    ) -> None:
        """Take nodes that flipped lately out of both candidate lists."""
        self._recent = [flip for flip in self._recent if flip[0] + _COOLDOWN >= self._step]
        gist_starts = starts[groups.first]
        for _, level, index in self._recent:
            start = index * self.block_size**level
            at = int(np.searchsorted(starts, start))
            if at < len(starts) and starts[at] == start and levels[at] == level:
                expandable[at] = False
            groups.score[(gist_starts == start) & (groups.level == level)] = np.inf

    def _next_group(
        self, groups: _Candidates, order: Iterator[int], used: np.ndarray
    ) -> int | None:
        for group in order:
            first = int(groups.first[group])
            entries = slice(first, first + int(groups.count[group]))
            if not np.isfinite(groups.score[group]):
                return None
            if not used[entries].any():
                used[entries] = True
                return group
        return None

    def _collapse(
        self, decided: _Round, groups: _Candidates, group: int, starts: np.ndarray, reason: Reason
    ) -> None:
        level = int(groups.level[group])
        index = int(starts[groups.first[group]]) // self.block_size**level
        decided.actions.append(
            (
                ActionKind.COLLAPSE,
                level,
                index,
                float(groups.score[group]),
                1 - self.block_size,
                reason == Reason.HEADROOM,
                reason,
            )
        )
        self._recent.append((self._step, level, index))

    # ------------------------------------------------------------------ text and measurements

    def _vocabulary(self) -> np.ndarray:
        consonants, vowels = list("bdfgklmnprstvz"), list("aeiou")
        choices = self._random.integers(0, 70, (_VOCABULARY, 3))
        words = [
            " " + "".join(consonants[p % 14] + vowels[p // 14] for p in row[: 1 + i % 3])
            for i, row in enumerate(choices.tolist())
        ]
        return np.array(words, object)

    def _new_text(self, count: int, marker: str | None) -> tuple[np.ndarray, list[str], np.ndarray]:
        tokens = (_VOCABULARY * self._random.random(count) ** 3).astype(np.uint32)
        text = self._words[tokens].tolist()
        if marker is not None and marker.startswith("needle"):
            text[: len(_NEEDLE.split())] = [f" {word}" for word in _NEEDLE.split()]
            text[len(_NEEDLE.split())] = f" {self._random.integers(1000, 10_000)}"
        elif marker == "question":
            text[-5:] = [" what", " is", " the", " code", "?"]
        if self._step % 7 == 0:
            text[0] = "\n" + text[0].strip().capitalize()
        nll = self._random.gamma(2.0, 1.4, count).astype(np.float32)
        if self._step == 0:
            nll[0] = np.nan
        return tokens, text, nll

    def _measure(self, row: TraceRow) -> None:
        spread = self._random.lognormal(0, 0.25, 6)
        edits = len(row.actions)
        row.kv_rows = edits * self.block_size
        row.kv_mode = KVMode.SPLICE
        row.us_gist, row.us_lens = float(180 * spread[0]), float(640 * spread[1])
        row.us_alloc, row.us_kv = float(420 * spread[2]), float(900 * edits * spread[3])
        row.us_decode, row.us_record = float(160_000 * spread[4]), float(45 * spread[5])
        if row.step % 16 == 0:
            row.kv_drift = float(np.float32(2e-4 * spread[0] * (1 + edits)))
        if row.step % 32 == 0:
            row.delta_nll = float(np.float32(0.08 * spread[1] - 0.04))


def _bump(starts: np.ndarray, ends: np.ndarray, center: float, width: float) -> np.ndarray:
    distance = np.maximum(np.maximum(starts - center, center - ends), 0) / np.float32(width)
    bump: np.ndarray = np.exp(-distance * distance)
    return bump


def make_trace(
    path: Path,
    *,
    rows: int = 31_250,
    tokens: int = 1_000_000,
    entries: int = 8_192,
    block_size: int = 32,
    seed: int = 0,
    questions: int = 8,
    scores: str = "f16",
) -> int:
    """Write a made trace and return its number of rows.

    Stops after ``rows`` rows or when the history has ``tokens`` tokens. ``entries`` is w_max.

    Raises:
        TraceError: ``entries`` is too small, or the file cannot be written.
    """
    run = SyntheticRun(
        tokens=tokens, w_max=entries, block_size=block_size, seed=seed, questions=questions
    )
    focus = {"n_diff": _N_DIFF, "tau_expand": _TAU, "tau_collapse": _TAU}
    focus |= {"cooldown_steps": _COOLDOWN, "rounds": _ROUNDS}
    config = {"made": True, "seed": seed, "w_max": entries, "block_size": block_size}
    meta = TraceMeta(
        block_size=block_size,
        w_max=entries,
        levels=run.max_level,
        seed=seed,
        config=json.dumps(config | {"focus": focus}, indent=1),
        model="made",
        tokenizer="made",
        created="2026-01-01T00:00:00+00:00",
    )

    written = 0
    with TraceWriter(Path(path), meta.to_metadata(), scores=scores) as writer:
        for row in islice(run.rows(), max(rows, 0)):
            writer.put(row)
            written += 1
            if written % 64 == 0:
                writer.flush()  # so that no scores are dropped
    return written


def make_small_trace(path: Path, *, seed: int = 0, rows: int = 200) -> int:
    """A trace of a few hundred rows with K = 8, several levels, needles and questions."""
    return make_trace(
        path, rows=rows, tokens=rows * 8, entries=160, block_size=8, seed=seed, questions=3
    )
