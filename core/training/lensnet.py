"""Training a LensNet on a frozen base model and a trained GistNet.

Targets lie in [-1, 1] like the scores:

* far states: gists over the gold block +0.9, the gold block where it is raw already +0.3, all
  else negative (raw blocks more than gists: they cost more entries);
* near states, all entries: how the attention that the coming tokens pay to an entry's most read
  block compares with the block that would just fit the budget, on a log scale;
* near states, the changed entries: the NLL that showing more detail saved, against a price.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from megacontext.core.data.recall import RecallWriter
from megacontext.core.data.shards import open_shards
from megacontext.core.data.tokenizer import fingerprint, load_tokenizer
from megacontext.core.gistnet.gister import NetGister, load_gistnet
from megacontext.core.gistnet.module import GistNet
from megacontext.core.lensnet.lens import save_lensnet
from megacontext.core.lensnet.module import LensNet, LensNetConfig
from megacontext.core.model.base import BaseModel
from megacontext.core.training import checkpoint
from megacontext.core.training.distributed import World, join_world
from megacontext.core.training.gistnet_base import FrozenBase
from megacontext.core.training.lensnet_eyes import over_frontier, remember, view
from megacontext.core.training.lensnet_judge import LensJudge, LensJudgeConfig
from megacontext.core.training.lensnet_states import LensRows, StateMix
from megacontext.core.training.lensnet_teacher import AttentionProbe, window_nll
from megacontext.core.training.mixture import TokenStreams
from megacontext.core.training.trainer import LoopConfig, Trainer
from megacontext.traces.errors import ConfigError

__all__ = ["LensNetTraining", "LensPhase", "LensShape", "LensTask", "train_lensnet"]


@dataclass(frozen=True)
class LensPhase:
    """One stage.

    Attributes:
        share: part of the budget.
        attention, counterfactual, gold, ranking: weights of the targets above and of the loss
            that ranks gold entries before all other gists.
        price: NLL in nats per coming token that an expansion has to save.
        scale: NLL that moves the counterfactual target from 0 to tanh(1).
        hidden: chance that a near batch shows the base model's hidden states.
    """

    share: float
    attention: float = 0.5
    counterfactual: float = 1.0
    gold: float = 1.0
    ranking: float = 0.3
    price: float = 0.003
    scale: float = 0.02
    hidden: float = 0.5
    states: StateMix = field(default_factory=StateMix)


@dataclass(frozen=True)
class LensShape:
    """Sizes of the network, see :class:`~megacontext.core.lensnet.module.LensNetConfig`."""

    width: int = 96
    heads: int = 4
    layers: int = 1
    near_gists: int = 4
    hidden_states: int = 4


@dataclass(frozen=True)
class LensNetTraining:
    """Everything a LensNet is made from.

    Attributes:
        base: folder of the frozen base model; gistnet: folder of its GistNet.
        shards, heldout: prepared text.
        dtype: as for GistNet.
    """

    base: str
    gistnet: str
    shards: str
    heldout: str
    loop: LoopConfig
    phases: tuple[LensPhase, ...]
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    net: LensShape = field(default_factory=LensShape)
    evaluation: LensJudgeConfig = field(default_factory=LensJudgeConfig)

    def __post_init__(self) -> None:
        total = sum(phase.share for phase in self.phases)
        if abs(total - 1) > 1e-6:
            raise ConfigError(f"phases.share: the shares add up to {total:g}; they must add to 1.")


class LensTask:
    """The lens alone; base model and GistNet are frozen."""

    figure = "lens_missed"
    metric_names: Sequence[str] = ("gold", "ranking", "attention", "counterfactual", "is_far")

    def __init__(
        self,
        config: LensNetTraining,
        base: FrozenBase,
        gistnet: GistNet,
        lens: LensNet,
        world: World,
    ) -> None:
        # Batches are made in forked workers; the tokenizer's own threads would not survive that.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self._config, self._base, self._gistnet, self._world = config, base, gistnet, world
        self._lens = lens
        self.model: nn.Module = lens
        tokenizer = load_tokenizer(Path(config.base))
        mark = fingerprint(tokenizer)
        self._streams = TokenStreams(open_shards(Path(config.shards), mark))
        size = gistnet.config.block_size
        self._writer = RecallWriter(tokenizer, "train", config.loop.seed, size)
        self._probe = AttentionProbe(base)
        heldout = TokenStreams(open_shards(Path(config.heldout), mark))
        self.judge = LensJudge(config.evaluation, base, gistnet, heldout, tokenizer, self._probe)
        self.eval_names: Sequence[str] = self.judge.names
        self._phase = config.phases[0]

    def shares(self) -> Sequence[float]:
        return [phase.share for phase in self._config.phases]

    def batches(self, phase: int) -> Dataset[dict[str, Tensor]]:
        return LensRows(
            self._config.phases[phase].states,
            self._streams,
            self._writer,
            block_size=self._gistnet.config.block_size,
            query_tokens=self._gistnet.config.keys.query_tokens,
            seed=self._config.loop.seed,
            phase=phase,
            rank=self._world.rank,
            accumulation=self._config.loop.accumulation,
        )

    def enter_phase(self, phase: int) -> None:
        self._phase = self._config.phases[phase]

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        with self._base.precision():
            return self._loss(batch)

    def _loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        zero = torch.zeros((), device=batch["levels"].device)
        figures = dict.fromkeys(self.metric_names, zero)
        if "gold" in batch:
            total, more = self._far(batch)
            figures["is_far"] = zero + 1
        else:
            total, more = self._near(batch)
        figures.update(more)
        return total, figures

    def evaluate(self) -> dict[str, float]:
        with self._base.precision():
            return self.judge.judge(self._lens)

    def _far(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        size = self._gistnet.config.block_size
        memory = remember(self._base, self._gistnet, batch["tokens"])
        seen = view(
            self._base,
            self._gistnet,
            self._lens,
            memory,
            batch["questions"],
            batch["levels"],
            batch["index"],
            batch["n_tokens"],
            None,
        )
        logits = seen.scores(self._lens)
        share = over_frontier(batch["gold"], seen.levels, batch["index"], size)
        gold, raw = share > 0.2, seen.levels == 0
        target = torch.where(raw, -0.7, -0.4)
        target = torch.where(gold, torch.where(raw, 0.3, 0.9), target)
        error = functional.huber_loss(torch.tanh(logits), target, reduction="none", delta=0.5)
        asks = (batch["gold"].sum(1, keepdim=True) > 0).expand_as(gold)
        hit, other = gold & seen.valid, ~gold & seen.valid & asks
        fit = (error * hit).sum() / hit.sum().clamp(min=1)
        fit = fit + (error * other).sum() / other.sum().clamp(min=1)
        coarse = seen.valid & ~raw
        # Plain text asks for nothing: how far an old gist may fall is open, rising is not.
        idle = coarse & ~asks
        fit = fit + (torch.tanh(logits).relu().square() * idle).sum() / idle.sum().clamp(min=1)
        open_rows = (gold & coarse).any(1)
        ranked = (logits * 3).masked_fill(~coarse, -1e4)
        chance = ranked.log_softmax(1).masked_fill(~(gold & coarse), -1e4).logsumexp(1)
        ranking = -(chance * open_rows).sum() / open_rows.sum().clamp(min=1)
        phase = self._phase
        return phase.gold * fit + phase.ranking * ranking, {"gold": fit, "ranking": ranking}

    def _near(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        phase, size = self._phase, self._gistnet.config.block_size
        horizon = phase.states.horizon
        tokens = batch["tokens"]
        history = tokens[:, :-horizon]
        memory = remember(self._base, self._gistnet, history)
        demand, hidden = self._probe.demand(tokens, horizon, size)
        # Which batches see hidden states follows from their tokens: nothing to save for resume.
        shown = float(int(tokens[0, 0]) % 16) / 16 < phase.hidden
        seen = view(
            self._base,
            self._gistnet,
            self._lens,
            memory,
            history[:, -self._gistnet.config.keys.query_tokens :],
            batch["levels"],
            batch["index"],
            batch["n_tokens"],
            hidden[:, :-horizon] if shown else None,
        )
        logits = seen.scores(self._lens)
        scores = torch.tanh(logits)
        target = attention_target(demand, seen.levels, batch["index"], seen.valid, size)
        error = functional.huber_loss(scores, target, reduction="none", delta=0.5)
        attention = (error * seen.valid).sum() / seen.valid.sum()
        saved = self._saved(batch, memory.gists, memory.upper)
        wanted = torch.tanh((saved - phase.price) / phase.scale)
        own = scores.gather(1, batch["candidates"])
        counterfactual = functional.huber_loss(own, wanted, delta=0.5)
        total = phase.attention * attention + phase.counterfactual * counterfactual
        return total, {"attention": attention, "counterfactual": counterfactual}

    def _saved(self, batch: dict[str, Tensor], gists: Tensor, upper: Tensor) -> Tensor:
        return saved_nll(self._base, batch, gists, upper, self._phase.states.horizon)


def attention_target(
    demand_RB: Tensor, levels_RN: Tensor, index_RN: Tensor, valid_RN: Tensor, size: int
) -> Tensor:
    """[R, N] in (-1, 1): positive where an entry holds a block that deserves to be raw.

    The mark is the demand of the block that would just fit: as many blocks deserve to be raw as
    are raw in this frontier.
    """
    raw = ((levels_RN == 0) & valid_RN).sum(1, keepdim=True)
    ordered = demand_RB.sort(dim=1, descending=True).values
    mark = ordered.gather(1, raw.clamp(max=demand_RB.shape[1] - 1)).clamp(min=1e-6)
    most = over_frontier(demand_RB, levels_RN, index_RN, size)
    return torch.tanh(0.7 * torch.log(most.clamp(min=1e-7) / mark))


def saved_nll(
    base: FrozenBase, batch: dict[str, Tensor], gists: Tensor, upper: Tensor, horizon: int
) -> Tensor:
    """NLL [R, C] in nats per coming token that each candidate's detail is worth.

    For a gist: what expanding it saves. For a raw block: what collapsing it costs.
    """
    raw = base.embed(batch["tokens"])
    table = torch.cat((raw, gists.to(raw.dtype), upper.to(raw.dtype)), dim=1)
    answer = batch["tokens"][:, -horizon:]
    nll = window_nll(base, table, batch["windows"], batch["lengths"], answer)
    return (nll[:, :1] - nll[:, 1:]) * batch["detail"]


def train_lensnet(
    config: LensNetTraining,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    export: Path | None = None,
) -> dict[str, float]:
    """Train by ``config``; checkpoints and metrics go to ``out``.

    Args:
        export: a folder that receives the network whenever it is judged best.

    Returns:
        The final held-out figures, those of retrieval alone among them.

    Raises:
        ModelError: base model or GistNet cannot be loaded or do not belong together.
    """
    world = join_world(device)
    torch.set_float32_matmul_precision("high")
    base = FrozenBase(BaseModel.load(config.base, device=str(world.device), dtype=config.dtype))
    gistnet, name = load_gistnet(Path(config.gistnet), base.embedding)
    gister = NetGister(gistnet, base.embedding, name)
    shape: dict[str, Any] = vars(config.net)
    lens = LensNet(
        LensNetConfig(
            gister.dim,
            gister.key_dim,
            gistnet.config.block_size,
            query_tokens=gistnet.config.keys.query_tokens,
            **shape,
        )
    )
    lens.init_weights(config.loop.seed)
    lens.to(world.device)
    task = LensTask(config, base, gister.net, lens, world)
    trainer = Trainer(task, config.loop, out, world)

    def exported(folder: Path, best: bool) -> None:
        if export is not None and best:
            save_lensnet(lens, export, gister)

    trainer.after_save = exported
    try:
        figures = trainer.run(resume)
    finally:
        world.leave()
    if world.is_main:
        checkpoint.write_json(out / "figures.json", figures)
    return figures
