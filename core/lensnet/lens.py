"""LensNet behind the ``Lens`` protocol: an observation in, float32 scores out.

All tensors stay on the lens's device; one array of scores leaves it per round.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from megacontext.core.gistnet.checkpoint import load_folder, save_folder
from megacontext.core.gistnet.gister import NetGister
from megacontext.core.lensnet.features import (
    node_features,
    node_similarity,
    shared_with_neighbours,
)
from megacontext.core.lensnet.mirror import Mirror, TreeLike
from megacontext.core.lensnet.module import LensNet, LensNetConfig, TailQueries
from megacontext.traces.errors import ModelError

__all__ = ["NetLens", "Sight", "legal_scores", "load_lensnet", "save_lensnet"]

F32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.integer[Any]]
_KIND = "lensnet"
NEIGHBOUR_SHARE = 0.8


class Sight(Protocol):
    """What LensNet reads of an ``Observation``."""

    @property
    def levels(self) -> Ints: ...
    @property
    def index(self) -> Ints: ...
    @property
    def starts(self) -> Ints: ...
    @property
    def n_tokens(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def tree(self) -> Any: ...
    @property
    def query_tokens(self) -> npt.NDArray[np.uint32]: ...
    @property
    def query_hidden(self) -> Any: ...
    @property
    def surprisal(self) -> Any: ...


def save_lensnet(net: LensNet, folder: Path, gister: NetGister) -> str:
    """Write a LensNet that was trained on this gister's keys; returns its checkpoint id."""
    facts = {"gist_checkpoint": gister.checkpoint_id}
    return save_folder(folder, _KIND, net.state_dict(), net.config.as_dict(), facts)


def load_lensnet(folder: Path, gister: NetGister) -> tuple[LensNet, str]:
    """(module in float32 on the CPU, checkpoint id).

    Raises:
        ModelError: no readable checkpoint, or one that was trained on another GistNet.
    """
    meta, state = load_folder(folder, _KIND)
    if meta["gist_checkpoint"] != gister.checkpoint_id:
        raise ModelError(
            f"lensnet.path '{folder}' was trained on gists of {meta['gist_checkpoint']} and the"
            f" gister is {gister.checkpoint_id}; train a LensNet for this GistNet."
        )
    net = LensNet(LensNetConfig(**meta["config"]))
    net.load_state_dict(state)
    return net.eval().requires_grad_(False), str(meta["checkpoint_id"])


def legal_scores(scores: F32, levels: Ints, index: Ints, block_size: int) -> F32:
    """Scores without wishes that no action can grant.

    Raw blocks cannot expand; a gist whose K siblings are not all in the frontier at its level
    cannot collapse.
    """
    raw = levels == 0
    parent = index // block_size
    # Siblings are neighbours in the frontier, so a group is a run of equal (level, parent).
    change = np.flatnonzero((np.diff(levels) != 0) | (np.diff(parent) != 0)) + 1
    bounds = np.concatenate(([0], change, [len(levels)]))
    length = np.repeat(np.diff(bounds), np.diff(bounds))
    stuck = ~raw & (length < block_size)
    legal = np.where(raw, np.minimum(scores, 0), scores)
    return np.where(stuck, np.maximum(legal, 0), legal).astype(np.float32)


