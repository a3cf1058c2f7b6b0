"""What a lens sees, and the protocol of a lens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from megacontext.core.focus.actions import F32, I8, I64

__all__ = ["U32", "ExplainsScores", "Lens", "LensNeeds", "Observation", "TreeView"]

U32 = npt.NDArray[np.uint32]


class TreeView(Protocol):
    """What lenses read of a tree; see ``core/tree``."""

    def n_nodes(self, level: int) -> int: ...

    def tokens(self, start: int, stop: int) -> U32: ...

    def keys(self, level: int, start: int, stop: int) -> F32: ...

    def gists(self, level: int, start: int, stop: int) -> F32: ...


def _no_tokens() -> U32:
    return np.empty(0, np.uint32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One moment of a session. Frontier arrays are parallel, oldest first, of length n.

    Attributes:
        levels, index, starts: I8[n], I64[n], I64[n] (token positions).
        n_tokens: length of the history, tail included.
        tree: index keys, gists and tokens; None where there are no models.
        query_tokens: U32[q], the newest tokens, or a question's.
        question_tokens: how many of the newest tokens are a question or turn that is asked now.
        query_hidden: torch [q, d], the base model's last hidden states of the newest tokens.
        attention: F32[n], the base model's attention mass on each frontier entry.
        surprisal: F32[n_tokens], nats per token, NaN where unknown.
        target_spans: I64[m, 2], token spans that matter now (ground truth, for ``oracle``).
    """

    levels: I8
    index: I64
    starts: I64
    n_tokens: int
    tail_tokens: int
    block_size: int
    tree: TreeView | None = None
    step: int = 0
    round: int = 0
    seed: int = 0
    query_tokens: U32 = field(default_factory=_no_tokens)
    question_tokens: int = 0
    query_hidden: Any | None = None
    attention: F32 | None = None
    surprisal: F32 | None = None
    target_spans: I64 | None = None

    @property
    def stops(self) -> I64:
        """I64[n]: one past the last token of each frontier entry."""
        ends: I64 = np.append(self.starts[1:], self.n_tokens - self.tail_tokens)
        return ends[: len(self.starts)]


@dataclass(frozen=True)
class LensNeeds:
    """What a lens reads of a session beyond the frontier and the tree.

    Attributes:
        query_tokens: newest tokens that form the query; None: as many as the config says.
        hidden_states: last hidden states of so many newest tokens.
        attention: the base model's attention mass on each entry; measuring it takes a pass.
    """

    query_tokens: int | None = None
    hidden_states: int = 0
    attention: bool = False


@runtime_checkable
class ExplainsScores(Protocol):
    """A lens that can say which tokens its newest scores come from."""

    def score_pairs(self) -> npt.NDArray[np.void]:
        """PAIR_DTYPE [n] of the traces: pairs of tokens, the strongest first within a block."""
        ...


class Lens(Protocol):
    """Scores every frontier node: > 0 look closer, < 0 it can be coarser."""

    @property
    def requires(self) -> LensNeeds:
        """What a session has to show it."""
        ...

    @property
    def name(self) -> str:
        """Its kind, as configs and traces name it."""
        ...

    def score(self, observation: Observation) -> F32:
        """F32[n] in [-1, 1]; a function of the observation and of earlier ones alone."""
        ...
