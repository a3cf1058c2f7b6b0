"""Refreshing a base model for mixed windows with a LoRA adapter.

A frozen model was never trained on gists. The adapter is distilled: on mixed tilings (raw blocks
and gists of the configured gister) its targets are the original model's predictions over the whole
raw history. A guard keeps the adapted model close to the original one on all-raw windows. The guard
is a term of the loss, a metric of every evaluation, and a bound: a checkpoint beyond it is never
the best and never exported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from megacontext.core.config.settings import check_fraction_sum
from megacontext.core.data.recall.writer import RecallWriter
from megacontext.core.data.shards import open_shards
from megacontext.core.data.teacher_cache import TeacherCache
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.data.tokenizer import fingerprint, load_tokenizer
from megacontext.core.gistnet.checkpoint import base_fingerprint
from megacontext.core.gistnet.gister import load_gistnet
from megacontext.core.gistnet.module import GistNet
from megacontext.core.gistnet.pairing import record_gistnet
from megacontext.core.model.base import BaseModel
from megacontext.core.training.common.frozen_base import FrozenBase, kl_divergence
from megacontext.core.training.gistnet.evaluate import gist_table
from megacontext.core.training.gistnet.task import NetShape
from megacontext.core.training.loop.distributed import DistributedContext, RankDataset, join_world
from megacontext.core.training.loop.run_task import run_task
from megacontext.core.training.loop.trainer import LoopConfig
from megacontext.core.training.lora.dataset import MixedWindowDataset, WindowMix
from megacontext.core.training.lora.evaluate import Guard, LoraEvalConfig, LoraEvaluator
from megacontext.core.training.lora.layers import LoraLayers, LoraShape
from megacontext.traces.errors import ConfigError

__all__ = [
    "LoraPhase",
    "LoraTask",
    "LoraTraining",
    "make_gister",
    "top_kl_divergence",
    "train_lora",
]


@dataclass(frozen=True)
class LoraPhase:
    """One stage: its share of the budget, its tilings, the weight of CE beside the KL."""

    share: float
    cross_entropy: float = 0.1
    windows: WindowMix = field(default_factory=WindowMix)


@dataclass(frozen=True)
class LoraTraining:
    """Everything an adapter is made from.

    Attributes:
        base: folder or hub id of the base model.
        shards, heldout: prepared text.
        gister: encoder of the gists in the windows: a trained ``gistnet`` or an untrained control.
        gistnet: folder of the GistNet.
        teacher: source of the original model's predictions over whole raw windows: the ``model``,
            run next to the adapted one, or the ``cache`` in ``shards`` (its most likely tokens).
        block_size: K where the gister is a control; a GistNet knows its own.
        dtype: of the frozen base, as for GistNet; the adapter itself is float32.
    """

    base: str
    shards: str
    heldout: str
    loop: LoopConfig
    phases: tuple[LoraPhase, ...]
    gister: Literal["gistnet", "token", "mean"] = "gistnet"
    gistnet: str = ""
    teacher: Literal["model", "cache"] = "model"
    block_size: int = 32
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    lora: LoraShape = field(default_factory=LoraShape)
    guard: Guard = field(default_factory=Guard)
    evaluation: LoraEvalConfig = field(default_factory=LoraEvalConfig)

    def __post_init__(self) -> None:
        check_fraction_sum(phase.share for phase in self.phases)
        if (self.gister == "gistnet") != bool(self.gistnet):
            raise ConfigError(
                f"gistnet: {self.gistnet!r} does not go with gister {self.gister!r}; name a folder "
                "for gister gistnet and none for a control."
            )


class LoraTask:
    """The adapter alone; base model and gister are frozen."""

    eval_metric = "score"
    metric_names: Sequence[str] = ("kl", "ce", "guard")
    eval_names: Sequence[str] = LoraEvaluator.names

    def __init__(
        self, config: LoraTraining, base: FrozenBase, net: GistNet, world: DistributedContext
    ) -> None:
        # Batches are made in forked workers; the tokenizer's own threads would not survive that.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self._config, self._base, self._net, self._world = config, base, net, world
        self.layers = LoraLayers(base, config.lora, config.loop.seed)
        self.model: nn.Module = self.layers

        # Tokenized training text, and the original model's cached predictions for it.
        tokenizer = load_tokenizer(Path(config.base))
        mark, size = fingerprint(tokenizer), net.config.block_size
        shards = open_shards(Path(config.shards), mark)
        streams = TokenStreams(shards)
        cache = None
        if config.teacher == "cache":
            cache = TeacherCache(shards, base_fingerprint(base.embedding))

        # One dataset a phase; their draws are independent.
        writer = RecallWriter(tokenizer, "train", config.loop.seed, size)
        self._rows = [
            MixedWindowDataset(
                phase.windows,
                streams,
                writer,
                block_size=size,
                seed=config.loop.seed,
                phase=number,
                accumulation=config.loop.accumulation,
                cache=cache,
            )
            for number, phase in enumerate(config.phases)
        ]

        # Held-out windows, in a wording that is not in the training data.
        heldout = TokenStreams(open_shards(Path(config.heldout), mark))
        unseen = RecallWriter(tokenizer, "heldout", 0, size)
        fixed = MixedWindowDataset(
            config.evaluation.windows, heldout, unseen, block_size=size, seed=0, phase=0
        )
        self.evaluator = LoraEvaluator(
            config.guard, config.evaluation.batches, base, heldout, fixed
        )
        self._phase = config.phases[0]

    def phase_fractions(self) -> Sequence[float]:
        return [phase.share for phase in self._config.phases]

    def dataset(self, phase: int) -> Dataset[dict[str, Tensor]]:
        count = self._config.phases[phase].windows.rows
        return RankDataset(self._rows[phase], self._world, count, "phases.windows.rows")

    def on_phase_start(self, phase: int) -> None:
        self._phase = self._config.phases[phase]

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        raw = self._base.embed(batch["tokens"])
        target = batch["target"]
        kl_from_teacher = self._kl_from_teacher(batch, raw)
        student = self._window(batch)
        kl = kl_from_teacher(student).mean()
        answer = batch["tokens"].long().gather(1, target)
        ce = functional.cross_entropy(student.flatten(0, 1), answer.flatten())
        total = kl + self._phase.cross_entropy * ce
        weight = self._config.guard.weight
        with nullcontext() if weight else torch.no_grad():
            guard = kl_from_teacher(self._base.logits_at(raw, target - 1)).mean()
        if weight:
            total = total + weight * guard
        return total, {"kl": kl, "ce": ce, "guard": guard}

    def _kl_from_teacher(self, batch: dict[str, Tensor], raw: Tensor) -> Callable[[Tensor], Tensor]:
        """KL [R, S] from the original base on the raw history to given logits [R, S, V]."""
        if "teacher_ids" in batch:
            return partial(top_kl_divergence, batch["teacher_ids"], batch["teacher_logp"])
        return partial(kl_divergence, self._original(raw, batch["target"] - 1))

    def evaluate(self) -> dict[str, float]:
        return self.evaluator.evaluate(self._against_full, self.layers.off)

    @torch.no_grad()
    def _original(self, raw_RTD: Tensor, index_RS: Tensor) -> Tensor:
        """Logits [R, S, V] of the original base over the whole raw history."""
        with self.layers.off():
            return self._base.logits_at(raw_RTD, index_RS)

    def _window(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits [R, S, V] over the mixed window, with the adapter as it stands."""
        with torch.no_grad(), self._base.precision():
            table = gist_table(
                self._base, self._net, batch["tokens"].long(), batch, self._gist_kind
            )
        entries = batch["entries"][..., None].expand(-1, -1, table.shape[-1])
        return self._base.logits_at(table.gather(1, entries), batch["predictor"])

    @property
    def _gist_kind(self) -> str:
        return "gist" if self._config.gister == "gistnet" else self._config.gister

    def _against_full(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """KL [R, S] and dNLL [R, S] of the mixed window against the original's full one."""
        raw = self._base.embed(batch["tokens"])
        target = batch["target"]
        answer = batch["tokens"].long().gather(1, target)[..., None]
        teacher, student = self._original(raw, target - 1), self._window(batch)
        nll = [-x.log_softmax(-1).gather(-1, answer)[..., 0] for x in (teacher, student)]
        return kl_divergence(teacher, student), nll[1] - nll[0]


def top_kl_divergence(ids_RSk: Tensor, log_probs_RSk: Tensor, logits_RSV: Tensor) -> Tensor:
    """KL [R, S] in nats over the teacher's top k tokens and all others as one outcome.

    Merging outcomes only lowers a KL, so this is a lower bound of the whole one.
    """
    student_log_probs = logits_RSV.log_softmax(-1).gather(-1, ids_RSk)
    rest, student_rest = (
        (1 - log_probs.exp().sum(-1)).clamp(min=1e-6).log()
        for log_probs in (log_probs_RSk, student_log_probs)
    )
    over_top = (log_probs_RSk.exp() * (log_probs_RSk - student_log_probs)).sum(-1)
    return over_top + rest.exp() * (rest - student_rest)


def train_lora(
    config: LoraTraining,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    init: Path | None = None,
    export: Path | None = None,
) -> dict[str, float]:
    """Train by ``config``; checkpoints and metrics go to ``out``.

    Args:
        init: an adapter folder to start from; the guard still measures from the original base.
        export: a folder that receives the adapter, in peft's format, whenever it is judged best
            and its guard is inside the bound; give it to a run as ``model.adapter``.

    Returns:
        The final held-out figures, those without the adapter (``_off``) among them.

    Raises:
        ModelError: base model or GistNet cannot be loaded or do not belong together.
        GuardError: the model left the original one by more than ``guard.stop``.
    """
    world = join_world(device)
    torch.set_float32_matmul_precision("high")
    base = FrozenBase(BaseModel.load(config.base, device=str(world.device), dtype=config.dtype))
    task = LoraTask(config, base, make_gister(config, base), world)
    if init is not None:
        task.layers.start_from(init)

    def save_best(_: Path) -> None:
        if export is not None:
            task.layers.save(export, base)
            if config.gistnet:
                record_gistnet(export, Path(config.gistnet))

    return run_task(task, config.loop, out, world, resume=resume, export=save_best)


def make_gister(config: LoraTraining, base: FrozenBase) -> GistNet:
    """The trained network, or an empty one that gives the controls their sizes."""
    if config.gistnet:
        net = load_gistnet(Path(config.gistnet), base.embedding)[0]
    else:
        shape = NetShape(layers=0, left_context=0, block_size=config.block_size)
        net = GistNet(shape.resolve(base))
    return net.to(base.device).eval().requires_grad_(False)
