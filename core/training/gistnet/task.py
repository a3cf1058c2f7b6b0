"""Training a GistNet on a frozen base model, phase by phase.

Each phase has its own tilings and its own mix of objectives:

* ``pooling_mse``: stay near the children's mean (the control it starts from).
* ``reconstruction``: the base model generates the block after [gist, learned prompt].
* ``delta_nll``: KL to the full-context teacher on raw tokens, weighted to tokens that need the
  context that the gists stand for, plus cross-entropy. Tokens that a window without the gists
  predicts as well teach nothing about gists, so they weigh little.
* ``children``: contrastive loss over gist directions: from a level-2 gist and a position, identify
  the child at that position among all blocks of the batch.

Every block and every group of a batch's rows is encoded, whether or not a tiling uses it: shapes
stay fixed, and unused gists serve as the distant past of other rows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from megacontext.core.config.settings import Count, check_fraction_sum
from megacontext.core.data.recall.writer import RecallWriter
from megacontext.core.data.shards import open_shards
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.data.tokenizer import fingerprint, load_tokenizer
from megacontext.core.gistnet.encoder import copy_base_layers, rms_normalized
from megacontext.core.gistnet.gister import load_gistnet, save_gistnet
from megacontext.core.gistnet.keys import KeyConfig
from megacontext.core.gistnet.module import GistNet, GistNetConfig
from megacontext.core.gistnet.pairing import pairing_facts
from megacontext.core.model.base import BaseModel
from megacontext.core.training.common.frozen_base import FrozenBase, block_inputs, kl_divergence
from megacontext.core.training.common.idf import inverse_document_frequency
from megacontext.core.training.gistnet.dataset import GistDataset, TilingMix
from megacontext.core.training.gistnet.evaluate import GistEvalConfig, GistEvaluator
from megacontext.core.training.loop.distributed import DistributedContext, join_world
from megacontext.core.training.loop.run_task import run_task
from megacontext.core.training.loop.trainer import LoopConfig
from megacontext.traces.errors import ConfigError

__all__ = [
    "GistNetTraining",
    "GistPhase",
    "GistTask",
    "NetShape",
    "make_gistnet",
    "train_gistnet",
]


@dataclass(frozen=True)
class GistPhase:
    """One stage.

    Attributes:
        share: part of the budget.
        train: ``adapter`` (pooling, head, marks) or ``all`` (the encoder too).
        objectives: name to weight; see the module's docstring.
        cross_entropy: weight of CE beside the KL inside ``delta_nll``.
        need: how much the loss prefers tokens that need the gists, from 0 (not at all) to 1.
        reconstructed: blocks per micro-batch in the ``reconstruction`` loss.
    """

    share: float
    train: Literal["adapter", "all"] = "all"
    objectives: dict[str, float] = field(default_factory=lambda: {"delta_nll": 1.0})
    cross_entropy: float = 0.1
    need: float = 0.8
    reconstructed: int = 128
    tilings: TilingMix = field(default_factory=TilingMix)

    def __post_init__(self) -> None:
        known = {"pooling_mse", "reconstruction", "delta_nll", "children"}
        for name in self.objectives:
            if name not in known:
                raise ConfigError(
                    f"phases.objectives: {name!r} is unknown; choose from"
                    f" {', '.join(sorted(known))}."
                )


@dataclass(frozen=True)
class NetShape:
    """The trained network; widths of the encoder are the base's own where 0."""

    layers: int = 3
    heads: int = 0
    kv_heads: int = 0
    ffn: int = 0
    left_context: int = 32
    block_size: Count = 32
    pooling: Literal["mean", "query", "cls", "mean_query"] = "mean_query"
    head: Literal["linear", "mlp"] = "linear"
    start: Literal["token", "mean"] = "token"
    init: Literal["base", "random"] = "base"
    keys: KeyConfig = field(default_factory=KeyConfig)

    def resolve(self, base: FrozenBase) -> GistNetConfig:
        """The module's config for this base model."""
        base_config = base.base.config
        rope = getattr(base_config, "rope_parameters", None) or {}
        return GistNetConfig(
            dim=base.base.dim,
            block_size=self.block_size,
            left_context=self.left_context,
            layers=self.layers,
            heads=self.heads or base_config.num_attention_heads,
            kv_heads=self.kv_heads or base_config.num_key_value_heads,
            ffn=self.ffn or base_config.intermediate_size,
            rope_theta=float(rope.get("rope_theta", 10_000.0)),
            pooling=self.pooling,
            head=self.head,
            start=self.start,
            gist_rms=base.gist_rms(),
            keys=self.keys,
        )


