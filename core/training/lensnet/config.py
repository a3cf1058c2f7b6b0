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
        demand, counterfactual, gold, ranking: weights of the losses in :mod:`.losses`; ``ranking``
            is that of gold entries above all other gists. Retrieval and text batches alternate and
            share one optimizer, whose momentum follows the larger gradients of retrieval batches:
            weights of text batches have to compensate for that.
        near_ranking: weight of the ranking loss in plain text, by the demand of the coming tokens.
        appetite: number of blocks that are needed raw in plain text, as a multiple of the number
            that fit the budget. Higher: more expansions and more exchanges.
        hold: hysteresis, as a log ratio of demand, in favour of an entry's present level. Higher:
            fewer actions.
        scale: difference of saved NLL, in nats, whose weight is tanh(1) in the ranking of
            candidates.
        hidden: probability that a batch includes the base model's hidden states and surprisal.
        miss: loss of a missed block at a question as a multiple of that of a wrong one. Higher:
            more runners-up are expanded.
        runners: number of a question's best matches, neighbours included, that are expanded
            whatever their probability.
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
        teacher: how a block's demand label is computed: ``attention`` (mass from the coming
            tokens), ``gradient`` (of their NLL), or ``copies`` (NLL increase when distant text is
            removed, charged to the block that a token is copied from); see :mod:`.teacher`.
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
