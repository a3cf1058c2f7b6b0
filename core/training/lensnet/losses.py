"""LensNet's targets and losses: the expected utility of showing an entry raw.

Let p be the probability that a block is needed raw. The target of a gist is
p - (1 - p) * SLOT_VALUE: +1 if it is needed, -SLOT_VALUE if not, since the slot could hold another
block. The target of a raw block is -(1 - p) * SLOT_VALUE. A raw block therefore never scores below
-SLOT_VALUE, which is above the allocator's threshold for collapses: it is collapsed only in
exchange for an expansion, and the budget stays in use. Targets are probabilities and not expected
amounts, so they keep their scale where the future is uncertain, and one threshold fits all texts.

Retrieval states, which end in a question: gold blocks are needed raw, all others are not, and the
loss of a missed block is ``miss`` times that of a wrong one. A gist is therefore expanded if its
probability of being gold is above about 0.44 / ``miss``: many runners-up if the keys are
ambiguous, few if one block stands out. Probabilities are flatter in a wording that was not in the
training data, so the best matches are expanded in any case. Raw entries of these states have no
label, and keep the score that text states give them.

Text states, real text: a block is needed raw if the coming tokens demand it more than the block
that would just fit the budget. In addition, gists of a state are ranked by the NLL that expanding
them saves, and raw blocks by the NLL that collapsing them costs. These measurements are too noisy
to be regression targets.

Shapes: R states, B blocks, N frontier entries, C candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from megacontext.core.training.lensnet.inputs import max_pool_frontier, starts_of

__all__ = [
    "SLOT_VALUE",
    "blocks_that_fit",
    "prob_from_score",
    "prob_of_need",
    "ranking_loss",
    "retrieval_loss",
    "score_from_prob",
    "text_loss",
    "utility_loss",
]

SLOT_VALUE = 0.15
"""Utility of a slot in the window that nothing needs: less than tau_collapse in absolute value."""

RUNNER_UP_SCORE = 0.3
"""Lower bound of the targets of a question's best matches."""

_LOG_RATIO_SCALE = 2.4  # slope of the sigmoid over the log ratio of demand to the threshold


def score_from_prob(prob_RN: Tensor, levels_RN: Tensor) -> Tensor:
    """Target scores [R, N] of entries that are needed raw with these probabilities."""
    wasted = (1 - prob_RN) * SLOT_VALUE
    return torch.where(levels_RN == 0, -wasted, prob_RN - wasted)


def prob_from_score(scores_RN: Tensor, levels_RN: Tensor) -> Tensor:
    """The inverse of :func:`score_from_prob`; makes gists and raw blocks comparable."""
    gists = (scores_RN + SLOT_VALUE) / (1 + SLOT_VALUE)
    return torch.where(levels_RN == 0, 1 + scores_RN / SLOT_VALUE, gists)


def _scaled_square_error(scores_RN: Tensor, targets_RN: Tensor, levels_RN: Tensor) -> Tensor:
    """Squared error, divided by the range of the targets: raw blocks have a smaller one."""
    scale = torch.where(levels_RN == 0, SLOT_VALUE, 1 + SLOT_VALUE)
    return (scores_RN - targets_RN) ** 2 / scale


def blocks_that_fit(w_max_R: Tensor, blocks: int, size: int) -> Tensor:
    """[R]: raw blocks that fit a budget if all others are level-1 gists and K entries are free."""
    return ((w_max_R - size - blocks) / (size - 1)).clamp(min=2)


def prob_of_need(
    demand_RB: Tensor,
    levels_RN: Tensor,
    index_RN: Tensor,
    size: int,
    target_R: Tensor,
    hold: float = 0.0,
) -> Tensor:
    """[R, N] in (0, 1): above 1/2 if an entry covers a block that is needed raw.

    Args:
        demand_RB: demand of the coming tokens by block (:class:`.teacher.DemandEstimator`).
        target_R: number of blocks that are needed raw; the demand of the next one is the threshold.
        hold: hysteresis: log ratio by which raw blocks count more and gists less.
    """
    last = demand_RB.shape[1] - 1
    ordered = demand_RB.sort(dim=1, descending=True).values
    threshold = ordered.gather(1, target_R.long().clamp(1, last)[:, None]).clamp(min=1e-6)
    max_demand = max_pool_frontier(demand_RB, levels_RN, index_RN, size)
    log_ratio = torch.log(max_demand.clamp(min=1e-7) / threshold)
    return torch.sigmoid(_LOG_RATIO_SCALE * (log_ratio + torch.where(levels_RN == 0, hold, -hold)))