@dataclass(frozen=True)
class GistNetTraining:
    """Everything a GistNet is made from.

    Attributes:
        base: folder or hub id of the frozen base model.
        shards, heldout: prepared text, see ``megacontext data prepare``.
        dtype: of the frozen base and of the arithmetic; ``auto`` is bfloat16 on a GPU and float32
            on a CPU. bfloat16 pays on CPUs with matrix units for it.
        adapter: folder of a LoRA adapter that is merged into the base model; empty: none.
    """

    base: str
    shards: str
    heldout: str
    loop: LoopConfig
    phases: tuple[GistPhase, ...]
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    net: NetShape = NetShape()
    evaluation: GistEvalConfig = field(default_factory=GistEvalConfig)
    adapter: str = ""

    def __post_init__(self) -> None:
        check_fraction_sum(phase.share for phase in self.phases)
        for phase in self.phases:
            if phase.tilings.length % self.net.block_size:
                raise ConfigError(
                    f"phases.tilings.length: {phase.tilings.length} is no multiple of"
                    f" net.block_size {self.net.block_size}."
                )
            least = (phase.tilings.tail + 2) * self.net.block_size
            if phase.tilings.length < least:
                raise ConfigError(
                    f"phases.tilings.length: {phase.tilings.length} leaves no block before the"
                    f" tail of {phase.tilings.tail} to make a gist of; use {least} or more, or a"
                    " shorter tail."
                )


class ChildProbe(nn.Module):
    """Predicts which gist is a level-2 gist's child at a position; only used in training.

    Shapes: M groups, K places, N candidates, D width.
    """

    def __init__(self, dim: int, positions: int) -> None:
        super().__init__()
        self.read = nn.Linear(dim, dim, bias=False)
        self.place = nn.Parameter(torch.zeros(positions, dim))
        self.sharpness = nn.Parameter(torch.tensor(2.0))  # log of the inverse temperature
        with torch.no_grad():
            self.read.weight.copy_(torch.eye(dim))

    def forward(self, upper_MD: Tensor, gists_ND: Tensor) -> Tensor:
        """CE in nats of picking each group's K children; group m's are candidates m K to m K + K.

        Candidates are centred on their mean, since what all blocks share identifies none of them.
        """
        n_positions = len(self.place)
        gists = rms_normalized(gists_ND.detach())
        gists = gists - gists.mean(0)
        queries = self.read(rms_normalized(upper_MD))[:, None] + self.place
        queries = functional.normalize(queries.flatten(0, 1).float(), dim=-1)
        logits = queries @ functional.normalize(gists.float(), dim=-1).T
        target = torch.arange(len(upper_MD) * n_positions, device=upper_MD.device)
        return functional.cross_entropy(logits * self.sharpness.clamp(max=4.0).exp(), target)


