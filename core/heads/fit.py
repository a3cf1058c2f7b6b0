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
from megacontext.core.heads.lookup import look_up
from megacontext.core.heads.store import KeyStore
from megacontext.core.model.base import BaseModel
from megacontext.core.tree.spec import U32

__all__ = ["HOPS", "MARGINS", "answer_prob", "expanded_blocks", "fit_selection"]

MARGINS = (0.7, 0.5, 0.3, 0.15)
"""Tried from few blocks to many."""
HOPS = (0, 3)
_TOLERANCE = 0.01
"""Probability that a setting with more blocks has to gain."""
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
    total, done = sum(len(tasks) for tasks in histories), 0
    settings = [(margin, hops) for hops in HOPS for margin in MARGINS]
    probs: dict[tuple[float, int], dict[str, list[float]]] = {s: {} for s in settings}
    for tasks in histories:
        encoders = [
            HeadEncoder(reader, replace(calibration, margin=margin, hops=hops))
            for margin, hops in settings
        ]
        store = KeyStore(encoders[0])  # keys depend on neither
        keys = [HistoryKeys(encoder, store) for encoder in encoders]
        encode = reader.base.tokenizer.encode
        history = encode(tasks[0].history)
        for task in tasks:
            question, answer = encode(task.question), encode(" " + task.outputs[0])

            # Settings that expand the same blocks give the same answer.
            known: dict[tuple[int, ...], float] = {}
            for setting, history_keys in zip(settings, keys, strict=True):
                blocks = expanded_blocks(history_keys, history, question)
                if blocks not in known:
                    known[blocks] = answer_prob(reader.base, history, blocks, question, answer)
                probs[setting].setdefault(task.name, []).append(known[blocks])
            done += 1
            progress(done, total)

    means = {
        setting: float(np.mean([np.mean(values) for values in kinds.values()]))
        for setting, kinds in probs.items()
    }
    highest = max(means.values())
    margin, hops = next(s for s in settings if means[s] >= highest - _TOLERANCE)
    metrics = {f"answer_prob_margin_{m:g}_hops_{h}": round(p, 4) for (m, h), p in means.items()}
    return replace(calibration, margin=margin, hops=hops, metrics=calibration.metrics | metrics)


def expanded_blocks(keys: HistoryKeys, history: U32, question: U32) -> tuple[int, ...]:
    """Blocks of ``history`` that the lens would have raw: the first, the newest, and what the
    question selects with its neighbours."""
    text = np.concatenate([history, question])
    matches = look_up(keys, lambda a, b: text[a:b], len(text), len(question), _BLOCK)
    count = len(matches.selected)
    raw = np.zeros(count, bool)
    raw[:1] = raw[max(0, count - _NEWEST) :] = True
    for distance in (-1, 0, 1):
        near = np.flatnonzero(matches.selected) + distance
        raw[near[(near >= 0) & (near < count)]] = True
    return tuple(np.flatnonzero(raw).tolist())


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