def text_loss(logits_RN: Tensor, prob_RN: Tensor, levels_RN: Tensor, valid_RN: Tensor) -> Tensor:
    """Squared error of the scores tanh(logits) against the targets of these probabilities."""
    error = _scaled_square_error(
        torch.tanh(logits_RN), score_from_prob(prob_RN, levels_RN), levels_RN
    )
    return (error * valid_RN).sum() / valid_RN.sum().clamp(min=1)


def utility_loss(logits_RC: Tensor, saved_RC: Tensor, levels_RC: Tensor, scale: float) -> Tensor:
    """Pairwise ranking loss of a state's candidates by the NLL that more detail saves.

    A pair's weight is the difference of its savings, which saturates at about ``scale`` nats. Gists
    are ranked among gists and raw blocks among raw blocks.
    """
    utility_RC = torch.tanh(saved_RC / scale)
    raw = levels_RC == 0
    difference = utility_RC[:, :, None] - utility_RC[:, None, :]
    scaled = logits_RC / torch.where(raw, SLOT_VALUE, 1.0)
    margin = scaled[:, :, None] - scaled[:, None, :]
    weight = difference.clamp(min=0) * (raw[:, :, None] == raw[:, None, :])
    cost = functional.softplus(-2 * margin) * weight
    return cost.sum() / weight.sum().clamp(min=1e-6)


def retrieval_loss(
    logits_RN: Tensor,
    gold_RN: Tensor,
    best_RN: Tensor,
    levels_RN: Tensor,
    index_RN: Tensor,
    valid_RN: Tensor,
    n_tokens_R: Tensor,
    questions_R: Tensor,
    near_tokens: int,
    size: int,
    miss: float,
) -> Tensor:
    """Error against the targets of retrieval states, in missed gold blocks per state.

    Args:
        gold_RN: bool, entries over asked facts. best_RN: bool, best matches of the question.
        questions_R: bool, whether the state ends in a question.
        near_tokens: history of text states; in plain text, blocks further back are not needed.
        miss: loss of a missed block as a multiple of that of a wrong one.
    """
    scores = torch.tanh(logits_RN)
    raw = levels_RN == 0
    ends = starts_of(levels_RN, index_RN, size) + size ** levels_RN.clamp(min=1)
    is_distant = n_tokens_R[:, None] - ends > near_tokens
    has_label = torch.where(questions_R[:, None], ~raw | gold_RN, is_distant)
    # Entries without a label have their own score as target, clamped to the legal range.
    unchanged = scores.detach().clamp(min=-SLOT_VALUE)
    targets = torch.where(has_label, score_from_prob(gold_RN.float(), levels_RN), unchanged)
    runners = best_RN & questions_R[:, None] & ~raw & ~gold_RN
    # Runners-up only need to be above the bound; the ranking loss keeps them below the gold.
    targets = torch.where(runners, unchanged.clamp(min=RUNNER_UP_SCORE), targets)
    weight = valid_RN * torch.where(gold_RN, miss, 1.0)
    error = _scaled_square_error(scores, targets, levels_RN) * weight
    return error.sum() / miss / valid_RN.any(1).sum().clamp(min=1)


def ranking_loss(logits_RN: Tensor, target_RN: Tensor, coarse_RN: Tensor) -> Tensor:
    """Cross-entropy that ranks every target gist, not only the best one, above all other gists.

    Args:
        target_RN: bool, gold gists; or weights, 0 for entries that are not targets.
    """
    open_R = (target_RN > 0).any(1)
    log_probs = (logits_RN * 3).masked_fill(~coarse_RN, -1e4).log_softmax(1)
    cross_entropy = -(log_probs * target_RN).sum(1) / target_RN.sum(1).clamp(min=1e-6)
    return (cross_entropy * open_R).sum() / open_R.sum().clamp(min=1)
