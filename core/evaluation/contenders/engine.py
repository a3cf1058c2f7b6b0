"""Contenders on the engine: gists, a lens and an allocator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from megacontext.core.config import Config, EchoConfig
from megacontext.core.evaluation.contenders.base import Sample
from megacontext.core.evaluation.sessions.engine_session import EngineSession
from megacontext.core.evaluation.sessions.lazy_window import GistOverride, LazyKVWindow
from megacontext.core.evaluation.sessions.workspace import EvalWorkspace
from megacontext.core.lenses import Lens
from megacontext.core.runtime.build import EngineParts

__all__ = ["EngineContender", "configured_lens"]


def configured_lens(workspace: EvalWorkspace, sample: Sample) -> Lens:
    """The lens of the config."""
    return workspace.clone_lens(sample.history)


@dataclass(frozen=True)
class EngineContender:
    """An engine with some lens; a :class:`~.base.Contender`.

    Attributes:
        lens: makes the lens of a sample.
        echoes: the configured echo trigger is on. Off for controls of the lens alone.
        mean_gists: the window shows mean-pooled gists; lens and allocator keep the configured
            ones.
    """

    name: str
    what: str
    lens: Callable[[EvalWorkspace, Sample], Lens]
    needs_gold: bool = False
    echoes: bool = True
    mean_gists: bool = False

    def budget(self, workspace: EvalWorkspace, config: Config) -> int:
        """See :class:`~.base.Contender`."""
        return config.w_max

    def fits(self, workspace: EvalWorkspace, n_tokens: int) -> bool:
        """See :class:`~.base.Contender`; gists shorten any history."""
        return True

    def open(self, workspace: EvalWorkspace, sample: Sample) -> EngineSession:
        """See :class:`~.base.Contender`."""
        config = sample.config
        if not self.echoes:
            config = replace(config, triggers=replace(config.triggers, echo=EchoConfig()))
        read = 0 if sample.stream else sample.read
        lens = self.lens(workspace, sample)
        parts = workspace.assemble(config, sample.history, read, lens)
        if self.mean_gists:
            _show_mean_gists(workspace, parts, sample, read)

        reads_model = lens.requires.attention or lens.requires.hidden_states > 0
        lazy = not (sample.stream or reads_model or sample.follow)
        session = EngineSession(parts, sample.gold, lazy=lazy)
        if sample.stream and sample.read:
            session.read(sample.history.tokens[: sample.read])
        return session


def _show_mean_gists(
    workspace: EvalWorkspace, parts: EngineParts, sample: Sample, read: int
) -> None:
    """The window shows the gists of another tree over the same tokens."""
    assert isinstance(parts.window, LazyKVWindow)
    parts.window.hide_gists = False
    tree = workspace.tree(sample.history.mean_gister, sample.history.tokens[:read])
    parts.window.gists = GistOverride(tree)
