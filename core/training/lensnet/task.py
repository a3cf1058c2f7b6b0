"""Training a LensNet on a frozen base model and a trained GistNet.

Two kinds of batch alternate (:mod:`.dataset`), each with its own targets
(:mod:`.losses`): retrieval states (``far`` in the config), long histories that end in a question
or in plain text, and text states (``near``), real text with the tokens that came next. Frontiers
are random, or a session's first one; with ``states.rounds`` the allocator then changes them by this
lens's own scores. Both kinds are evaluated in :mod:`.evaluate`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from megacontext.core.data.recall.writer import RecallWriter
from megacontext.core.data.recorded_states import RecordedStates
from megacontext.core.data.shards import open_shards
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.data.tokenizer import fingerprint, load_tokenizer
from megacontext.core.focus import Limits
from megacontext.core.gistnet.gister import NetGister, load_gistnet
from megacontext.core.gistnet.module import GistNet
from megacontext.core.lensnet.inputs import LensInputs
from megacontext.core.lensnet.lens import save_lensnet, start_from
from megacontext.core.lensnet.module import LensNet, LensNetConfig
from megacontext.core.model.base import BaseModel
from megacontext.core.training.common.frozen_base import FrozenBase
from megacontext.core.training.lensnet.config import LensNetTraining, LensPhase, LensShape
from megacontext.core.training.lensnet.dataset import LensDataset
from megacontext.core.training.lensnet.evaluate import LensEvaluator
from megacontext.core.training.lensnet.inputs import (
    build_lens_inputs,
    encode_histories,
    max_pool_frontier,
)
from megacontext.core.training.lensnet.losses import (
    blocks_that_fit,
    prob_of_need,
    ranking_loss,
    retrieval_loss,
    text_loss,
    utility_loss,
)
from megacontext.core.training.lensnet.rollout import PLAIN, QUESTION, rollout
from megacontext.core.training.lensnet.teacher import make_demand_estimator, token_nll, window_nll
from megacontext.core.training.loop.distributed import DistributedContext, join_world
from megacontext.core.training.loop.run_task import run_task

__all__ = ["LensNetTraining", "LensPhase", "LensShape", "LensTask", "train_lensnet"]

InputsAt = Callable[[Tensor, Tensor], LensInputs]
"""What the lens reads of a batch's states at (levels, index) int64[R, N]."""