class NetLens:
    """Scores frontier entries with a trained LensNet.

    Args:
        net: the module; moved to the gister's device and dtype.
        gister: the trained gister whose gists and keys the tree holds.
    """

    name = "lensnet"

    def __init__(self, net: LensNet, gister: NetGister) -> None:
        if net.config.dim != gister.dim or net.config.key_dim != gister.key_dim:
            raise ModelError(
                f"the LensNet reads gists of {net.config.dim} and keys of {net.config.key_dim}"
                f" values but the gister makes {gister.dim} and {gister.key_dim}; load the"
                " LensNet of this GistNet."
            )
        self._gister = gister
        self._dtype = gister.net.pad.dtype
        self._device = gister.device
        self.net = net.to(self._device, self._dtype).eval().requires_grad_(False)
        self._mirror = Mirror(self._device, self._dtype)
        self._last: tuple[bytes, int, Tensor, Tensor] | None = None

    @classmethod
    def load(cls, folder: Path, gister: NetGister) -> Self:
        """Load a checkpoint.

        Raises:
            ModelError: no readable checkpoint, or one that was trained on another GistNet.
        """
        return cls(load_lensnet(folder, gister)[0], gister)

    @torch.inference_mode()
    def score(self, observation: Sight) -> F32:
        """F32[n] in [-1, 1]: above 0 look closer, below 0 can be coarser.

        Raises:
            ModelError: the observation carries no tree.
        """
        seen = observation
        if seen.tree is None:
            raise ModelError("lens.kind lensnet reads gists and keys; give the run a tree")
        if not len(seen.levels):
            return np.zeros(0, np.float32)
        levels = torch.from_numpy(np.asarray(seen.levels, np.int64)).to(self._device)
        index = torch.from_numpy(np.asarray(seen.index, np.int64)).to(self._device)
        starts = torch.from_numpy(np.asarray(seen.starts, np.int64)).to(self._device)
        keys_MV, blocks = self._search(seen)
        shared = shared_with_neighbours(blocks, NEIGHBOUR_SHARE)
        highest = int(np.max(seen.levels))
        own, near = (
            node_similarity(values, levels, index, seen.block_size, highest)
            for values in (blocks, shared)
        )
        features = node_features(
            own[None],
            near[None],
            levels[None],
            starts[None],
            torch.tensor([seen.n_tokens], device=self._device),
            seen.block_size,
            self._surprisal(seen),
        )
        scores = self.net(
            self._gists(seen.tree, levels, index, highest)[None],
            levels[None],
            features.to(self._dtype),
            self._tail(seen, keys_MV),
        )
        return legal_scores(scores[0].cpu().numpy(), seen.levels, seen.index, seen.block_size)

    def _search(self, seen: Sight) -> tuple[Tensor, Tensor]:
        """Query vectors [m, V] and each level-1 node's similarity [n1]; the same in all rounds."""
        asked = np.ascontiguousarray(seen.query_tokens, np.uint32).tobytes()
        count = seen.tree.n_nodes(1)
        if self._last is None or self._last[:2] != (asked, count):
            keys_MV = self._gister.query_vectors(seen.query_tokens)
            stored = self._mirror.keys(seen.tree)
            if len(stored):
                similarity = (stored @ keys_MV.to(stored.dtype).T).amax(dim=1).float()
            else:
                similarity = torch.zeros(0, device=self._device)
            self._last = (asked, count, keys_MV, similarity)
        return self._last[2], self._last[3]

    def _gists(self, tree: TreeLike, levels: Tensor, index: Tensor, highest: int) -> Tensor:
        span = levels.clamp(min=1)
        first = self._mirror.gists(tree, 1)
        rows = first[torch.where(span == 1, index, 0)]
        for level in range(2, highest + 1):
            here = span == level
            stored = self._mirror.gists(tree, level)
            if len(stored):
                rows = torch.where(here[:, None], stored[torch.where(here, index, 0)], rows)
        return rows

    def _tail(self, seen: Sight, keys_MV: Tensor) -> TailQueries:
        config, tree = self.net.config, seen.tree
        newest = np.asarray(seen.query_tokens, np.uint32)[-config.query_tokens :]
        empty = torch.zeros((0, config.dim), device=self._device, dtype=self._dtype)
        hidden = empty
        if seen.query_hidden is not None:
            hidden = seen.query_hidden[-config.hidden_states :].to(self._device, self._dtype)
        cover = self._mirror.gists(tree, 2)[-1:] if tree.n_nodes(2) else empty
        near = self._mirror.gists(tree, 1)[-config.near_gists :] if tree.n_nodes(1) else empty
        return TailQueries(
            tokens=self._gister.token_embeddings(newest)[None],
            hidden=hidden[None],
            near=near[None],
            cover=cover[None],
            keys=keys_MV.to(self._dtype)[None],
        )

    def _surprisal(self, seen: Sight) -> Tensor | None:
        values = seen.surprisal
        if values is None or len(values) != len(seen.levels):
            return None
        return torch.from_numpy(np.nan_to_num(np.asarray(values, np.float32)))[None].to(
            self._device
        )
