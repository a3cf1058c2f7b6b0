"""Finds the heads of a model that look things up, from lookup tasks over any text.

Facts are planted in the text and asked for in several wordings. A head is ranked by how high the
block that holds the answer stands in its attention over all blocks; nothing is trained. How many
blocks a question may expand is then fitted by the model's own answers, see
:mod:`megacontext.core.heads.fit`. The wordings that choose and fit are not those that the reported
recall is measured on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from megacontext.core.benchmarks.facts import FACT_TASKS
from megacontext.core.benchmarks.planting import Haystack, make_set
from megacontext.core.benchmarks.tasks import BenchTask
from megacontext.core.heads.calibration import HeadsCalibration, cache_folder, load_cached
from megacontext.core.heads.encoder import HeadReader
from megacontext.core.heads.fit import fit_selection
from megacontext.core.model.base import BaseModel
from megacontext.core.stages import stage
from megacontext.core.tree.spec import F32, U32
from megacontext.traces.errors import ModelError

__all__ = ["CalibrateOptions", "calibrate", "calibration_for", "model_fingerprint"]

_BLOCK = 32
_MAX_HEADS = 6
_HEAD_RATIO = 0.75
"""A head is kept if its mean reciprocal rank is at least this fraction of the best head's."""
_USELESS = 0.3
"""A best head below this mean reciprocal rank finds nothing that chance would not."""
_KEY_RANGE = 4.0 / 127
"""Standard deviations of a stored step: int8 covers four of them."""
_MIN_PARAMS = 20_000_000

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CalibrateOptions:
    """What to ask.

    Attributes:
        histories: texts with planted facts.
        questions: questions about each.
        fit_questions: of them, those that also fit margin and hops, each of which reads a
            thousand tokens for every setting; None: all on a GPU, three on a CPU.
        length: tokens of a history.
        seed: everything follows from it.
    """

    histories: int = 4
    questions: int = 10
    fit_questions: int | None = None
    length: int = 3072
    seed: int = 0


def model_fingerprint(base: BaseModel) -> str:
    """16 hex digits that name the weights, whatever they are stored as.

    Signs of a sample of the embedding matrix and of every layer's first weights: rounding to
    another float type changes no sign.
    """
    digest = hashlib.sha256(f"{base.vocab_size} {base.dim} {base.kv_shape}".encode())
    for name, weights in base.module.named_parameters():
        flat = weights.detach().flatten()
        sample = flat[: 256 if "embed" not in name else 65_536 : 1 if "embed" not in name else 16]
        signs = np.packbits((sample.float() > 0).cpu().numpy())
        digest.update(signs.tobytes())
    return digest.hexdigest()[:16]


def calibration_for(
    base: BaseModel, progress: Progress = lambda done, total: None
) -> HeadsCalibration | None:
    """The model's calibration: shipped, cached, or made now and cached.

    Returns:
        None where the model is too small to look anything up (below 20M parameters).

    Raises:
        ModelError: its keys cannot be matched at a distance, or no head finds anything.
    """
    if sum(p.numel() for p in base.module.parameters()) < _MIN_PARAMS:
        return None
    fingerprint = model_fingerprint(base)
    known = load_cached(fingerprint)
    if known is None:

        def report(done: int, total: int) -> None:
            stage(f"finding the heads of {base.name} that look things up, once: {done}/{total}")
            progress(done, total)

        report(0, 1)
        known = calibrate(base, progress=report)
        known.save(cache_folder() / "heads" / f"{fingerprint}.json")
    return known


