"""Training the retriever behind the index keys: contrastive, over questions of four sources."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from megacontext.core.config.settings import check_fraction_sum
from megacontext.core.data.shards import open_shards
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.data.tokenizer import fingerprint, load_tokenizer
from megacontext.core.gistnet.gister import load_gistnet, save_gistnet
from megacontext.core.gistnet.module import GistNet
from megacontext.core.gistnet.pairing import pairing_facts, read_pairing
from megacontext.core.model.base import BaseModel
from megacontext.core.training.common.frozen_base import FrozenBase, block_inputs, question_inputs
from megacontext.core.training.common.idf import inverse_document_frequency
from megacontext.core.training.gistnet.task import NetShape, make_gistnet
from megacontext.core.training.index_keys.dataset import KeyDataset, KeyMix
from megacontext.core.training.index_keys.evaluate import KeyEvalConfig, KeyEvaluator
from megacontext.core.training.loop.distributed import DistributedContext, join_world
from megacontext.core.training.loop.run_task import run_task
from megacontext.core.training.loop.trainer import LoopConfig

__all__ = ["KeyPhase", "KeyTask", "KeyTraining", "train_keys"]


@dataclass(frozen=True)
class KeyPhase:
    """One stage: its share of the budget and its batches."""

    share: float
    mix: KeyMix = field(default_factory=KeyMix)


@dataclass(frozen=True)
class KeyTraining:
    """Everything the retriever is made from.

    Attributes:
        base: folder of the frozen base model.
        gistnet: folder of the GistNet to complete; empty: a fresh one of the sizes in ``net``,
            whose gists are untrained picks.
        shards, heldout: prepared text.
        drop: share of input positions whose embedding is blanked in training, so that no single
            token may carry a match alone.
        dtype: as for GistNet.
    """

    base: str
    shards: str
    heldout: str
    loop: LoopConfig
    phases: tuple[KeyPhase, ...]
    gistnet: str = ""
    net: NetShape = field(default_factory=NetShape)
    drop: float = 0.05
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    evaluation: KeyEvalConfig = field(default_factory=KeyEvalConfig)

    def __post_init__(self) -> None:
        check_fraction_sum(phase.share for phase in self.phases)


class KeyTask:
    """The key tower alone; gists stay as they are."""

    eval_metric = "keys_missed"
    metric_names: Sequence[str] = ("top1", "top4")

    def __init__(
        self, config: KeyTraining, base: FrozenBase, net: GistNet, world: DistributedContext
    ) -> None:
        # Batches are made in forked workers; the tokenizer's own threads would not survive that.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self._config, self._base, self._net, self._world = config, base, net, world
        self.model: nn.Module = net.keys
        self._tokenizer = load_tokenizer(Path(config.base))
        mark = fingerprint(self._tokenizer)
        shards = open_shards(Path(config.shards), mark)
        self._streams = TokenStreams(shards)
        size = net.config.block_size
        self._idf = inverse_document_frequency(shards.streams, base.base.vocab_size, size)
        self.evaluator = KeyEvaluator(
            config.evaluation,
            base,
            TokenStreams(open_shards(Path(config.heldout), mark)),
            self._tokenizer,
            self._idf,
            block_size=size,
            query_tokens=net.config.keys.query_tokens,
        )
        self.eval_names: Sequence[str] = self.evaluator.names

    def phase_fractions(self) -> Sequence[float]:
        return [phase.share for phase in self._config.phases]

    def dataset(self, phase: int) -> Dataset[dict[str, Tensor]]:
        return KeyDataset(
            self._config.phases[phase].mix,
            self._streams,
            self._tokenizer,
            self._idf,
            block_size=self._net.config.block_size,
            query_tokens=self._net.config.keys.query_tokens,
            seed=self._config.loop.seed,
            phase=phase,
            rank=self._world.rank,
            accumulation=self._config.loop.accumulation,
        )

    def on_phase_start(self, phase: int) -> None:
        """All weights of the tower train in every phase."""

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        with self._base.precision():
            return self._loss(batch)

    def _loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        net = self._net
        tokens, goal = batch["tokens"], batch["goal"]
        samples, questions, blocks = goal.shape
        all_blocks = torch.arange(blocks, device=tokens.device).expand(samples, -1)
        x, _ = block_inputs(self._base, net, tokens, all_blocks)
        keys = net.keys.keys(self._dropped(x.flatten(0, 1)), net.config.block_size)
        asked, real = question_inputs(self._base, net, batch["questions"].flatten(0, 1))
        queries = net.keys.queries(self._dropped(asked), real)
        logits = net.keys.logits(queries, keys).view(samples, questions, samples, blocks)
        # A question may not point at its own or later blocks of its sample.
        too_late = all_blocks[:, None] >= batch["before"][..., None]
        same_sample = torch.eye(samples, dtype=torch.bool, device=tokens.device)
        hidden = same_sample[:, None, :, None] & too_late[:, :, None, :]
        logits = logits.masked_fill(hidden, -1e4).flatten(2).flatten(0, 1)
        target = torch.zeros((samples, questions, samples, blocks), device=tokens.device)
        position = torch.arange(samples, device=tokens.device)
        target[position, :, position] = goal
        target = target.flatten(2).flatten(0, 1)
        valid = target.sum(1) > 0.5
        count = valid.sum().clamp(min=1)
        loss = -(target * functional.log_softmax(logits, dim=-1)).sum() / count
        best = torch.where(target > 0.25, logits, -1e5).amax(1, keepdim=True)
        rank = (logits > best).sum(1)
        metrics = {f"top{k}": ((rank < k) & valid).sum() / count for k in (1, 4)}
        return loss, metrics

    def evaluate(self) -> dict[str, float]:
        with self._base.precision():
            return self.evaluator.evaluate(self._net)

    def _dropped(self, x_NTD: Tensor) -> Tensor:
        """Zeroes random positions, chosen by a hash of the input: a resumed run zeroes the same."""
        if not self._config.drop or not self.model.training:
            return x_NTD
        # A hash of the embedding needs no generator state in the checkpoint.
        mark = (
            x_NTD[..., :8].float().sum(-1) * 1e5
            + torch.arange(x_NTD.shape[1], device=x_NTD.device) * 0.618
        )
        row = torch.arange(len(x_NTD), device=x_NTD.device)[:, None] * 0.7548
        keep = (mark + row).frac().abs() >= self._config.drop
        return x_NTD * keep[..., None]


def train_keys(
    config: KeyTraining,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    export: Path | None = None,
) -> dict[str, float]:
    """Train the retriever of ``config.gistnet``; checkpoints and metrics go to ``out``.

    Args:
        export: a folder that receives the completed GistNet whenever its keys are judged best.

    Returns:
        Gold-block recall on held-out wording, beside lexical keys and BM25.

    Raises:
        ModelError: base model or GistNet cannot be loaded or do not belong together.
    """
    world = join_world(device)
    torch.set_float32_matmul_precision("high")
    base = BaseModel.load(config.base, device=str(world.device), dtype=config.dtype)
    frozen = FrozenBase(base)
    if config.gistnet:
        net = load_gistnet(Path(config.gistnet), frozen.embedding)[0].to(world.device)
        pairing = read_pairing(Path(config.gistnet))  # keys are no part of what the base reads
    else:
        net = make_gistnet(config.net, Path(config.shards), config.loop.seed, frozen)
        pairing = pairing_facts(base.module, None)
    net.keys.requires_grad_(True)
    net.train()
    if world.device.type == "cuda":
        for layer in net.keys.encoder.layers:
            layer.compile(dynamic=False)
    task = KeyTask(config, frozen, net, world)

    def save_best(_: Path) -> None:
        if export is not None:
            save_gistnet(net, export, frozen.embedding, pairing)

    return run_task(task, config.loop, out, world, resume=resume, export=save_best)
