"""One block replaced: what its gist costs beside its mean and beside nothing in its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from megacontext.core.evaluation.sessions.history import History
from megacontext.core.evaluation.sessions.workspace import EvalWorkspace
from megacontext.core.evaluation.tasks.nll import Piece
from megacontext.core.evaluation.tasks.recall_tasks import Text
from megacontext.core.model.layout import Layout
from megacontext.core.model.row_inputs import VectorSource
from megacontext.core.rng import generator
from megacontext.core.runtime.nll import full_history_nll, token_nll
from megacontext.core.tree import Gister

__all__ = ["evaluate_single"]

SINGLE = ("gist", "mean", "delete")


def evaluate_single(
    workspace: EvalWorkspace,
    texts: Sequence[Text],
    pieces: int,
    horizon: int = 64,
    first: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Piece]:
    """NLL of the next ``horizon`` tokens where one block is a gist, its mean, or gone.

    It is the newest block that is not protected, so that every scored token is predicted from a
    raw one; all other tokens are raw. A piece is a quarter of the trained window; texts shorter
    than that are left out. ``first`` is the number of the first text.
    """
    size, length = workspace.config.block_size, workspace.base.window // 4
    blocks = length // size
    read = blocks * size
    results: list[Piece] = []
    for number, text in enumerate(texts, first):
        tokens = workspace.base.tokenizer.encode_history(text.text)
        fit = min(pieces, len(tokens) // (read + horizon))
        for at in range(fit):
            rng = generator(workspace.config.seed, "eval.single", number, at)
            start = int(rng.integers(len(tokens) - read - horizon + 1))
            piece_tokens = tokens[start : start + read + horizon]
            full = float(full_history_nll(workspace.base, piece_tokens, horizon).mean())
            piece = Piece(text.name, text.domain, start, read, full)
            history = workspace.history_of(piece_tokens[:read])
            for kind in SINGLE:
                piece.nll[kind] = _nll(workspace, history, piece_tokens, kind, blocks)
            results.append(piece)
            progress(len(results), len(texts) * pieces)
    return results


def _nll(
    workspace: EvalWorkspace, history: History, tokens: np.ndarray, kind: str, blocks: int
) -> float:
    """Mean NLL of what follows ``blocks`` blocks, the newest unprotected of them replaced."""
    size = workspace.config.block_size
    read, at = blocks * size, blocks - 1 - max(1, workspace.config.focus.protected_blocks)
    levels = np.zeros(blocks, np.int8)
    levels[at] = 1
    index = np.arange(blocks)
    if kind == "delete":
        levels, index = np.delete(levels, at), np.delete(index, at)
    encoder: Gister = history.mean_gister if kind == "mean" else history.gister
    vectors: VectorSource = workspace.tree(encoder, tokens[:read]).gist_rows
    window = workspace.windows.empty(workspace.base.window)
    layout = Layout(levels, index, read, read, size)
    window.sync(layout, vectors, lambda start, stop: tokens[start:stop])
    assert window.last is not None
    first = token_nll(window.last.logits[-1:], tokens[read : read + 1])
    forward = window.append(tokens[read:])
    return float(np.append(first, token_nll(forward.logits[:-1], tokens[read + 1 :])).mean())