def calibrate(
    base: BaseModel,
    text: Sequence[Path] = (),
    options: CalibrateOptions | None = None,
    progress: Progress = lambda done, total: None,
) -> HeadsCalibration:
    """Rank all heads of ``base`` and keep the best.

    Args:
        text: files or folders to plant facts in; by default the running Python's library.
        progress: called with (passes done, passes in all).

    Raises:
        ModelError: the model's keys cannot be matched at a distance, or no head finds anything.
        SourceError: the text is too short.
    """
    options = options or CalibrateOptions()
    reader = HeadReader(base)
    histories = _histories(base, text, options)
    fit_questions = options.fit_questions
    if fit_questions is None:
        fit_questions = 3 if base.device.type == "cpu" else options.questions
    ranking = sum(1 + len(tasks) for tasks in histories)
    fit_count = 2 + sum(tasks[0].name == "calibration" for tasks in histories)
    total = ranking + 2 * fit_count * fit_questions

    # Which heads: ranked on one family of wordings, their recall reported on the other.
    measured = _measure_heads(reader, histories, lambda done: progress(done, total))
    calibration = _choose_heads(base, measured)

    # The margin and the hops: what lets the model answer best, on wordings that chose the heads.
    fit_tasks = [tasks for tasks in histories if tasks[0].name == "calibration"]
    fit_tasks += [
        _tasks(base, text, options, name, number)
        for number, name in enumerate(("calibration_list", "calibration_chain"), len(histories))
    ]
    return fit_selection(
        reader,
        calibration,
        [tasks[:fit_questions] for tasks in fit_tasks],
        lambda done, _: progress(ranking + done, total),
    )


@dataclass(frozen=True)
class _Measured:
    """All heads on all tasks.

    Attributes:
        ranks: F32[tasks, L, heads], of the block with the answer in the head's attention.
        masses: F32[tasks, L, heads], the attention that it got.
        is_fit: bool[tasks], asked in the wording that chooses.
        mean, std: F32[L, H, D], of the keys.
    """

    ranks: F32
    masses: F32
    is_fit: np.ndarray
    mean: Tensor
    std: Tensor


def _measure_heads(
    reader: HeadReader, histories: Sequence[Sequence[BenchTask]], step: Callable[[int], None]
) -> _Measured:
    """Read each history once and each question once; all heads are judged together."""
    base, left = reader.base, HeadsCalibration.left
    layers, kv_heads, dim = base.kv_shape
    sums = torch.zeros(2, layers, kv_heads, dim, dtype=torch.float64)
    ranks, masses, is_fit, count, done = [], [], [], 0, 0
    for tasks in histories:
        tokens, offsets = _tokenized(base, tasks[0].history)
        keys = _read_all(reader, tokens, layers)
        sums += torch.stack([k.double().cpu() for k in (keys.sum(2), keys.square().sum(2))])
        count += len(tokens)
        done += 1
        step(done)

        # A question is read after the end of its history, as a session reads it.
        for task in tasks:
            question = base.tokenizer.encode(task.question)
            window = np.concatenate([tokens[-left:], question])[None]
            queries = reader.read(window, range(layers), "queries")
            rank, mass = _judge(queries, keys, _gold_blocks(task, offsets), left, reader.scaling)
            ranks.append(rank)
            masses.append(mass)
            is_fit.append(task.name == "calibration")
            done += 1
            step(done)

    mean, square = (sums / count).float()
    std = (square - mean.square()).clamp(min=1e-8).sqrt()
    return _Measured(np.stack(ranks), np.stack(masses), np.array(is_fit), mean, std)