class GistTask:
    """The gist encoder; the retriever's weights stay as they are."""

    eval_metric = "gist_dnll"
    metric_names: Sequence[str] = (
        "kl",
        "ce",
        "reconstruction",
        "children",
        "kl_deleted",
        "kept_gain",
    )

    def __init__(
        self, config: GistNetTraining, base: FrozenBase, net: GistNet, world: DistributedContext
    ):
        # Batches are made in forked workers; the tokenizer's own threads would not survive that.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self.config, self.base, self.net, self._world = config, base, net, world
        self.probe = ChildProbe(net.config.dim, net.config.block_size).to(base.device)
        self.model: nn.Module = nn.ModuleDict({"net": net, "probe": self.probe})
        net.keys.requires_grad_(False)
        tokenizer = load_tokenizer(Path(config.base))
        mark = fingerprint(tokenizer)
        self._streams = TokenStreams(open_shards(Path(config.shards), mark))
        self._writer = RecallWriter(tokenizer, "train", config.loop.seed, net.config.block_size)
        heldout = TokenStreams(open_shards(Path(config.heldout), mark))
        self.evaluator = GistEvaluator(config.evaluation, base, heldout, net.config.block_size)
        self.eval_names: Sequence[str] = self.evaluator.names
        self._phase = config.phases[0]

    def phase_fractions(self) -> Sequence[float]:
        return [phase.share for phase in self.config.phases]

    def dataset(self, phase: int) -> Dataset[dict[str, Tensor]]:
        return GistDataset(
            self.config.phases[phase].tilings,
            self._streams,
            self._writer,
            block_size=self.net.config.block_size,
            seed=self.config.loop.seed,
            phase=phase,
            rank=self._world.rank,
            accumulation=self.config.loop.accumulation,
        )

    def on_phase_start(self, phase: int) -> None:
        self._phase = self.config.phases[phase]
        self.net.encoder.requires_grad_(self._phase.train == "all")

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        with self.base.precision():
            return self._loss(batch)

    def _loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        objectives, size = self._phase.objectives, self.net.config.block_size
        tokens = batch["tokens"]
        rows, count = len(tokens), tokens.shape[1] // size
        all_blocks = torch.arange(count, device=tokens.device).expand(rows, -1)
        x, block_tokens = block_inputs(self.base, self.net, tokens, all_blocks)
        gists = self.net(x.flatten(0, 1), 1)

        # Objectives of one block: stay near the mean, spell the block out.
        metrics = dict.fromkeys(self.metric_names, torch.zeros((), device=gists.device))
        total = metrics["kl"]
        if "pooling_mse" in objectives:
            mean = rms_normalized(x.flatten(0, 1)[:, -size:].float().mean(1))
            scale = self.net.config.gist_rms
            total = total + objectives["pooling_mse"] * ((gists / scale - mean) ** 2).mean()
        if "reconstruction" in objectives:
            metrics["reconstruction"] = self._reconstruction(gists, block_tokens.flatten(0, 1))
            total = total + objectives["reconstruction"] * metrics["reconstruction"]

        # Level 2: groups of K gists, told apart by their children.
        by_row = gists.view(rows, count, -1)
        groups = count // size
        children = by_row[:, : groups * size].reshape(rows * groups, size, gists.shape[-1])
        upper = self.net(children, 2) if groups and self._uses_groups() else children[:, 0]
        if "children" in objectives and groups:
            metrics["children"] = self.probe(upper, children.flatten(0, 1))
            total = total + objectives["children"] * metrics["children"]

        # What the gists are for: the continuation over a window that has them.
        if "delta_nll" in objectives:
            loss, delta_metrics = self._continuation(
                batch, by_row, upper.view(rows, groups, gists.shape[-1])
            )
            total = total + objectives["delta_nll"] * loss
            metrics.update(delta_metrics)
        return total, metrics

    def _uses_groups(self) -> bool:
        mix = self._phase.tilings
        return bool(mix.groups or mix.far or "children" in self._phase.objectives)

    def evaluate(self) -> dict[str, float]:
        with self.base.precision():
            return self.evaluator.evaluate(self.net)

    def _reconstruction(self, gists_ND: Tensor, tokens_NK: Tensor) -> Tensor:
        """Cross-entropy in nats per token of blocks that are generated from their gists."""
        count = min(self._phase.reconstructed, len(gists_ND))
        # Spread over the rows; the rows themselves are random.
        choice = torch.arange(count, device=gists_ND.device) * len(gists_ND) // count
        gists, tokens = gists_ND[choice], tokens_NK[choice]
        prompt = torch.stack((gists, self.net.rec.expand_as(gists)), dim=1)
        inputs = self.base.embed(tokens[:, :-1])
        hidden = self.base.hidden(torch.cat((prompt.to(inputs.dtype), inputs), dim=1))[:, 1:]
        logits = self.base.logits(hidden)
        return functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())

    def _continuation(
        self, batch: dict[str, Tensor], gists_RBD: Tensor, upper_RGD: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        raw = self.base.embed(batch["tokens"])
        table = torch.cat((raw, gists_RBD.to(raw.dtype), upper_RGD.to(raw.dtype)), dim=1)
        table = table.flatten(0, 1)
        target = batch["target"].long()
        with torch.no_grad():
            teacher = self.base.logits_at(raw, target - 1)
            bare = functional.embedding(batch["bare"].long(), table)
            without = kl_divergence(
                teacher, self.base.logits_at(bare, batch["predictor_raw"].long())
            )

        # The student reads the window in which gists stand for the blocks.
        window = functional.embedding(batch["window"].long(), table)
        student = self.base.logits_at(window, batch["predictor"].long())
        kl = kl_divergence(teacher, student)

        # A token that is as likely without the gists carries no signal about them.
        need = self._phase.need
        weight = (1 - need) + need * (without / without.mean().clamp(min=1e-6)).clamp(max=20.0)
        weight = weight * batch["stress"]
        weight = weight / weight.mean()

        answer = batch["tokens"].long().gather(1, target)
        ce = functional.cross_entropy(student.flatten(0, 1), answer.flatten())
        mean_kl = kl.mean()
        gain = 1 - mean_kl.detach() / without.mean().clamp(min=1e-6)
        metrics = {"kl": mean_kl, "ce": ce, "kl_deleted": without.mean(), "kept_gain": gain}
        return (kl * weight).mean() + self._phase.cross_entropy * ce, metrics


def make_gistnet(shape: NetShape, shards: Path, seed: int, base: FrozenBase) -> GistNet:
    """A fresh network: random, or started from the base model's lower layers.

    Its picks and key weights start from the inverse document frequencies in ``shards``.
    """
    net = GistNet(shape.resolve(base))
    net.init_weights(seed)
    streams = open_shards(shards).streams
    idf = inverse_document_frequency(streams, base.base.vocab_size, net.config.block_size)
    net.fit_rarity(base.embedding, torch.from_numpy(idf))
    if shape.init == "base":
        copy_base_layers(net.encoder, base.module.state_dict())
    return net.to(base.device)


def train_gistnet(
    config: GistNetTraining,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    init: Path | None = None,
    export: Path | None = None,
) -> dict[str, float]:
    """Train by ``config``; checkpoints and metrics go to ``out``.

    Args:
        init: a GistNet folder to start from; its index keys are kept, bit for bit. A run that
            resumes names it again.
        export: a folder that receives the network whenever it is judged best.

    Returns:
        The final held-out figures, those of the mean control and of deletion among them.

    Raises:
        ModelError: the base model cannot be loaded, or ``init`` belongs to another one.
    """
    world = join_world(device)
    torch.set_float32_matmul_precision("high")
    base = BaseModel.load(
        config.base, device=str(world.device), dtype=config.dtype, adapter=config.adapter or None
    )
    mix = config.phases[-1].tilings
    frozen = FrozenBase(base, (mix.rows, mix.length))
    if init is None:
        net = make_gistnet(config.net, Path(config.shards), config.loop.seed, frozen)
    else:
        net = load_gistnet(init, frozen.embedding)[0].to(world.device)
        net.requires_grad_(True)
        net.pad.requires_grad_(False)  # the retriever reads it too, before the start of a history
        net.train()
        config = replace(config, net=replace(config.net, block_size=net.config.block_size))
    if world.device.type == "cuda":
        for layer in net.encoder.layers:
            layer.compile(dynamic=False)
    task = GistTask(config, frozen, net, world)
    pairing = pairing_facts(base.module, Path(config.adapter) if config.adapter else None)

    def save_best(_: Path) -> None:
        if export is not None:
            save_gistnet(net, export, frozen.embedding, pairing)

    return run_task(task, config.loop, out, world, resume=resume, export=save_best)
