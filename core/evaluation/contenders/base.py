"""What a contender is: a named way to read a history within a budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from megacontext.core.config import Config
from megacontext.core.evaluation.sessions.base import ContenderSession
from megacontext.core.evaluation.sessions.history import History
from megacontext.core.evaluation.sessions.workspace import EvalWorkspace
from megacontext.core.focus.actions import I64

__all__ = ["NO_GOLD", "Contender", "Sample", "sample_config"]

NO_GOLD: I64 = np.empty((0, 2), np.int64)
"""The token spans of an answer that is not known."""


@dataclass(frozen=True)
class Sample:
    """What a contender is opened over.

    Attributes:
        config: of the workspace, with the budget and the seed of this sample.
        history: the whole text.
        read: how many of its tokens the contender has read.
        gold: token spans I64[m, 2] of the answer, may be empty.
        stream: the model reads the whole history, block by block. Otherwise the working context
            starts cold over it (newest blocks raw, then gists), and the window is built once,
            when it is needed: by the first token decoded or scored, or at once for a lens that
            reads the model's hidden states.
        follow: build the window at once for every lens, so that it follows the refocuses by the
            session's own edits.
    """

    config: Config
    history: History
    read: int
    gold: I64
    stream: bool = False
    follow: bool = False


class Contender(Protocol):
    """A way to read a history within a budget; see :mod:`.registry` for all of them."""

    @property
    def name(self) -> str:
        """As in ``--contenders``."""
        ...

    @property
    def what(self) -> str:
        """One line for tables and reports."""
        ...

    @property
    def needs_gold(self) -> bool:
        """Whether it takes part only where the answer's place is known."""
        ...

    def budget(self, workspace: EvalWorkspace, config: Config) -> int:
        """Entries of its window."""
        ...

    def fits(self, workspace: EvalWorkspace, n_tokens: int) -> bool:
        """Whether a history with question and answer of ``n_tokens`` is not too long for it."""
        ...

    def open(self, workspace: EvalWorkspace, sample: Sample) -> ContenderSession:
        """A session that has read the sample's history.

        Raises:
            BudgetError: the history is too long for the budget and number of levels.
        """
        ...


def sample_config(config: Config, number: int) -> Config:
    """The config of sample ``number``: each sample has its own random draws."""
    return replace(config, seed=config.seed + number)
