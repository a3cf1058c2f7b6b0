"""LensNet as a ``Lens``: an observation in, float32 scores out.

All tensors stay on the lens's device; one array of scores leaves it per round.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from megacontext.core.gistnet.checkpoint import load_folder, save_folder
from megacontext.core.gistnet.gister import NetGister
from megacontext.core.lenses.base import LensNeeds, Observation
from megacontext.core.lensnet.cuda_graph import CapturedPass
from megacontext.core.lensnet.device_cache import DeviceCache
from megacontext.core.lensnet.inputs import TreeTensors, lens_pass
from megacontext.core.lensnet.module import LensNet, LensNetConfig
from megacontext.core.lensnet.span_means import RunningMeans
from megacontext.traces.errors import ModelError

__all__ = [
    "NetLens",
    "bind_lensnet",
    "legal_scores",
    "load_lensnet",
    "save_lensnet",
    "start_from",
]

F32 = npt.NDArray[np.float32]
Ints = npt.NDArray[np.integer[Any]]
_KIND = "lensnet"


def save_lensnet(net: LensNet, folder: Path, gister: NetGister) -> str:
    """Write a LensNet that was trained on this gister's keys; returns its checkpoint id."""
    facts = {"gist_checkpoint": gister.checkpoint_id}
    return save_folder(folder, _KIND, net.state_dict(), net.config.as_dict(), facts)


def bind_lensnet(source: Path, gistnet: Path, folder: Path) -> str:
    """Write the LensNet of ``source`` to ``folder`` as one of another GistNet of the same sizes.

    Its weights are not changed: it has to be trained on the new gists.

    Raises:
        ModelError: one of the two folders holds no readable checkpoint.
    """
    net, _ = _read(source)
    meta, _ = load_folder(gistnet, "gistnet")
    facts = {"gist_checkpoint": meta["checkpoint_id"]}
    return save_folder(folder, _KIND, net.state_dict(), net.config.as_dict(), facts)


def load_lensnet(folder: Path, gister: NetGister) -> tuple[LensNet, str]:
    """(module in float32 on the CPU, checkpoint id).

    Raises:
        ModelError: no readable checkpoint, or one that was trained on another GistNet.
    """
    net, meta = _read(folder)
    if meta["gist_checkpoint"] != gister.checkpoint_id:
        raise ModelError(
            f"lensnet.path '{folder}' was trained on gists of {meta['gist_checkpoint']} and the"
            f" gister is {gister.checkpoint_id}; train a LensNet for this GistNet."
        )
    return net.eval().requires_grad_(False), str(meta["checkpoint_id"])


def start_from(folder: Path, sizes: LensNetConfig) -> LensNet:
    """A LensNet to train on, of any GistNet whose sizes are those of ``sizes``.

    Args:
        sizes: its sizes of gists, keys, blocks and queries have to be the checkpoint's.

    Raises:
        ModelError: no readable checkpoint, or one of other sizes.
    """
    net, _ = _read(folder)
    for name in ("dim", "key_dim", "block_size", "query_tokens"):
        saved, expected = getattr(net.config, name), getattr(sizes, name)
        if saved != expected:
            raise ModelError(
                f"--init: {folder} holds a LensNet of {name} {saved} and the GistNet has"
                f" {expected}; start without --init."
            )
    return net.train().requires_grad_(True)


def _read(folder: Path) -> tuple[LensNet, dict[str, Any]]:
    meta, state = load_folder(folder, _KIND)
    net = LensNet(LensNetConfig(**meta["config"]))
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(
            f"lensnet.path '{folder}' holds a LensNet of another shape than this version reads "
            f"({str(error).splitlines()[-1].strip()}); train it again."
        ) from None
    return net, meta


def legal_scores(scores: F32, levels: Ints, index: Ints, block_size: int) -> F32:
    """Scores clipped to what an action can do.

    Raw blocks cannot expand; a gist whose K siblings are not all in the frontier at its level
    cannot collapse.
    """
    low, high = _bounds(levels, index, block_size)
    return np.clip(scores, low, high).astype(np.float32)


def _bounds(levels: Ints, index: Ints, block_size: int) -> tuple[F32, F32]:
    """Least and largest legal score of each entry."""
    raw = levels == 0
    parent = index // block_size
    # Siblings are neighbours in the frontier, so a group is a run of equal (level, parent).
    change = np.flatnonzero((levels[1:] != levels[:-1]) | (parent[1:] != parent[:-1])) + 1
    bounds = np.concatenate(([0], change, [len(levels)]))
    length = np.repeat(np.diff(bounds), np.diff(bounds))
    cannot_collapse = ~raw & (length < block_size)
    return np.where(cannot_collapse, np.float32(0), -np.inf), np.where(raw, np.float32(0), np.inf)


