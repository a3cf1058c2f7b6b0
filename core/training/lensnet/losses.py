"""What LensNet's scores aim at: what an entry's detail is worth, as a chance.

With p for the chance that a block *deserves to be raw*, a gist aims at p - (1 - p) * ROOM: all of
it is gained if it is opened rightly; opened wrongly, the room is lost that something else could
have had. A raw block aims at -(1 - p) * ROOM, for the same reason: dull as it may be, what stands
empty beside it is worth no more. So nothing scores below the allocator's threshold for folding, an
entry gives way only to one that wants its place, and the budget stays in use. As a chance and not
as an expected amount a score does not shrink to nothing where the future is uncertain, so the
thresholds mean something in any text.

Far states, where something is asked for: gold blocks deserve to be raw, no other does, and a missed
one weighs as much as ``miss`` wrong ones. So a gist opens where its chance of being gold is above
about 0.44 / ``miss``: many runners-up where keys leave it open what is meant, few where one block
stands out. In a wording that training never saw these chances are flatter, so the few best matches
open in any case. What is raw there may keep what plain text says of it.

Near states, real text: a block deserves to be raw if the coming tokens demand it more than the
block that would just fit the budget. Beside it, gists of a state are ranked by the NLL that
opening them was measured to save, raw blocks by what folding them costs: too noisy a figure to be
aimed at by its amount.

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
    "far_loss",
    "near_loss",
    "prob_from_score",
    "prob_of_need",
    "ranking_loss",
    "score_from_prob",
    "utility_loss",
]

SLOT_VALUE = 0.15
"""What a place in the window is worth at most while nothing asks for it; below tau_collapse."""

_RUNNER = 0.3  # scores of the best matches of a question lie above it

_SHARP = 2.4  # how soon a log ratio of demand to the mark is a clear case


def score_from_prob(chance_RN: Tensor, levels_RN: Tensor) -> Tensor:
    """Scores [R, N] of entries that deserve to be raw with these chances."""
    wasted = (1 - chance_RN) * SLOT_VALUE
    return torch.where(levels_RN == 0, -wasted, chance_RN - wasted)


def prob_from_score(scores_RN: Tensor, levels_RN: Tensor) -> Tensor:
    """The inverse of :func:`score_from_prob`, by which gists and raw blocks can be compared."""
    gists = (scores_RN + SLOT_VALUE) / (1 + SLOT_VALUE)
    return torch.where(levels_RN == 0, 1 + scores_RN / SLOT_VALUE, gists)


def _apart(scores_RN: Tensor, aims_RN: Tensor, levels_RN: Tensor) -> Tensor:
    """Squared error, least at the expected worth; raw blocks, whose scores lie close together,
    weigh more."""
    reach = torch.where(levels_RN == 0, SLOT_VALUE, 1 + SLOT_VALUE)
    return (scores_RN - aims_RN) ** 2 / reach


def blocks_that_fit(w_max_R: Tensor, blocks: int, size: int) -> Tensor:
    """[R]: raw blocks that a budget holds beside level-1 gists of all others and K free entries."""
    return ((w_max_R - size - blocks) / (size - 1)).clamp(min=2)


def prob_of_need(
    demand_RB: Tensor,
    levels_RN: Tensor,
    index_RN: Tensor,
    size: int,
    target_R: Tensor,
    hold: float = 0.0,
) -> Tensor:
    """[R, N] in (0, 1): above a half where an entry holds a block that deserves to be raw.

    Args:
        demand_RB: what the coming tokens need of each block (:class:`.teacher.DemandEstimator`).
        target_R: how many blocks deserve to be raw; the next one's demand is the mark.
        hold: log ratio by which raw blocks count more and gists less.
    """
    last = demand_RB.shape[1] - 1
    ordered = demand_RB.sort(dim=1, descending=True).values
    mark = ordered.gather(1, target_R.long().clamp(1, last)[:, None]).clamp(min=1e-6)
    most = max_pool_frontier(demand_RB, levels_RN, index_RN, size)
    beyond = torch.log(most.clamp(min=1e-7) / mark)
    return torch.sigmoid(_SHARP * (beyond + torch.where(levels_RN == 0, hold, -hold)))


def near_loss(logits_RN: Tensor, chance_RN: Tensor, levels_RN: Tensor, valid_RN: Tensor) -> Tensor:
    """Fit of the scores tanh(logits) to what these chances are worth."""
    error = _apart(torch.tanh(logits_RN), score_from_prob(chance_RN, levels_RN), levels_RN)
    return (error * valid_RN).sum() / valid_RN.sum().clamp(min=1)


def utility_loss(logits_RC: Tensor, saved_RC: Tensor, levels_RC: Tensor, scale: float) -> Tensor:
    """Ranks a state's candidates by the NLL that more detail saved: pairs weigh by how far they
    are apart, up to about ``scale``. Gists are ranked among gists and raw blocks among raw ones."""
    worth_RC = torch.tanh(saved_RC / scale)
    raw = levels_RC == 0
    apart = worth_RC[:, :, None] - worth_RC[:, None, :]
    spread = logits_RC / torch.where(raw, SLOT_VALUE, 1.0)
    ahead = spread[:, :, None] - spread[:, None, :]
    weight = apart.clamp(min=0) * (raw[:, :, None] == raw[:, None, :])
    cost = functional.softplus(-2 * ahead) * weight
    return cost.sum() / weight.sum().clamp(min=1e-6)


def far_loss(
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
    """Fit to the targets of far states, in missed gold blocks a state.

    Args:
        gold_RN: bool, entries over asked facts. best_RN: bool, those that match a question best.
        questions_R: bool, whether something is asked for.
        near_tokens: reach of near states; what lies farther back in plain text deserves nothing.
        miss: wrong blocks that one missed block weighs as much as.
    """
    scores = torch.tanh(logits_RN)
    raw = levels_RN == 0
    ends = starts_of(levels_RN, index_RN, size) + size ** levels_RN.clamp(min=1)
    beyond = n_tokens_R[:, None] - ends > near_tokens
    known = torch.where(questions_R[:, None], ~raw | gold_RN, beyond)
    # What these states say nothing of keeps its score, within what any score may be.
    kept = scores.detach().clamp(min=-SLOT_VALUE)
    aims = torch.where(known, score_from_prob(gold_RN.float(), levels_RN), kept)
    runners = best_RN & questions_R[:, None] & ~raw & ~gold_RN
    # Anywhere above the bar: the ranking keeps them behind the gold.
    aims = torch.where(runners, kept.clamp(min=_RUNNER), aims)
    weight = valid_RN * torch.where(gold_RN, miss, 1.0)
    error = _apart(scores, aims, levels_RN) * weight
    return error.sum() / miss / valid_RN.any(1).sum().clamp(min=1)


def ranking_loss(logits_RN: Tensor, target_RN: Tensor, coarse_RN: Tensor) -> Tensor:
    """Every wanted gist comes before all other gists, not just the best of them.

    Args:
        target_RN: bool, gold gists; or how much each is wanted, 0 for what is no gist.
    """
    open_R = (target_RN > 0).any(1)
    ranked = (logits_RN * 3).masked_fill(~coarse_RN, -1e4).log_softmax(1)
    missing = -(ranked * target_RN).sum(1) / target_RN.sum(1).clamp(min=1e-6)
    return (missing * open_R).sum() / open_R.sum().clamp(min=1)
