"""What coarse history costs: NLL of the next tokens against the whole history in the window.

A *piece* is a window's length of a document. Its last H tokens are scored under the window that
each contender keeps over what comes before, so the scored tokens are raw in every window, stand
at the same places of the history, and are predicted from the place before them. They are read as
a session reads them: block by block, with what each contender does at a block's end. A window that
was built can score several *stretches* of H tokens one after the other; each counts as a piece.

Contenders that focus start cold over all but the newest ``lead`` tokens, which are read with a
session's refocuses so that the lens can set itself up, and the window is built once behind them
(with ``follow``, or a lens that reads the model, by edits from the cold start on); with ``stream``
the model reads all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from megacontext.core.evaluation.contenders.base import NO_GOLD, Sample, sample_config
from megacontext.core.evaluation.contenders.registry import CONTENDERS
from megacontext.core.evaluation.sessions.workspace import EvalWorkspace
from megacontext.core.evaluation.tasks.recall_tasks import Text
from megacontext.core.runtime.nll import full_history_nll
from megacontext.traces.errors import ConfigError

__all__ = ["NLL_CONTENDERS", "NLLOptions", "Piece", "evaluate_nll"]

NLL_CONTENDERS = ["ours", "recency", "random", "bm25", "gists", "mean", "delete"]


@dataclass(frozen=True)
class NLLOptions:
    """How pieces are cut.

    Attributes:
        w_max: budgets.
        horizon: scored tokens at a piece's end.
        pieces: per document, evenly spaced, without overlap where the document is long enough.
        length: tokens of a piece, 0 for the trained window.
        lead: blocks before the scored tokens that are read with refocuses.
        stretches: how often ``horizon`` tokens are scored at a piece's end, one after the other.
    """

    w_max: tuple[int, ...]
    horizon: int = 64
    pieces: int = 4
    length: int = 0
    lead: int = 8
    stretches: int = 1

    @property
    def scored(self) -> int:
        """Tokens scored at a piece's end."""
        return self.horizon * self.stretches

    def checked_length(self, window: int) -> int:
        """Tokens of a piece for a model with this trained window.

        Raises:
            ConfigError: lengths that cannot be.
        """
        length = self.length or window
        if not 0 < self.horizon <= length // 4:
            raise ConfigError(
                f"--horizon {self.horizon} must lie between 1 and {length // 4}, a quarter of the "
                "piece."
            )
        if length > window:
            raise ConfigError(
                f"--length {length} is beyond the trained window of {window}, without which "
                "there is no full history to compare with; use at most that."
            )
        if length - self.scored <= max(self.w_max):
            raise ConfigError(
                f"--w-max {max(self.w_max)} holds a whole piece of {length} tokens; use less."
            )
        return length


@dataclass(frozen=True)
class Piece:
    """Mean NLL in nats per token of one piece, by contender, beside ``full``."""

    document: str
    domain: str
    start: int
    w_max: int
    full: float
    nll: dict[str, float] = field(default_factory=dict)


def evaluate_nll(
    workspace: EvalWorkspace,
    texts: Sequence[Text],
    contenders: Sequence[str],
    options: NLLOptions,
    *,
    stream: bool = False,
    follow: bool = False,
    first: int = 0,
    only: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Piece]:
    """Every contender on every piece of every text, for each budget; short texts have no piece.

    Args:
        follow: the window follows the refocuses of the lead by the session's own edits.
        first: number of the first text; contenders that draw, draw by it.
        only: of each text the piece of this number alone, as it is among all of them.

    Raises:
        ConfigError: lengths that cannot be, or a budget too small.
    """
    length = options.checked_length(workspace.base.window)
    block = workspace.config.block_size
    configs = [workspace.with_w_max(w_max) for w_max in options.w_max]
    parts = [
        (number * options.pieces + i, text, *piece)
        for number, text in enumerate(texts, first)
        for i, piece in enumerate(_pieces(workspace, text, length, options.pieces))
        if only is None or i == only
    ]
    read = (length - options.scored) // block * block
    cold = read - min(options.lead * block, read)  # the rest is read with refocuses
    done, total = 0, len(parts) * len(configs) * len(contenders)

    results: list[Piece] = []
    for number, text, start, tokens in parts:
        scored = tokens[read : read + options.scored]
        whole = full_history_nll(workspace.base, tokens[: read + len(scored)], len(scored))
        full = _means(whole, options.horizon)
        history = workspace.history_of(tokens[:read])

        for config in configs:
            # A stretch is named by the start of a piece that would end with it.
            segments = [
                Piece(text.name, text.domain, start + i * options.horizon, config.w_max, nll)
                for i, nll in enumerate(full)
            ]
            sample = Sample(sample_config(config, number), history, cold, NO_GOLD, stream, follow)
            for name in contenders:
                session = CONTENDERS[name].open(workspace, sample)
                session.read(history.tokens[cold:])
                means = _means(session.score_tokens(scored), options.horizon)
                for piece, nll in zip(segments, means, strict=True):
                    piece.nll[name] = nll
                done += 1
                progress(done, total)
            results += segments
    return results


def _means(nll: np.ndarray, horizon: int) -> list[float]:
    """Mean of every ``horizon`` tokens."""
    return [float(part.mean()) for part in nll.reshape(-1, horizon)]


def _pieces(
    workspace: EvalWorkspace, text: Text, length: int, count: int
) -> list[tuple[int, np.ndarray]]:
    """(start, tokens U32[length]) of up to ``count`` pieces of a text."""
    tokens = workspace.base.tokenizer.encode_history(text.text)
    fit = min(count, len(tokens) // length)
    if fit == 0:
        return []
    starts = np.linspace(0, len(tokens) - length, fit).astype(int)
    return [(int(start), tokens[start : start + length]) for start in starts]
