"""Rollouts of a lens over plain held-out text: sessions without a KV window.

The working context, the allocator and its limits are a session's; the base model reads each whole
text once instead of reading it through the window. There are no questions, so every action is
either voluntary or forced by the budget.

Shapes: R texts, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from megacontext.core.allocators import make_allocator
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.focus import ContextShape, Focus, make_focus
from megacontext.core.gistnet.module import GistNet
from megacontext.core.lensnet.inputs import TreeTensors
from megacontext.core.lensnet.lens import legal_scores
from megacontext.core.lensnet.module import LensNet
from megacontext.core.rng import generator
from megacontext.core.training.common.frozen_base import FrozenBase
from megacontext.core.training.lensnet.inputs import build_lens_inputs, encode_histories
from megacontext.core.training.lensnet.rollout import MAX_LEVELS, PLAIN, PROTECTED, pad_rows
from megacontext.core.training.lensnet.teacher import token_nll
from megacontext.traces.errors import ConfigError
from megacontext.traces.schema import Trigger

__all__ = ["TextRollouts"]


class TextRollouts:
    """Held-out texts of ``blocks`` blocks, drawn once; gists, keys and hidden states are cached.

    Args:
        rows: texts; domains take turns. blocks: their length, within the base model's window.
        w_max: budget; the rollout starts when a history of raw blocks would fill it.

    Raises:
        ConfigError: the texts end before that.
    """

    def __init__(
        self,
        base: FrozenBase,
        gistnet: GistNet,
        streams: TokenStreams,
        rows: int,
        blocks: int,
        w_max: int,
        seed: int,
    ) -> None:
        self._base, self._gistnet, self._w_max = base, gistnet, w_max
        self._size, self._blocks = gistnet.config.block_size, blocks
        if blocks <= w_max // self._size:
            raise ConfigError(
                f"evaluation.plain_blocks: {blocks} blocks fit w_max {w_max} raw; use more than"
                f" {w_max // self._size}, or plain: 0."
            )
        domains = streams.domains
        texts = [
            streams.window(
                generator(seed, "lens.judge.plain", i),
                domains[i % len(domains)],
                blocks * self._size,
            )
            for i in range(rows)
        ]
        self._tokens = torch.from_numpy(np.stack(texts).astype(np.int32)).to(base.device)
        self._encoded: tuple[TreeTensors, Tensor, Tensor] | None = None

    @torch.no_grad()
    def evaluate(self, lens: LensNet) -> dict[str, float]:
        """Means over all refocuses of all texts, and two quantiles of the lens's scores.

        ``swap_rate``: voluntary actions per raw block; ``residency``: fraction of the frontier that
        a refocus does not change; ``expands``: expansions; ``utilization``: fraction of the budget
        in use afterwards; ``plain_gist_p99`` and ``plain_raw_p05``: score quantiles of gists and of
        unprotected raw blocks.
        """
        size, first = self._size, self._w_max // self._size
        focuses = []
        for _ in self._tokens:
            shape = ContextShape(size, MAX_LEVELS, self._w_max, PROTECTED)
            read = first * size
            focuses.append(make_focus(shape, make_allocator("greedy"), PLAIN, n_tokens=read))

        # Block by block, as a session reads the text.
        swap_rates, residency, expands, utilization = [], [], [], []
        gists: list[np.ndarray] = []
        raw_nodes: list[np.ndarray] = []
        for closed in range(first + 1, self._blocks + 1):
            before = []
            for focus in focuses:
                focus.append(size)
                focus.begin(Trigger.BLOCK_CLOSED)
                before.append(_nodes(focus))
            voluntary, expanded = self._refocus(lens, focuses, closed, gists, raw_nodes)
            for row, focus in enumerate(focuses):
                raw = sum(level == 0 for level, _ in before[row])
                swap_rates.append(voluntary[row] / max(raw, 1))
                residency.append(len(before[row] & _nodes(focus)) / len(before[row]))
                utilization.append(focus.working_context.cost / self._w_max)
            expands.append(np.mean(expanded))

        return {
            "swap_rate": float(np.mean(swap_rates)),
            "residency": float(np.mean(residency)),
            "expands": float(np.mean(expands)),
            "utilization": float(np.mean(utilization)),
            "plain_gist_p99": float(np.quantile(np.concatenate(gists), 0.99)),
            "plain_raw_p05": float(np.quantile(np.concatenate(raw_nodes), 0.05)),
        }

    def _refocus(
        self,
        lens: LensNet,
        focuses: list[Focus],
        closed: int,
        gists: list[np.ndarray],
        raw_nodes: list[np.ndarray],
    ) -> tuple[list[int], list[int]]:
        """(voluntary actions, expansions) of each text's refocus."""
        voluntary, expanded = [0] * len(focuses), [0] * len(focuses)
        active = set(range(len(focuses)))
        score = self._make_scorer(lens, closed)

        # All texts are scored in one batch; those that have settled are skipped.
        while active:
            contexts = [focus.working_context for focus in focuses]
            levels = pad_rows([c.levels.astype(np.int64) for c in contexts], -1)
            scores = score(levels, pad_rows([c.index for c in contexts], 0))
            for row in sorted(active):
                context = contexts[row]
                row_scores = scores[row, : len(context)]
                raw = context.levels == 0
                gists.append(row_scores[~raw])
                raw_nodes.append(row_scores[raw][:-PROTECTED])
                legal = legal_scores(row_scores, context.levels, context.index, self._size)
                result = focuses[row].round(legal)
                is_voluntary = ~result.actions["forced"]
                voluntary[row] += int(is_voluntary.sum())
                expanded[row] += int((result.actions["cost"] > 0).sum())
                if result.last:
                    active.discard(row)
        return voluntary, expanded

    def _make_scorer(
        self, lens: LensNet, closed: int
    ) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """Scores of frontiers over the first ``closed`` blocks."""
        memory, hidden, nll = self._read()
        size, device = self._size, self._base.device
        counts = [closed // size**level for level in range(len(memory.gists))]
        memory_so_far = TreeTensors(
            memory.keys[:, :closed],
            tuple(rows[:, :count] for rows, count in zip(memory.gists, counts, strict=True)),
        )
        stop = closed * size
        latest = self._tokens[:, max(0, stop - self._gistnet.config.keys.query_tokens) : stop]
        n_tokens = torch.full((len(latest),), stop, device=device)

        def score(levels: np.ndarray, index: np.ndarray) -> np.ndarray:
            inputs = build_lens_inputs(
                self._base,
                self._gistnet,
                lens.config,
                memory_so_far,
                latest,
                torch.from_numpy(levels).to(device),
                torch.from_numpy(index).to(device),
                n_tokens,
                hidden[:, :stop],
                nll[:, :stop],
            )
            scores: np.ndarray = torch.tanh(inputs.logits(lens)).cpu().numpy()
            return scores

        return score

    def _read(self) -> tuple[TreeTensors, Tensor, Tensor]:
        """(gists and keys of the whole texts, hidden states of the base model, NLL by token)."""
        if self._encoded is None:
            memory = encode_histories(self._base, self._gistnet, self._tokens)
            hidden = self._base.hidden(self._base.embed(self._tokens))
            self._encoded = memory, hidden, token_nll(self._base, hidden, self._tokens)
        return self._encoded


def _nodes(focus: Focus) -> set[tuple[int, int]]:
    context = focus.working_context
    return set(zip(context.levels.tolist(), context.index.tolist(), strict=True))
