"""Held-out figures of a LensNet, beside ranking by index-key similarity alone.

* Far states (unseen keys, wordings and texts; kinds of scenes take turns). ``gold_raw``: from the
  frontier of a session's start, two refocuses at a question with the session's allocator and
  limits; are all blocks of all asked facts raw then? ``found``: two rounds from a frontier with
  every complete group at level 2: the best ``budget / 2`` entries are expanded, all are scored
  again, the best gists are expanded until ``budget`` is used.
  ``gold_raw_short``: the same over short histories, where the asked facts are a larger part of all.
  ``beside``: blocks that were opened for nothing; ``asked_utilization``: share of the budget in
  use afterwards.
* Near states: rank correlation with the demand of the coming tokens, and with the NLL that
  detail was measured to save; ``demand_top``: the share of what gists are demanded that lies
  under the four best of them.
* Plain text, walked through as by a session: see :mod:`.text_rollout`.

The best checkpoint has the lowest ``lens_missed``::

    1 - (gold_raw + gold_raw_short) / 2 - 0.2 * lens_nll_rho - 0.1 * lens_demand_top
        + 2 * (distance of swap_rate from 0.04 to 0.10) + 2 * max(0, 0.90 - residency)
        + 2 * max(0, 0.90 - utilization) + 2 * max(0, 0.90 - asked_utilization) + beside / 400

so a point of gold weighs as much as five hundredths of correlation with NLL, half a hundredth of
swap rate outside its band, or four blocks opened beside the asked facts. Sessions move more than
these walks; measured with one lens: 1.2 times over 8,192 tokens, 3 times over 50,000 of another
kind of text. So the band lies low.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from megacontext.core.config.settings import Count
from megacontext.core.data.recall.scenes import KINDS
from megacontext.core.data.recall.writer import RecallWriter
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.gistnet.module import GistNet
from megacontext.core.lensnet.module import LensNet
from megacontext.core.lensnet.sight import Stored
from megacontext.core.rng import generator
from megacontext.core.training.common.frozen_base import FrozenBase
from megacontext.core.training.lensnet.dataset import LensDataset, StateMix, frontier
from megacontext.core.training.lensnet.inputs import (
    build_lens_inputs,
    encode_histories,
    max_pool_frontier,
)
from megacontext.core.training.lensnet.losses import prob_from_score
from megacontext.core.training.lensnet.rollout import QUESTION, cold_levels, rollout
from megacontext.core.training.lensnet.teacher import DemandEstimator, token_nll, window_nll
from megacontext.core.training.lensnet.text_rollout import TextRollouts

__all__ = ["LensEvalConfig", "LensEvaluator"]

_WHO = ("lens", "similarity")
_WALKED = ("swap_rate", "residency", "utilization", "expands", "plain_gist_p99", "plain_raw_p05")
_NEAR_FIGURES = ("demand_rho", "demand_top", "nll_rho")
_BAND = (0.04, 0.10)
_TOP = 4


@dataclass(frozen=True)
class LensEvalConfig:
    """``far`` questions over ``far_blocks`` blocks in a window of ``w_max`` entries, and with each
    of ``budgets`` expansions (level 2 and level 1 together); half as many over ``short_blocks``;
    ``near`` states of real text; ``plain`` texts of ``plain_blocks`` blocks that the focus walks
    through (0: none)."""

    far: Count = 64
    far_blocks: Count = 2080
    short_blocks: Count = 128
    w_max: int = 1024
    budgets: tuple[Count, ...] = (24,)
    near: Count = 24
    plain: int = 6
    plain_blocks: Count = 112
    states: StateMix = field(default_factory=lambda: StateMix(candidates=12))
    seed: int = 0


class LensEvaluator:
    """Fixed held-out states, made once; their gists and keys are kept."""

    def __init__(
        self,
        config: LensEvalConfig,
        base: FrozenBase,
        gistnet: GistNet,
        streams: TokenStreams,
        tokenizer: Tokenizer,
        probe: DemandEstimator,
    ) -> None:
        self._config, self._base, self._gistnet, self._probe = config, base, gistnet, probe
        size = gistnet.config.block_size
        writer = RecallWriter(tokenizer, "heldout", config.seed, size)
        states = StateMix(
            **{
                **vars(config.states),
                "plain": 0.0,
                "canonical": 1.0,
            }
        )
        rows = LensDataset(
            states,
            streams,
            writer,
            block_size=size,
            query_tokens=gistnet.config.keys.query_tokens,
            seed=config.seed,
            phase=0,
            rank=0,
            accumulation=1,
        )

        # Fixed states: questions over long and short histories, then real text.
        self._far, self._near = [], []
        domains, kinds = streams.domains, sorted(KINDS)
        self._kinds = [kinds[i % len(kinds)] for i in range(config.far)]
        lengths = [config.far_blocks] * config.far + [config.short_blocks] * -(-config.far // 2)
        for i, blocks in enumerate(lengths):
            rng = generator(config.seed, "lens.judge.far", i)
            kind = kinds[i % len(kinds)]
            self._far.append(rows.far(rng, (i, 0, 0), blocks, domains[i % len(domains)], kind))
        for i in range(config.near):
            rng = generator(config.seed, "lens.judge.near", i)
            self._near.append(rows.near(rng, (i, 0, 0), domains[i % len(domains)]))

        # Plain text is walked through as a session would.
        self._walks = None
        if config.plain:
            self._walks = TextRollouts(
                base,
                gistnet,
                streams,
                config.plain,
                config.plain_blocks,
                config.w_max,
                config.seed,
            )
        self._memory: dict[int, Stored] = {}
        self.names = [
            "gold_raw",
            "gold_raw_short",
            "beside",
            "asked_utilization",
            *(f"gold_raw_{kind}" for kind in dict.fromkeys(self._kinds)),
            *(f"{who}_found_{b}" for who in _WHO for b in config.budgets),
            *(f"{who}_{label}" for who in _WHO for label in _NEAR_FIGURES),
            "positive_share",
            *_WALKED,
            "lens_missed",
        ]

    def evaluate(self, lens: LensNet) -> dict[str, float]:
        """All figures; ``lens_missed`` as the module says."""
        walked = [self._rollout(lens, i) for i in range(len(self._far))]
        raw = [hit for hit, _, _ in walked]
        far = self._config.far
        metrics = {
            "gold_raw": float(np.mean(raw[:far])),
            "gold_raw_short": float(np.mean(raw[far:])),
            "beside": float(np.mean([beside for _, beside, _ in walked])),
            "asked_utilization": float(np.mean([used for _, _, used in walked])),
        }
        for kind in dict.fromkeys(self._kinds):
            own = [
                hit for hit, theirs in zip(raw[:far], self._kinds, strict=True) if theirs == kind
            ]
            metrics[f"gold_raw_{kind}"] = float(np.mean(own))

        # Retrieval under a budget of expansions, beside the keys alone.
        for who in _WHO:
            for budget in self._config.budgets:
                matches = [self._found(lens, i, budget, who) for i in range(far)]
                metrics[f"{who}_found_{budget}"] = float(np.mean(matches))
        metrics.update(self._near_metrics(lens))

        # Everything that a checkpoint is chosen by, in one number.
        missing = 1 - (metrics["gold_raw"] + metrics["gold_raw_short"]) / 2
        missing -= 0.2 * metrics["lens_nll_rho"]
        missing -= 0.1 * metrics["lens_demand_top"]
        if self._walks is not None:
            metrics.update(self._walks.figures(lens))
            low, high = _BAND
            missing += 2 * max(low - metrics["swap_rate"], metrics["swap_rate"] - high, 0)
            missing += 2 * max(0.90 - metrics["residency"], 0)
            missing += 2 * max(0.90 - metrics["utilization"], 0)
        missing += 2 * max(0.90 - metrics["asked_utilization"], 0) + metrics["beside"] / 400
        metrics["lens_missed"] = missing
        return metrics

    @torch.no_grad()
    def _rollout(self, lens: LensNet, number: int) -> tuple[bool, int, float]:
        """After two refocuses at the question: (whether every gold block is raw, other blocks that
        were opened, share of the budget in use)."""
        case, config = self._far[number], self._config
        size, n_tokens = self._gistnet.config.block_size, int(case["n_tokens"])

        def score(levels: np.ndarray, index: np.ndarray) -> np.ndarray:
            logits = self._scores(lens, number, levels[0], index[0], "lens")
            scores: np.ndarray = np.tanh(logits)[None]
            return scores

        start = cold_levels(n_tokens, config.w_max, size)
        rounds = 2 * QUESTION.rounds
        levels, index = rollout(score, [start], [n_tokens], [config.w_max], size, rounds)
        raw = np.zeros(len(case["gold"]), bool)
        raw[index[0, levels[0] == 0]] = True
        gold = case["gold"] > 0
        first = len(gold) - int((start == 0).sum())  # raw blocks of a start are the newest
        used = np.where(levels[0] == 0, size, 1)[levels[0] >= 0].sum() + n_tokens % size
        beside = int((raw & ~gold)[:first].sum())
        return bool(raw[gold].all()), beside, float(used / config.w_max)

    def _remember(self, number: int) -> Stored:
        if number not in self._memory:
            tokens = torch.from_numpy(self._far[number]["tokens"])[None].to(self._base.device)
            self._memory[number] = encode_histories(self._base, self._gistnet, tokens)
        return self._memory[number]

    @torch.no_grad()
    def _found(self, lens: LensNet, number: int, budget: int, who: str) -> bool:
        """Whether the gold blocks are raw after two rounds of expansions from a cold start."""
        size, case = self._gistnet.config.block_size, self._far[number]
        blocks = len(case["gold"])
        level = np.full(blocks, 2)
        level[blocks // size * size :] = 1
        if (blocks // size) * size > blocks - 2:
            level[(blocks // size - 1) * size :] = 1
        level[-2:] = 0
        for part in (budget // 2, budget - budget // 2):
            levels, index = frontier(level, size)
            scores = self._scores(lens, number, levels, index, who)
            scores[levels == 0] = -np.inf
            for entry in np.argsort(-scores, kind="stable")[:part]:
                if not np.isfinite(scores[entry]):
                    break
                if levels[entry] == 2:
                    level[index[entry] * size : (index[entry] + 1) * size] = 1
                else:
                    level[index[entry]] = 0
        return bool((level[case["gold"] > 0] == 0).all())

    def _scores(
        self, lens: LensNet, number: int, levels: np.ndarray, index: np.ndarray, who: str
    ) -> np.ndarray:
        device = self._base.device
        seen = build_lens_inputs(
            self._base,
            self._gistnet,
            lens.config,
            self._remember(number),
            torch.from_numpy(self._far[number]["questions"])[None].to(device),
            torch.from_numpy(levels)[None].to(device),
            torch.from_numpy(index)[None].to(device),
            torch.from_numpy(self._far[number]["n_tokens"])[None].to(device),
        )
        found = seen.similarity if who == "similarity" else seen.logits(lens)
        result: np.ndarray = found[0].float().cpu().numpy()
        return result

    @torch.no_grad()
    def _near_metrics(self, lens: LensNet) -> dict[str, float]:
        size, device = self._gistnet.config.block_size, self._base.device
        horizon = self._config.states.horizon
        found: dict[str, list[float]] = {f"{w}_{k}": [] for w in _WHO for k in _NEAR_FIGURES}
        positive = []
        for case in self._near:
            batch = {k: torch.from_numpy(np.asarray(v))[None].to(device) for k, v in case.items()}
            tokens = batch["tokens"]
            memory = encode_histories(self._base, self._gistnet, tokens[:, :-horizon])
            demand, hidden = self._probe.demand(tokens, horizon, size)
            seen = build_lens_inputs(
                self._base,
                self._gistnet,
                lens.config,
                memory,
                tokens[:, :-horizon][:, -self._gistnet.config.keys.query_tokens :],
                batch["levels"],
                batch["index"],
                batch["n_tokens"],
                hidden[:, :-horizon],
                token_nll(self._base, hidden, tokens)[:, :-horizon],
            )

            # What each candidate's detail is worth, measured.
            raw = self._base.embed(tokens)
            table = torch.cat((raw, *(part.to(raw.dtype) for part in memory.gists[:2])), 1)
            nll = window_nll(
                self._base, table, batch["windows"], batch["lengths"], tokens[:, -horizon:]
            )
            saved = ((nll[:, :1] - nll[:, 1:]) * batch["detail"])[0]

            # Scores against the estimated demand, and against what was measured.
            most = max_pool_frontier(demand, seen.levels, batch["index"], size)[0]
            picked = batch["candidates"][0]
            scores = torch.tanh(seen.logits(lens))
            positive.append(float((scores > QUESTION.tau_expand).float().mean()))
            needs = prob_from_score(scores, seen.levels)[0]
            for who, values in (("lens", needs), ("similarity", seen.similarity[0])):
                found[f"{who}_demand_rho"].append(_rank_correlation(values, most))
                if float((most * (seen.levels[0] > 0)).sum()) > 0:
                    top = _demand_under_best(values, most, seen.levels[0] > 0)
                    found[f"{who}_demand_top"].append(top)
                found[f"{who}_nll_rho"].append(_rank_correlation(values[picked], saved))
        metrics = {k: float(np.mean(v)) if v else 0.0 for k, v in found.items()}
        return {**metrics, "positive_share": float(np.mean(positive))}


def _demand_under_best(values_N: Tensor, demand_N: Tensor, gists_N: Tensor) -> float:
    """Share of the gists' demand under those with the highest values."""
    values, demand = values_N[gists_N], demand_N[gists_N]
    best = values.topk(min(_TOP, len(values))).indices
    return float(demand[best].sum() / demand.sum())


def _rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's rho; equal values share the mean of their ranks. 0 where all are equal."""
    ranks = []
    for values in (a, b):
        given = values.float().cpu().numpy()
        _, group, counts = np.unique(given, return_inverse=True, return_counts=True)
        ranks.append((counts.cumsum() - (counts - 1) / 2)[group])
    rho = float(torch.corrcoef(torch.from_numpy(np.stack(ranks)))[0, 1])
    return rho if math.isfinite(rho) else 0.0
