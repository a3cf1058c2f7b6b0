"""Held-out metrics of a GistNet, compared with three baselines: a token, the mean, deletion.

All contenders replace the same blocks of the same windows and are scored on the same tokens:
next-token NLL of tokens that are raw in every window, minus that under the full raw window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from megacontext.core.config.settings import Count
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.gistnet.encoder import rms_normalized
from megacontext.core.gistnet.lexical import LexicalKeys
from megacontext.core.gistnet.module import GistNet
from megacontext.core.rng import generator
from megacontext.core.training.common.copied_tokens import copied_tokens
from megacontext.core.training.common.frozen_base import FrozenBase, block_inputs
from megacontext.core.training.common.tilings import RowTiling, stack_tilings, tile
from megacontext.traces.errors import ConfigError

__all__ = ["KINDS", "SETTINGS", "GistEvalConfig", "GistEvaluator", "gist_table"]

SETTINGS = ("single", "few", "many", "old", "upper", "apart", "copies")
KINDS = ("gist", "token", "mean", "delete")
_HORIZON = 64


@dataclass(frozen=True)
class GistEvalConfig:
    """``rows`` windows of ``length`` tokens per domain and setting, ``scored`` tokens of each."""

    rows: Count = 16
    length: int = 2048
    scored: Count = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.length < 2048:
            raise ConfigError(f"evaluation.length: {self.length} is below 2,048 tokens.")


def gist_table(
    base: FrozenBase, net: GistNet, tokens_RT: Tensor, batch: dict[str, Tensor], kind: str
) -> Tensor:
    """Embeddings [R, T + N + M, D] that ``entries`` picks from.

    Args:
        net: the GistNet; its block size and norm serve the controls too.
        kind: ``gist``, or a control: the rarest ``token`` of a block or the children's ``mean``.
    """
    size = net.config.block_size
    raw = base.embed(tokens_RT)

    # Level 1: one vector per block.
    x, block_tokens = block_inputs(base, net, tokens_RT, batch["blocks"])
    rows, count = x.shape[:2]
    if kind == "gist":
        gists = net(x.flatten(0, 1), 1)
    elif kind == "token":
        weights = torch.from_numpy(LexicalKeys(len(base.embedding)).weights).to(x.device)
        best = weights[block_tokens.flatten(0, 1)].argmax(1)
        gists = x.flatten(0, 1)[:, -size:][torch.arange(rows * count, device=x.device), best]
    else:
        gists = rms_normalized(x.flatten(0, 1)[:, -size:].float().mean(1)) * net.config.gist_rms

    # Groups come last among the blocks; their gists are made of those of their children.
    gists = gists.view(rows, count, raw.shape[-1])
    coded = raw.shape[1] + count
    groups = int((batch["entries"][0] >= coded).sum())
    parts = [raw, gists.to(raw.dtype)]
    if groups:
        children = gists[:, -groups * size :].reshape(-1, size, gists.shape[-1])
        upper = _upper(net, children, kind).view(rows, groups, -1)
        parts.append(upper.to(raw.dtype))
    return torch.cat(parts, dim=1)


def _upper(net: GistNet, children_NKD: Tensor, kind: str) -> Tensor:
    """Level-2 gists [N, D] of one kind."""
    if kind == "gist":
        gists: Tensor = net(children_NKD, 2)
        return gists
    mean_N1D = children_NKD.float().mean(1, keepdim=True)
    if kind == "mean":
        return rms_normalized(mean_N1D[:, 0]) * net.config.gist_rms
    max_distance = (children_NKD.float() - mean_N1D).square().sum(-1).argmax(1)
    return children_NKD[torch.arange(len(children_NKD), device=children_NKD.device), max_distance]


class GistEvaluator:
    """Fixed held-out windows and tilings, drawn once.

    Settings: ``single`` (one coarse block; the 64 tokens after it are scored), ``few`` (1/8 of
    the blocks, scattered), ``many`` (5/8, scattered), ``old`` (the oldest 3/4), ``upper`` (a group
    of K blocks as one level-2 gist, the next half group as level-1 gists), ``apart`` (one coarse
    block, two raw ones after it, then the 64 scored tokens), ``copies`` (half of the blocks,
    scattered; scored are tokens that copy from one of them at a distance of 64 tokens or more).
    """

    def __init__(
        self, config: GistEvalConfig, base: FrozenBase, streams: TokenStreams, block_size: int
    ) -> None:
        self._config, self._base, self._size = config, base, block_size
        self.names: list[str] = []
        self._cells: list[tuple[str, str, Tensor, dict[str, Tensor]]] = []
        for domain in streams.domains:
            for number, setting in enumerate(SETTINGS):
                tokens, tilings = [], []
                for row in range(config.rows):
                    rng = generator(config.seed, f"gistnet.judge.{domain}", number, row)
                    tokens.append(streams.window(rng, domain, config.length).astype(np.int64))
                    tilings.append(self._tiling(rng, setting, tokens[-1]))
                stacked = torch.from_numpy(np.stack(tokens))
                self._cells.append((domain, setting, stacked, stack_tilings(tilings)))
        for domain in streams.domains:
            self.names += [f"{s}_{domain}_{k}" for s in SETTINGS for k in KINDS]
        self.names += [f"gain_{s}" for s in SETTINGS] + ["gist_dnll"]

    def _tiling(self, rng: np.random.Generator, setting: str, tokens: np.ndarray) -> RowTiling:
        length, size = self._config.length, self._size
        blocks = length // size
        none = np.empty(0, np.int64)

        # One gist, scored on the tokens that follow it, at once or some blocks later.
        if setting in ("single", "apart"):
            raw = 0 if setting == "single" else _HORIZON // size
            block = int(rng.integers(blocks // 8, blocks - 1 - raw - _HORIZON // size))
            first = (block + 1 + raw) * size
            choose = np.arange(first, first + _HORIZON)
            return tile(length, size, np.array([block]), none, choose)

        # Several gists, by the setting.
        if setting == "copies":
            gists = np.sort(rng.choice(blocks - 2, blocks // 2, replace=False))
            copied = copied_tokens(tokens, np.isin(np.arange(blocks), gists), size, size + _HORIZON)
            row = tile(length, size, gists, none, copied if len(copied) else None)
        elif setting == "upper":
            row = tile(length, size, np.arange(size, size + size // 2), np.array([0]))
        elif setting == "old":
            row = tile(length, size, np.arange(blocks * 3 // 4), none)
        else:
            count = blocks // 8 if setting == "few" else blocks * 5 // 8
            row = tile(length, size, np.sort(rng.choice(blocks - 2, count, replace=False)), none)

        # All rows score as many tokens; a row may have fewer copies than that.
        scored = self._config.scored
        replace = len(row.target) < scored
        choice = np.sort(rng.choice(len(row.target), scored, replace=replace))
        return RowTiling(
            row.blocks,
            row.entries,
            row.entries_raw,
            row.target[choice],
            row.predictor[choice],
            row.predictor_raw[choice],
        )

    def evaluate(self, net: GistNet) -> dict[str, float]:
        """ΔNLL in nats per token by setting, domain and kind; ``gain_*``: recovered gain over all
        domains; ``gist_dnll``: mean ΔNLL of the gists."""
        metrics: dict[str, float] = {}
        for domain, setting, tokens, tiling in self._cells:
            costs = self.costs(net, tokens, tiling)
            for kind in KINDS:
                metrics[f"{setting}_{domain}_{kind}"] = float(costs[kind].mean())
        for setting in SETTINGS:
            with_gists, removed = (
                np.mean(
                    [v for k, v in metrics.items() if k.startswith(f"{setting}_") and k.endswith(e)]
                )
                for e in ("_gist", "_delete")
            )
            metrics[f"gain_{setting}"] = float((removed - with_gists) / max(float(removed), 1e-6))
        gist_costs = [v for k, v in metrics.items() if k.endswith("_gist")]
        metrics["gist_dnll"] = float(np.mean(gist_costs))
        return metrics

    @torch.no_grad()
    def costs(
        self, net: GistNet, tokens_RT: Tensor, tiling: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """ΔNLL [R, S] against the full window, by kind."""
        base = self._base
        tokens = tokens_RT.to(base.device)
        batch = {name: value.to(base.device) for name, value in tiling.items()}
        raw = base.embed(tokens)
        target = batch["target"]
        answer = tokens.gather(1, target)
        full = _nll(base.logits_at(raw, target - 1), answer)
        costs = {}
        for kind in KINDS[:-1]:
            table = gist_table(base, net, tokens, batch, kind)
            window = table.gather(1, _expand_index(batch["entries"], table))
            costs[kind] = _nll(base.logits_at(window, batch["predictor"]), answer) - full
        bare = raw.gather(1, _expand_index(batch["entries_raw"], raw))
        costs["delete"] = _nll(base.logits_at(bare, batch["predictor_raw"]), answer) - full
        return costs


def _expand_index(index_RL: Tensor, table_RXD: Tensor) -> Tensor:
    return index_RL[..., None].expand(-1, -1, table_RXD.shape[-1])


def _nll(logits_RSV: Tensor, answer_RS: Tensor) -> Tensor:
    flat = functional.cross_entropy(
        logits_RSV.flatten(0, 1), answer_RS.flatten().long(), reduction="none"
    )
    return flat.view(answer_RS.shape)