class LensTask:
    """The lens alone; base model and GistNet are frozen."""

    eval_metric = "lens_missed"
    metric_names: Sequence[str] = ("gold", "ranking", "demand", "counterfactual", "is_far")

    def __init__(
        self,
        config: LensNetTraining,
        base: FrozenBase,
        gistnet: GistNet,
        lens: LensNet,
        world: DistributedContext,
    ) -> None:
        # Batches are made in forked workers; the tokenizer's own threads would not survive that.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self._config, self._base, self._gistnet, self._world = config, base, gistnet, world
        self._lens = lens
        self.model: nn.Module = lens
        tokenizer = load_tokenizer(Path(config.base))
        self._tokenizer_mark = mark = fingerprint(tokenizer)
        self._streams = TokenStreams(open_shards(Path(config.shards), mark))
        size = gistnet.config.block_size
        self._writer = RecallWriter(tokenizer, "train", config.loop.seed, size)
        self._probe = make_demand_estimator(config.teacher, base)
        heldout = TokenStreams(open_shards(Path(config.heldout), mark))
        self.evaluator = LensEvaluator(
            config.evaluation, base, gistnet, heldout, tokenizer, self._probe
        )
        self.eval_names: Sequence[str] = self.evaluator.names
        self._phase = config.phases[0]

    def phase_fractions(self) -> Sequence[float]:
        return [phase.share for phase in self._config.phases]

    def dataset(self, phase: int) -> Dataset[dict[str, Tensor]]:
        states, size = self._config.phases[phase].states, self._gistnet.config.block_size
        return LensDataset(
            states,
            self._streams,
            self._writer,
            block_size=size,
            query_tokens=self._gistnet.config.keys.query_tokens,
            seed=self._config.loop.seed,
            phase=phase,
            rank=self._world.rank,
            accumulation=self._config.loop.accumulation,
            recorded=self._recorded(states.near_blocks, states.horizon),
        )

    def _recorded(self, blocks: int, horizon: int) -> RecordedStates | None:
        """The recorded states that the config names, of these sizes."""
        if not self._config.recorded:
            return None
        return RecordedStates.open(
            Path(self._config.recorded),
            tokenizer=self._tokenizer_mark,
            block_size=self._gistnet.config.block_size,
            blocks=blocks,
            horizon=horizon,
        )

    def on_phase_start(self, phase: int) -> None:
        self._phase = self._config.phases[phase]

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        with self._base.precision():
            return self._loss(batch)

    def _loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        zero = torch.zeros((), device=batch["levels"].device)
        metrics = dict.fromkeys(self.metric_names, zero)
        if "gold" in batch:
            total, losses = self._retrieval_batch_loss(batch)
            metrics["is_far"] = zero + 1
        else:
            total, losses = self._text_batch_loss(batch)
        metrics.update(losses)
        return total, metrics

    def evaluate(self) -> dict[str, float]:
        with self._base.precision():
            return self.evaluator.evaluate(self._lens)

    def _shows_hidden_states(self, tokens: Tensor) -> bool:
        # Chosen by a hash of the batch's tokens, so that there is no state to checkpoint.
        return float(int(tokens[0, 0]) % 16) / 16 < self._phase.hidden

    def _retrieval_batch_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        size = self._gistnet.config.block_size
        memory = encode_histories(self._base, self._gistnet, batch["tokens"])
        hidden = None
        if self._shows_hidden_states(batch["tokens"]):
            with torch.no_grad():
                hidden = self._base.hidden(self._base.embed(batch["recent"]))
        surprisal = batch["surprisal"].repeat_interleave(size, dim=1)

        def inputs_at(levels: Tensor, index: Tensor) -> LensInputs:
            return build_lens_inputs(
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

        fit, ranks = self._retrieval_losses(batch, batch["levels"], batch["index"], inputs_at)
        if int(batch["rounds"][0]):
            after = self._after_rollout(batch, inputs_at, QUESTION)
            later = self._retrieval_losses(batch, *after, inputs_at)
            fit, ranks = (fit + later[0]) / 2, (ranks + later[1]) / 2
        phase = self._phase
        return phase.gold * fit + phase.ranking * ranks, {"gold": fit, "ranking": ranks}

    def _retrieval_losses(
        self, batch: dict[str, Tensor], levels: Tensor, index: Tensor, inputs_at: InputsAt
    ) -> tuple[Tensor, Tensor]:
        """(error against the targets, ranking loss of the gold) for one frontier per state."""
        phase, size = self._phase, self._gistnet.config.block_size
        inputs = inputs_at(levels, index)
        logits = inputs.logits(self._lens)
        gold = max_pool_frontier(batch["gold"], inputs.levels, index, size) > 0
        fit = retrieval_loss(
            logits,
            gold & inputs.valid,
            inputs.count_better() < phase.runners,
            inputs.levels,
            index,
            inputs.valid,
            batch["n_tokens"],
            batch["gold"].sum(1) > 0,
            phase.states.near_blocks * size,
            size,
            phase.miss,
        )
        coarse = inputs.valid & (inputs.levels > 0)
        return fit, ranking_loss(logits, gold & coarse, coarse)

    def _after_rollout(
        self, batch: dict[str, Tensor], inputs_at: InputsAt, limits: Limits
    ) -> tuple[Tensor, Tensor]:
        """The frontiers after the allocator's rounds by this lens's scores."""
        device = batch["levels"].device

        @torch.no_grad()
        def score(levels: np.ndarray, index: np.ndarray) -> np.ndarray:
            positions = (torch.from_numpy(part).to(device) for part in (levels, index))
            scores: np.ndarray = torch.tanh(inputs_at(*positions).logits(self._lens)).cpu().numpy()
            return scores

        rows = batch["levels"].cpu().numpy()
        states = rollout(
            score,
            [row[row >= 0] for row in rows],
            batch["n_tokens"].tolist(),
            batch["w_max"].tolist(),
            self._gistnet.config.block_size,
            int(batch["rounds"][0]),
            limits,
        )
        levels, index = (torch.from_numpy(part).to(device) for part in states)
        return levels, index

    def _text_batch_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        phase, size = self._phase, self._gistnet.config.block_size
        horizon = phase.states.horizon
        tokens = batch["tokens"]
        history = tokens[:, :-horizon]
        memory = encode_histories(self._base, self._gistnet, history)
        demand, hidden = self._probe.demand(tokens, horizon, size)
        shows_hidden = self._shows_hidden_states(tokens)
        before = hidden[:, :-horizon] if shows_hidden else None
        surprisal = token_nll(self._base, hidden, tokens)[:, :-horizon] if shows_hidden else None
        latest = history[:, -self._gistnet.config.keys.query_tokens :]
        target = phase.appetite * blocks_that_fit(batch["w_max"], demand.shape[1], size)

        def inputs_at(levels: Tensor, index: Tensor) -> LensInputs:
            return build_lens_inputs(
                self._base,
                self._gistnet,
                self._lens.config,
                memory,
                latest,
                levels,
                index,
                batch["n_tokens"],
                before,
                surprisal,
            )

        def fit(levels: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            inputs = inputs_at(levels, index)
            logits = inputs.logits(self._lens)
            prob = prob_of_need(demand, inputs.levels, index, size, target, phase.hold)
            demand_loss = text_loss(logits, prob, inputs.levels, inputs.valid)
            coarse = inputs.valid & (inputs.levels > 0)
            max_demand = max_pool_frontier(demand, inputs.levels, index, size)
            return logits, demand_loss, ranking_loss(logits, max_demand * coarse, coarse)

        logits, demand_loss, ranks = fit(batch["levels"], batch["index"])
        if int(batch["rounds"][0]):
            later = fit(*self._after_rollout(batch, inputs_at, PLAIN))
            demand_loss, ranks = (demand_loss + later[1]) / 2, (ranks + later[2]) / 2
        total = phase.demand * demand_loss + phase.near_ranking * ranks
        metrics = {"demand": demand_loss, "ranking": ranks}
        if phase.counterfactual:
            saved = self._saved(batch, memory.gists[0], memory.gists[1])
            candidate_logits, levels = (
                x.gather(1, batch["candidates"]) for x in (logits, batch["levels"])
            )
            metrics["counterfactual"] = utility_loss(candidate_logits, saved, levels, phase.scale)
            total = total + phase.counterfactual * metrics["counterfactual"]
        return total, metrics

    def _saved(self, batch: dict[str, Tensor], gists: Tensor, upper: Tensor) -> Tensor:
        return saved_nll(self._base, batch, gists, upper, self._phase.states.horizon)


def saved_nll(
    base: FrozenBase, batch: dict[str, Tensor], gists: Tensor, upper: Tensor, horizon: int
) -> Tensor:
    """NLL [R, C] in nats per coming token that each candidate's detail saves.

    For a gist: the decrease if it is expanded. For a raw block: the increase if it is collapsed.
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
        init: a LensNet folder to start from, of this GistNet or an earlier one; its sizes are kept.
        export: a folder that receives the network whenever it is judged best.

    Returns:
        The final held-out figures, those of retrieval alone among them.

    Raises:
        ModelError: base model or GistNet cannot be loaded or do not belong together.
    """
    world = join_world(device)
    torch.set_float32_matmul_precision("high")
    base = FrozenBase(
        BaseModel.load(
            config.base,
            device=str(world.device),
            dtype=config.dtype,
            adapter=config.adapter or None,
        )
    )
    gistnet, name = load_gistnet(Path(config.gistnet), base.embedding)
    encoder = NetGister(gistnet, base.embedding, name)
    shape: dict[str, Any] = vars(config.net)
    lens = LensNet(
        LensNetConfig(
            encoder.dim,
            encoder.key_dim,
            gistnet.config.block_size,
            query_tokens=gistnet.config.keys.query_tokens,
            **shape,
        )
    )
    lens.init_weights(config.loop.seed)
    if init is not None:
        lens = start_from(init, lens.config)
    lens.to(world.device)
    task = LensTask(config, base, encoder.net, lens, world)

    def save_best(_: Path) -> None:
        if export is not None:
            save_lensnet(lens, export, encoder)

    return run_task(task, config.loop, out, world, resume=resume, export=save_best)
