"""How many blocks a model bears: the margin and the hops that let it answer best.

The more blocks are expanded, the surer the right one is among them, and the more a small model
confuses it with what stands beside it. Calibration asks for planted facts with each setting and
keeps the one that makes the right answers likeliest: facts that a single block holds, lists over
several blocks, and chains whose second block shares no word with the question. An answer counts by
the geometric mean probability of its tokens: bounded, so that one block missed does not outweigh
many answers that more blocks would confuse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from megacontext.core.benchmarks.tasks import BenchTask
from megacontext.core.heads.calibration import HeadsCalibration
from megacontext.core.heads.encoder import HeadEncoder, HeadReader
from megacontext.core.heads.history_keys import HistoryKeys
from megacontext.core.heads.lookup import ask, choose
from megacontext.core.heads.store import KeyStore
from megacontext.core.model.base import BaseModel
from megacontext.core.tree.spec import U32

__all__ = ["HOPS", "MARGINS", "answer_prob", "expanded_blocks", "fit_selection"]

MARGINS = (0.8, 0.65, 0.5, 0.35)
"""Tried from few blocks to many."""
HOPS = (0, 6)
_TOLERANCE = 0.002
"""Probability that a setting with more blocks has to gain."""
Setting = tuple[float, int]
"""Margin and hops."""
_BLOCK = 32
_NEWEST = 10
"""Newest blocks that are raw whatever is asked."""


def fit_selection(
    reader: HeadReader,
    calibration: HeadsCalibration,
    histories: Sequence[Sequence[BenchTask]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> HeadsCalibration:
    """The calibration with the margin and hops that make the right answers likeliest.

    Kinds of tasks count alike, whatever their number. Of settings that differ by less than
    ``_TOLERANCE`` the one with fewer blocks is kept.

    Args:
        histories: tasks by history; all of one history have its text.
        progress: called with (tasks done, tasks in all).
    """
    # The margin first, then the hops at that margin: with many blocks a hop reads most.
    half = sum(len(tasks) for tasks in histories)
    margins = [(margin, HOPS[0]) for margin in MARGINS]
    means = _mean_probs(reader, calibration, margins, histories, lambda n: progress(n, 2 * half))
    best, _ = _fewest_blocks(means)
    hops = [(best, hops) for hops in HOPS[1:]]
    means |= _mean_probs(
        reader, calibration, hops, histories, lambda n: progress(half + n, 2 * half)
    )
    margin, n_hops = _fewest_blocks({s: p for s, p in means.items() if s[0] == best})
    metrics = {f"answer_prob_margin_{m:g}_hops_{h}": round(p, 4) for (m, h), p in means.items()}
    metrics = calibration.metrics | metrics
    return replace(calibration, margin=margin, hops=n_hops, metrics=metrics)


def _fewest_blocks(means: dict[Setting, float]) -> Setting:
    """The first setting that is as good as the best; they stand from few blocks to many."""
    highest = max(means.values())
    return next(setting for setting, prob in means.items() if prob >= highest - _TOLERANCE)


def _mean_probs(
    reader: HeadReader,
    calibration: HeadsCalibration,
    settings: Sequence[Setting],
    histories: Sequence[Sequence[BenchTask]],
    step: Callable[[int], None],
) -> dict[Setting, float]:
    """By setting, the mean over kinds of tasks of the right answers' probability."""
    done = 0
    probs: dict[Setting, dict[str, list[float]]] = {setting: {} for setting in settings}
    encoder = HeadEncoder(reader, calibration)  # margin and hops change neither keys nor queries
    encode = reader.base.tokenizer.encode
    for tasks in histories:
        keys = HistoryKeys(encoder, KeyStore(encoder))
        history = encode(tasks[0].history)
        for task in tasks:
            question, answer = encode(task.question), encode(" " + task.outputs[0])
            blocks_of = expanded_blocks(keys, history, question, settings)

            # Settings that expand the same blocks give the same answer.
            known: dict[tuple[int, ...], float] = {}
            for setting, blocks in zip(settings, blocks_of, strict=True):
                if blocks not in known:
                    known[blocks] = answer_prob(reader.base, history, blocks, question, answer)
                probs[setting].setdefault(task.name, []).append(known[blocks])
            done += 1
            step(done)

    return {
        setting: float(np.mean([np.mean(values) for values in kinds.values()]))
        for setting, kinds in probs.items()
    }


def expanded_blocks(
    keys: HistoryKeys, history: U32, question: U32, settings: Sequence[Setting]
) -> list[tuple[int, ...]]:
    """For each setting, the blocks of ``history`` that the lens would have raw: the first, the
    newest, and what the question selects with its neighbours."""
    text = np.concatenate([history, question])
    asked = ask(keys, lambda a, b: text[a:b], len(text), len(question), _BLOCK)
    if asked is None:
        return [tuple(range(len(history) // _BLOCK))] * len(settings)
    blocks_of = []
    for margin, hops in settings:
        calibration = replace(keys.encoder.calibration, margin=margin, hops=hops)
        lookup = choose(keys.encoder, calibration, lambda a, b: text[a:b], asked, _BLOCK)
        count = len(lookup.selected)
        raw = np.zeros(count, bool)
        for run in lookup.runs.values():
            raw[run.start : run.stop] = True
        raw[lookup.example] = raw[:1] = raw[max(0, count - _NEWEST) :] = True
        blocks_of.append(tuple(np.flatnonzero(raw).tolist()))
    return blocks_of


@torch.no_grad()
def answer_prob(
    base: BaseModel, history: U32, blocks: Sequence[int], question: U32, answer: U32
) -> float:
    """Geometric mean probability of the answer's tokens after ``blocks``, the tail and the
    question."""
    raw = [history[block * _BLOCK : (block + 1) * _BLOCK] for block in blocks]
    tail = history[len(history) // _BLOCK * _BLOCK :]
    text = np.concatenate([*raw, tail, question, answer]).astype(np.int64)
    ids = torch.from_numpy(text).to(base.device)
    count = len(answer)
    logits = base.module(input_ids=ids[None], use_cache=False).logits[0, -count - 1 : -1]
    return float(torch.exp(-torch.nn.functional.cross_entropy(logits.float(), ids[-count:])))
