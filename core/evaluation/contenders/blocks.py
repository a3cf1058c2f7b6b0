"""Contenders without gists: a selection of raw blocks stands in the window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from megacontext.core.config import Config
from megacontext.core.evaluation.contenders.base import Sample
from megacontext.core.evaluation.sessions.block_session import BlockSession, Selection
from megacontext.core.evaluation.sessions.workspace import EvalWorkspace

__all__ = ["BlockContender"]


@dataclass(frozen=True)
class BlockContender:
    """Some raw blocks in an exact window; a :class:`~.base.Contender`.

    Attributes:
        select: makes the selection of a sample.
        whole_window: the budget is the model's trained window, not ``w_max``.
    """

    name: str
    what: str
    select: Callable[[EvalWorkspace, Sample], Selection]
    whole_window: bool = False
    needs_gold: bool = False

    def budget(self, workspace: EvalWorkspace, config: Config) -> int:
        """See :class:`~.base.Contender`."""
        return workspace.base.window if self.whole_window else config.w_max

    def fits(self, workspace: EvalWorkspace, n_tokens: int) -> bool:
        """See :class:`~.base.Contender`; the whole window holds no longer text."""
        return not self.whole_window or n_tokens <= workspace.base.window

    def open(self, workspace: EvalWorkspace, sample: Sample) -> BlockSession:
        """See :class:`~.base.Contender`."""
        config, history = sample.config, sample.history
        return BlockSession(
            workspace.windows.reuse(self.name, self.budget(workspace, config), history),
            workspace.base.tokenizer,
            config.block_size,
            history.tokens[: sample.read],
            self.select(workspace, sample),
            config.lens.query_tokens,
            sample.gold,
        )
