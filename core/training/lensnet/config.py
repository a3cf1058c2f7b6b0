"""The settings of ``train lensnet``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from megacontext.core.config.settings import check_fraction_sum
from megacontext.core.training.lensnet.dataset import StateMix
from megacontext.core.training.lensnet.evaluate import LensEvalConfig
from megacontext.core.training.lensnet.teacher import TeacherKind
from megacontext.core.training.loop.trainer import LoopConfig
from megacontext.traces.errors import ConfigError

__all__ = ["LensNetTraining", "LensPhase", "LensShape"]


@dataclass(frozen=True)
class LensPhase:
    """One stage.

    Attributes:
        share: part of the budget.
        demand, counterfactual, gold, ranking: weights of the targets in
            :mod:`.losses` and of the loss that ranks gold entries
            before all other gists. Far and near batches alternate and share one optimizer, whose
            momentum follows the larger gradients: near weights have to make up for that.
        near_ranking: weight of the same loss in plain text: gists that the coming tokens demand
            before all others, by how much they demand.
        appetite: how many blocks deserve to be raw in plain text, as a multiple of how many fit
            the budget. Higher: the lens wants more than it gets, and more is exchanged.
        hold: log ratio of demand by which an entry keeps the detail that it has. Higher: calmer.
        scale: difference of saved NLL that weighs tanh(1) when candidates are ranked.
        hidden: chance that a batch shows the base model's hidden states and surprisal.
        miss: how many blocks opened in vain at a question weigh as much as one missed. Higher:
            more runners-up are opened.
        runners: how many blocks that match a question best, or stand beside one that does, are to
            be opened whatever their chance.
    """

    share: float
    demand: float = 2.0
    counterfactual: float = 1.0
    gold: float = 1.0
    ranking: float = 0.3
    near_ranking: float = 0.0
    appetite: float = 1.0
    hold: float = 0.2
    scale: float = 0.02
    hidden: float = 0.7
    miss: float = 40.0
    runners: int = 6
    states: StateMix = field(default_factory=StateMix)

    def __post_init__(self) -> None:
        if not 0 < self.appetite <= 4:
            raise ConfigError(f"phases.appetite: {self.appetite} is outside 0 to 4.")
        if self.miss < 1:
            raise ConfigError(f"phases.miss: {self.miss} is below 1; a miss costs the answer.")


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
        recorded: folder of recorded states (``megacontext data from-traces``), which make up
            ``states.recorded`` of the near states; empty: none.
        teacher: what demand is: the ``attention`` of the coming tokens, the ``gradient`` of their
            NLL, which knows what of it matters, or what they lose without far text at the blocks
            that they copy from (``copies``); see :mod:`.teacher`.
        dtype, adapter: as for GistNet.
    """

    base: str
    gistnet: str
    shards: str
    heldout: str
    loop: LoopConfig
    phases: tuple[LensPhase, ...]
    teacher: TeacherKind = "attention"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    net: LensShape = field(default_factory=LensShape)
    evaluation: LensEvalConfig = field(default_factory=LensEvalConfig)
    adapter: str = ""
    recorded: str = ""

    def __post_init__(self) -> None:
        check_fraction_sum(phase.share for phase in self.phases)