def _choose_heads(base: BaseModel, measured: _Measured) -> HeadsCalibration:
    """The heads with the best mean reciprocal rank.

    Raises:
        ModelError: no head finds anything.
    """
    heads = int(base.config.num_attention_heads)
    fit, n_tasks = measured.is_fit, len(measured.is_fit)
    reciprocal = (1.0 / measured.ranks).reshape(n_tasks, -1)
    quality = reciprocal[fit].mean(0)
    order = np.argsort(-quality, kind="stable")[:_MAX_HEADS]
    best = float(quality[order[0]])
    if best < _USELESS:
        raise ModelError(
            f"lens.kind is heads but no head of model '{base.name}' finds a planted fact (best "
            f"mean reciprocal rank {best:.2f}, {_USELESS} is needed); use lens.kind bm25."
        )
    chosen = [int(i) for i in order if quality[i] >= _HEAD_RATIO * best]
    pairs = tuple((i // heads, i % heads) for i in chosen)

    # The key heads that they read, and the scale of their stored keys.
    group = heads // base.kv_shape[1]
    key_pairs = tuple(sorted({(layer, head // group) for layer, head in pairs}))
    at = tuple(torch.tensor(list(axis)) for axis in zip(*key_pairs, strict=True))

    held_out = reciprocal[~fit][:, chosen]
    gold_mass = measured.masses.reshape(n_tasks, -1)[fit][:, chosen].mean(1)
    return HeadsCalibration(
        model=model_fingerprint(base),
        heads=pairs,
        key_heads=key_pairs,
        offset=measured.mean[at].numpy(),
        scale=(measured.std[at] * _KEY_RANGE).numpy(),
        min_mass=float(np.quantile(gold_mass, 0.05) / 8),
        metrics={
            "tasks": float(n_tasks),
            "best_head_mrr": round(best, 4),
            "held_out_mrr": round(float(held_out.mean()), 4),
            "held_out_recall_at_1": round(float((held_out.max(1) == 1).mean()), 4),
        },
    )


def _histories(
    base: BaseModel, text: Sequence[Path], options: CalibrateOptions
) -> list[list[BenchTask]]:
    """Tasks by history: both families of wordings take turns."""
    return [
        _tasks(base, text, options, ("calibration", "held_out")[number % 2], number)
        for number in range(options.histories)
    ]


def _tasks(
    base: BaseModel, text: Sequence[Path], options: CalibrateOptions, name: str, number: int
) -> list[BenchTask]:
    """The questions about one history."""
    return make_set(
        "calibrate",
        {name: FACT_TASKS[name]},
        base.tokenizer.hf.backend_tokenizer,
        Haystack(text),
        [options.length],
        options.questions,
        shared=options.questions,
        seed=options.seed + number,
    )


def _tokenized(base: BaseModel, text: str) -> tuple[U32, np.ndarray]:
    """Token ids and the character span [n, 2] of each."""
    encoding = base.tokenizer.hf(text, add_special_tokens=False, return_offsets_mapping=True)
    return np.array(encoding["input_ids"], np.uint32), np.array(
        encoding["offset_mapping"], np.int64
    )


def _read_all(reader: HeadReader, tokens: U32, layers: int) -> Tensor:
    """Keys of every layer and key head, read in the windows of a key store: F32[L, H, T, D]."""
    chunk, left = HeadsCalibration.chunk, HeadsCalibration.left
    parts = []
    for start in range(0, len(tokens), chunk):
        first = max(0, start - left)
        read = reader.read(tokens[first : start + chunk][None], range(layers), "keys")
        parts.append(torch.stack([read[layer][0, :, start - first :] for layer in range(layers)]))
    return torch.cat(parts, dim=2)


def _gold_blocks(task: BenchTask, offsets: np.ndarray) -> list[int]:
    """Blocks that hold the value asked for."""
    start, stop = task.gold[0]
    at = task.history.find(task.outputs[0], start, stop)
    inside = (offsets[:, 0] < at + len(task.outputs[0])) & (offsets[:, 1] > at)
    return sorted(set((np.flatnonzero(inside) // _BLOCK).tolist()))


def _judge(
    queries: dict[int, Tensor], keys: Tensor, gold: list[int], start: int, scaling: float
) -> tuple[F32, F32]:
    """Rank of the best gold block, and the gold blocks' attention, F32[L, heads] each."""
    layers, kv_heads, n_tokens, _ = keys.shape
    blocks = n_tokens // _BLOCK
    gold = [block for block in gold if block < blocks] or [blocks - 1]
    ranks, masses = [], []
    for layer in range(layers):
        query = queries[layer][0, :, start:]
        heads, count, dim = query.shape
        grouped = query.reshape(kv_heads, -1, dim)  # queries of one key head together
        logits = (grouped @ keys[layer].transpose(1, 2)) * scaling
        logits[..., :_BLOCK] = -torch.inf
        attention = logits.softmax(-1)[..., : blocks * _BLOCK]
        of_blocks = attention.view(heads, count, blocks, _BLOCK).sum(-1)
        peak = of_blocks.square().mean(1)  # ordered as the root mean square, which ranks blocks
        best = peak[:, gold].amax(1, keepdim=True)
        ranks.append(((peak > best).sum(1) + 1).float().cpu().numpy())
        masses.append(of_blocks.mean(1)[:, gold].sum(1).cpu().numpy())
    return np.stack(ranks), np.stack(masses)