@dataclass(frozen=True)
class _PassInputs:
    """Inputs of :func:`.inputs.lens_pass`, on the host except for the hidden states."""

    entries: tuple[Ints, Ints, Ints]
    counts: list[int]
    question: Ints
    hidden: Tensor
    surprisal: F32 | None

    def tensors(self, device: torch.device) -> tuple[Tensor, ...]:
        entries = np.stack([np.asarray(part, np.int64) for part in self.entries])
        surprisal = self.surprisal
        if surprisal is None:
            surprisal = np.zeros(entries.shape[1], np.float32)
        host = (
            torch.from_numpy(entries),
            torch.tensor(self.counts),
            torch.from_numpy(np.asarray(self.question)),
            self.hidden,
            torch.from_numpy(surprisal),
        )
        return tuple(part.to(device) for part in host)


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
        self._cache = DeviceCache(self._device, self._read)
        self._replays: dict[tuple[int, ...], CapturedPass | None] = {}
        self._sums = RunningMeans()
        # A session has to provide so many newest tokens and hidden states.
        self.query_tokens = gister.net.config.keys.query_tokens
        self.hidden_states = net.config.hidden_states
        self.requires = LensNeeds(self.query_tokens, self.hidden_states)

    @classmethod
    def load(cls, folder: Path, gister: NetGister) -> Self:
        """Load a checkpoint.

        Raises:
            ModelError: no readable checkpoint, or one that was trained on another GistNet.
        """
        return cls(load_lensnet(folder, gister)[0], gister)

    @torch.inference_mode()
    def score(self, observation: Observation) -> F32:
        """F32[n] in [-1, 1]: above 0 look closer, below 0 can be coarser.

        Raises:
            ModelError: the observation carries no tree.
        """
        if observation.tree is None:
            raise ModelError("lens.kind lensnet reads gists and keys; give the run a tree")
        if not len(observation.levels):
            return np.zeros(0, np.float32)
        highest = max(1, int(np.max(observation.levels)))
        if observation.tree.n_nodes(2):
            highest = max(highest, 2)  # the tail queries read the covering level-2 gist
        keys = self._cache.keys(observation.tree)
        gists = [self._cache.gists(observation.tree, level) for level in range(1, highest + 1)]
        nodes = [observation.tree.n_nodes(level) for level in range(1, highest + 1)]
        hidden = self._hidden(observation)
        inputs = _PassInputs(
            entries=(observation.levels, observation.index, observation.starts),
            counts=[observation.n_tokens, nodes[0], nodes[1] if highest > 1 else 0, len(hidden)],
            question=self._question(observation),
            hidden=hidden,
            surprisal=self._surprisal(observation),
        )
        replay = self._replay(keys, gists, inputs) if self._device.type == "cuda" else None
        # While the device works, the host computes the legal range of each score.
        low, high = _bounds(
            np.asarray(observation.levels), np.asarray(observation.index), observation.block_size
        )
        if replay is not None:
            scores = replay.wait(len(observation.levels))
        else:
            # Without a graph of fixed shapes, the buffers' padding would only cost time.
            without_padding = TreeTensors(
                keys[None, : nodes[0]],
                tuple(rows[None, :count] for rows, count in zip(gists, nodes, strict=True)),
                read=True,
            )
            scores = self._run(without_padding, *inputs.tensors(self._device)).float().cpu().numpy()
        legal: F32 = np.clip(scores, low, high).astype(np.float32)
        return legal

    def _read(self, gists: Tensor) -> Tensor:
        return self.net.read_gists(gists.to(self._dtype))

    def _run(self, stored: TreeTensors, *inputs: Tensor) -> Tensor:
        return lens_pass(self._gister.net.keys, self.net, self._gister.table, stored, *inputs)

    def _replay(
        self, keys: Tensor, gists: list[Tensor], inputs: _PassInputs
    ) -> CapturedPass | None:
        """The launched pass as a CUDA graph; None if this device cannot capture it."""
        width = max(256, 1 << (len(inputs.entries[0]) - 1).bit_length())
        # A buffer that grew is a new tensor at a new address, and needs a new graph. Graphs
        # reference their buffers, so an address in the key is never reused.
        positions = (keys.data_ptr(), *(rows.data_ptr() for rows in gists))
        key = (width, *positions)
        if key not in self._replays:
            self._replays = {k: v for k, v in self._replays.items() if k[1:] == positions}
            stored = TreeTensors(keys[None], tuple(rows[None] for rows in gists), read=True)
            self._replays[key] = self._captured(stored, width, len(inputs.question))
        replay = self._replays[key]
        if replay is not None:
            if len(inputs.hidden):
                replay.hidden[-len(inputs.hidden) :].copy_(inputs.hidden)
            replay.launch(inputs.entries, inputs.counts, inputs.question, inputs.surprisal)
        return replay

    def _captured(self, stored: TreeTensors, width: int, question: int) -> CapturedPass | None:
        try:
            return CapturedPass(
                lambda *inputs: self._run(stored, *inputs),
                width,
                question,
                (self.net.config.hidden_states, self.net.config.dim),
                self._device,
                self._dtype,
            )
        except RuntimeError as error:  # an operation that this device or version cannot capture
            warnings.warn(f"LensNet runs without CUDA graphs: {error}", stacklevel=2)
            return None

    def _question(self, observation: Observation) -> Ints:
        """The newest tokens, int64, padded on the left."""
        count = self.query_tokens
        latest = np.asarray(observation.query_tokens, np.int64)[-count:]
        padded = np.full(count, len(self._gister.table) - 1, np.int64)
        padded[count - len(latest) :] = latest
        return padded

    def _hidden(self, observation: Observation) -> Tensor:
        latest = self.hidden_states
        if observation.query_hidden is None:
            return torch.zeros((0, self.net.config.dim), device=self._device, dtype=self._dtype)
        hidden: Tensor = observation.query_hidden[-latest:].to(self._device, self._dtype)
        return hidden

    def _surprisal(self, observation: Observation) -> F32 | None:
        """float32[n]: the mean over each entry's tokens, 0 where it is unknown."""
        if observation.surprisal is None:
            return None
        widths = observation.block_size ** np.maximum(np.asarray(observation.levels, np.int64), 1)
        starts = np.asarray(observation.starts, np.int64)
        return self._sums.means(observation.tree, observation.surprisal, starts, widths)
