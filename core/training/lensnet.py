"""Training a LensNet on a frozen base model and a trained GistNet.

Targets lie in [-1, 1] like the scores:

* far states: gists over a gold block +0.9, a gold block that is raw already +0.5. Where something
  is asked for, the runners-up by similarity are worth opening too, after the gold: a wrong block
  costs a few entries, a missed one the answer. All else is what a recency prior gives it: within
  the thresholds, so that nothing moves but what is asked for, and the oldest pays. The states are
  those that a session starts with, random ones, and (from ``states.rounds`` on) those that the
  allocator made of them by this lens's own scores;
* near states, all entries: how the attention that the coming tokens pay to an entry's most read
  block compares with the block that would just fit the budget, on a log scale that is flat
  around the mark (hysteresis);
* near states, the changed entries: the NLL that showing more detail saved, against a price.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from megacontext.core.data.recall import RecallWriter
from megacontext.core.data.shards import open_shards
from megacontext.core.data.tokenizer import fingerprint, load_tokenizer
from megacontext.core.gistnet.gister import NetGister, load_gistnet
from megacontext.core.gistnet.module import GistNet
from megacontext.core.lensnet.lens import load_lensnet, save_lensnet
from megacontext.core.lensnet.module import LensNet, LensNetConfig
from megacontext.core.lensnet.sight import LensInputs
from megacontext.core.model.base import BaseModel
from megacontext.core.training import checkpoint
from megacontext.core.training.distributed import World, join_world
from megacontext.core.training.gistnet_base import FrozenBase
from megacontext.core.training.lensnet_eyes import over_frontier, remember, view
from megacontext.core.training.lensnet_judge import LensJudge, LensJudgeConfig
from megacontext.core.training.lensnet_states import LensRows, StateMix
from megacontext.core.training.lensnet_targets import attention_target, recency_target
from megacontext.core.training.lensnet_teacher import AttentionProbe, token_nll, window_nll
from megacontext.core.training.lensnet_walk import walk
from megacontext.core.training.mixture import TokenStreams
from megacontext.core.training.trainer import LoopConfig, Trainer
from megacontext.traces.errors import ConfigError

__all__ = ["LensNetTraining", "LensPhase", "LensShape", "LensTask", "train_lensnet"]

_WISH = 0.1  # scores of what is not asked for stay below it, well below the bar of 0.2
_RUNNER = 0.35  # scores of runners-up


@dataclass(frozen=True)
class LensPhase:
    """One stage.

    Attributes:
        share: part of the budget.
        attention, counterfactual, gold, ranking: weights of the targets above and of the loss
            that ranks gold entries before all other gists.
        price: NLL in nats per coming token that an expansion has to save.
        scale: NLL that moves the counterfactual target from 0 to tanh(1).
        hidden: chance that a batch shows the base model's hidden states and surprisal.
        runners: how many blocks that match a question best, or stand beside one that does, are to
            be opened even if they are not gold.
    """

    share: float
    attention: float = 0.5
    counterfactual: float = 1.0
    gold: float = 1.0
    ranking: float = 0.3
    price: float = 0.003
    scale: float = 0.02
    hidden: float = 0.5
    runners: int = 14
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

    def _shown(self, tokens: Tensor) -> bool:
        # Which batches see hidden states follows from their tokens: nothing to save for resume.
        return float(int(tokens[0, 0]) % 16) / 16 < self._phase.hidden

    def _far(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        size = self._gistnet.config.block_size
        memory = remember(self._base, self._gistnet, batch["tokens"])
        hidden = None
        if self._shown(batch["tokens"]):
            with torch.no_grad():
                hidden = self._base.hidden(self._base.embed(batch["recent"]))
        surprisal = batch["surprisal"].repeat_interleave(size, dim=1)

        def seen_at(levels: Tensor, index: Tensor) -> LensInputs:
            return view(
                self._base,
                self._gistnet,
                self._lens.config,
                memory,
                batch["questions"],
                levels,
                index,
                batch["n_tokens"],
                hidden,
                surprisal,
            )

        fit, ranking = self._far_loss(batch, batch["levels"], batch["index"], seen_at)
        if int(batch["rounds"][0]):
            later = self._far_loss(batch, *self._moved(batch, seen_at), seen_at)
            fit, ranking = (fit + later[0]) / 2, (ranking + later[1]) / 2
        phase = self._phase
        return phase.gold * fit + phase.ranking * ranking, {"gold": fit, "ranking": ranking}

    def _far_loss(
        self,
        batch: dict[str, Tensor],
        levels: Tensor,
        index: Tensor,
        seen_at: Callable[[Tensor, Tensor], LensInputs],
    ) -> tuple[Tensor, Tensor]:
        """(fit to the targets, loss that ranks gold before all else) over one frontier a state."""
        size = self._gistnet.config.block_size
        seen = seen_at(levels, index)
        logits = seen.logits(self._lens)
        scores = torch.tanh(logits)
        gold = over_frontier(batch["gold"], seen.levels, index, size) > 0
        asks = batch["gold"].sum(1, keepdim=True) > 0
        coarse = seen.valid & (seen.levels > 0)
        runner = (seen.place() < self._phase.runners) & asks & seen.valid & ~gold
        target = recency_target(seen.levels, index, batch["n_tokens"], size)
        target = torch.where(gold, torch.where(coarse, 0.9, 0.5), target)
        # A runner-up may lie anywhere above its bar; the ranking keeps it behind the gold.
        target = torch.where(
            runner, scores.detach().clamp(min=_RUNNER).where(coarse, target.clamp(min=0)), target
        )
        error = functional.huber_loss(scores, target, reduction="none", delta=0.5)
        rest = seen.valid & ~gold & ~runner
        fit = sum(
            ((error * part).sum() / part.sum().clamp(min=1) for part in (gold & seen.valid, rest)),
            0.5 * (error * runner).sum() / runner.sum().clamp(min=1),
        )
        # What is wrongly opened costs the budget of what is asked for.
        wrong = scores.sub(_WISH).relu() * (rest & coarse)
        fit = fit + wrong.sum() / (wrong > 0).sum().clamp(min=8)
        wanted = gold & coarse
        open_rows = wanted.any(1)
        ranked = (logits * 3).masked_fill(~coarse, -1e4).log_softmax(1)
        # Every gold entry has to come before all others, not just the best of them.
        missed = -(ranked * wanted).sum(1) / wanted.sum(1).clamp(min=1)
        return fit, (missed * open_rows).sum() / open_rows.sum().clamp(min=1)

    def _moved(
        self, batch: dict[str, Tensor], seen_at: Callable[[Tensor, Tensor], LensInputs]
    ) -> tuple[Tensor, Tensor]:
        """The states after the allocator's rounds by this lens's scores."""
        device = batch["levels"].device

        @torch.no_grad()
        def score(levels: np.ndarray, index: np.ndarray) -> np.ndarray:
            places = (torch.from_numpy(part).to(device) for part in (levels, index))
            scores: np.ndarray = torch.tanh(seen_at(*places).logits(self._lens)).cpu().numpy()
            return scores

        rows = batch["levels"].cpu().numpy()
        made = walk(
            score,
            [row[row >= 0] for row in rows],
            batch["n_tokens"].tolist(),
            batch["w_max"].tolist(),
            self._gistnet.config.block_size,
            int(batch["rounds"][0]),
        )
        levels, index = (torch.from_numpy(part).to(device) for part in made)
        return levels, index

    def _near(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        phase, size = self._phase, self._gistnet.config.block_size
        horizon = phase.states.horizon
        tokens = batch["tokens"]
        history = tokens[:, :-horizon]
        memory = remember(self._base, self._gistnet, history)
        demand, hidden = self._probe.demand(tokens, horizon, size)
        shown = self._shown(tokens)
        seen = view(
            self._base,
            self._gistnet,
            self._lens.config,
            memory,
            history[:, -self._gistnet.config.keys.query_tokens :],
            batch["levels"],
            batch["index"],
            batch["n_tokens"],
            hidden[:, :-horizon] if shown else None,
            token_nll(self._base, hidden, tokens)[:, :-horizon] if shown else None,
        )
        logits = seen.logits(self._lens)
        scores = torch.tanh(logits)
        target = attention_target(demand, seen.levels, batch["index"], seen.valid, size)
        error = functional.huber_loss(scores, target, reduction="none", delta=0.5)
        attention = (error * seen.valid).sum() / seen.valid.sum()
        total = phase.attention * attention
        figures = {"attention": attention}
        if phase.counterfactual:
            saved = self._saved(batch, memory.gists[0], memory.gists[1])
            wanted = torch.tanh((saved - phase.price) / phase.scale)
            own = scores.gather(1, batch["candidates"])
            figures["counterfactual"] = functional.huber_loss(own, wanted, delta=0.5)
            total = total + phase.counterfactual * figures["counterfactual"]
        return total, figures

    def _saved(self, batch: dict[str, Tensor], gists: Tensor, upper: Tensor) -> Tensor:
        return saved_nll(self._base, batch, gists, upper, self._phase.states.horizon)


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
    init: Path | None = None,
    export: Path | None = None,
) -> dict[str, float]:
    """Train by ``config``; checkpoints and metrics go to ``out``.

    Args:
        init: a LensNet folder of this GistNet to start from; its sizes are kept.
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
    if init is not None:
        lens = load_lensnet(init, gister)[0].train().requires_grad_(True)
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
