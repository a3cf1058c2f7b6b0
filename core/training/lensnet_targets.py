"""What LensNet's scores aim at.

Far states, where something is asked for: gists over a gold block +0.9, a gold block that is raw
already +0.5; the runners-up by similarity are worth opening too, after the gold: a wrong block
costs a few entries, a missed one the answer. No other gist is to open. Raw blocks may be worth
what they like, but none enough to use up a refocus's actions before the gold opens.

Near states, real text: a block *deserves to be raw* if the coming tokens attend to it more than
to the block that would just fit the budget. With p for the chance of that, the score aims at
2 p - 1: a gist opens where p is above 0.6, a raw block may go where p is below 0.4. As a chance
and not as an expected amount it does not shrink to nothing where the future is uncertain, so the
thresholds mean something in any text. Beside it, entries of a state are ranked by the NLL that
more detail was measured to save: too noisy a figure to be aimed at by its amount.

Shapes: R states, B blocks, N frontier entries, C candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from megacontext.core.training.lensnet_eyes import over_frontier, starts_of

__all__ = [
    "attention_loss",
    "attention_target",
    "blocks_that_fit",
    "far_loss",
    "ranking_loss",
    "utility_loss",
]

_WISH = 0.1  # scores of gists that are not asked for stay below it, well below the bar of 0.2
_RUNNER = 0.35  # scores of runners-up lie above it
_PAYER = 0.5  # raw blocks stay within it where something is asked for
_FAR = -0.3  # scores of what lies beyond all near states, where nothing is asked for
_SHARP = 1.2  # how soon a log ratio of demand to the mark is a clear case


def blocks_that_fit(w_max_R: Tensor, blocks: int, size: int) -> Tensor:
    """[R]: raw blocks that a budget holds beside level-1 gists of all others and K free entries."""
    return ((w_max_R - size - blocks) / (size - 1)).clamp(min=2)


def attention_target(
    demand_RB: Tensor,
    levels_RN: Tensor,
    index_RN: Tensor,
    size: int,
    wanted_R: Tensor,
    hold: float = 0.0,
) -> Tensor:
    """[R, N] in (-1, 1): positive where an entry holds a block that deserves to be raw.

    Args:
        demand_RB: attention that the coming tokens pay to each block.
        wanted_R: how many blocks deserve to be raw; the next one's demand is the mark.
        hold: log ratio by which raw blocks count more and gists less.
    """
    last = demand_RB.shape[1] - 1
    ordered = demand_RB.sort(dim=1, descending=True).values
    mark = ordered.gather(1, wanted_R.long().clamp(1, last)[:, None]).clamp(min=1e-6)
    most = over_frontier(demand_RB, levels_RN, index_RN, size)
    beyond = torch.log(most.clamp(min=1e-7) / mark)
    return torch.tanh(_SHARP * (beyond + torch.where(levels_RN == 0, hold, -hold)))


def attention_loss(logits_RN: Tensor, target_RN: Tensor, valid_RN: Tensor) -> Tensor:
    """Cross entropy, least where tanh(logit) is the expected target; 0 where each is foreseen."""
    chance = (1 + target_RN) / 2
    error = functional.binary_cross_entropy_with_logits(2 * logits_RN, chance, reduction="none")
    floor = -torch.xlogy(chance, chance) - torch.xlogy(1 - chance, 1 - chance)
    return ((error - floor) * valid_RN).sum() / valid_RN.sum().clamp(min=1)


def utility_loss(logits_RC: Tensor, saved_RC: Tensor, scale: float) -> Tensor:
    """Ranks a state's candidates by the NLL that more detail saved: pairs weigh by how far they
    are apart, up to about ``scale``."""
    worth = torch.tanh(saved_RC / scale)
    apart = worth[:, :, None] - worth[:, None, :]
    ahead = logits_RC[:, :, None] - logits_RC[:, None, :]
    weight = apart.clamp(min=0)
    cost = functional.softplus(-2 * ahead) * weight
    return cost.sum() / weight.sum().clamp(min=1e-6)


def far_loss(
    logits_RN: Tensor,
    gold_RN: Tensor,
    runner_RN: Tensor,
    levels_RN: Tensor,
    index_RN: Tensor,
    valid_RN: Tensor,
    n_tokens_R: Tensor,
    asks_R: Tensor,
    near_tokens: int,
    size: int,
) -> Tensor:
    """Fit to the targets of far states.

    Args:
        gold_RN, runner_RN: bool; runners-up are not gold.
        asks_R: bool, whether something is asked for.
        near_tokens: reach of near states; what lies farther back in plain text can be coarse.
    """
    scores = torch.tanh(logits_RN)
    own, coarse = scores.detach(), valid_RN & (levels_RN > 0)
    rest = valid_RN & ~gold_RN & ~runner_RN
    stops = starts_of(levels_RN, index_RN, size) + size ** levels_RN.clamp(min=1)
    beyond = n_tokens_R[:, None] - stops > near_tokens
    asked = torch.where(coarse, own.clamp(max=_WISH), own.clamp(-_PAYER, _PAYER))
    plain = torch.where(beyond, own.clamp(max=_FAR), own)
    target = torch.where(asks_R[:, None], asked, plain)
    target = torch.where(gold_RN, torch.where(coarse, 0.9, 0.5), target)
    # A runner-up may lie anywhere above its bar; the ranking keeps it behind the gold.
    opened = torch.where(coarse, own.clamp(min=_RUNNER), own.clamp(0, _PAYER))
    target = torch.where(runner_RN, opened, target)
    error = functional.huber_loss(scores, target, reduction="none", delta=0.5)
    total = logits_RN.new_zeros(())
    for part, weight in ((gold_RN & valid_RN, 1.0), (rest, 1.0), (runner_RN & valid_RN, 0.5)):
        total = total + weight * (error * part).sum() / part.sum().clamp(min=1)
    # What is wrongly opened costs the budget of what is asked for.
    wrong = scores.sub(_WISH).relu() * (rest & coarse & asks_R[:, None])
    return total + wrong.sum() / (wrong > 0).sum().clamp(min=8)


def ranking_loss(logits_RN: Tensor, wanted_RN: Tensor, coarse_RN: Tensor) -> Tensor:
    """Every gold gist comes before all other gists, not just the best of them."""
    open_R = wanted_RN.any(1)
    ranked = (logits_RN * 3).masked_fill(~coarse_RN, -1e4).log_softmax(1)
    missed = -(ranked * wanted_RN).sum(1) / wanted_RN.sum(1).clamp(min=1)
    return (missed * open_R).sum() / open_R.sum().clamp(min=1)
