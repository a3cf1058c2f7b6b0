"""GistNet behind the tree's ``Gister`` protocol: numpy in and out, batched on one device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from megacontext.core.gistnet.bf16_linear import halve_products
from megacontext.core.gistnet.block_graph import BlockGraph
from megacontext.core.gistnet.checkpoint import (
    base_fingerprint,
    load_folder,
    save_folder,
    weights_id,
)
from megacontext.core.gistnet.keys import KeyConfig
from megacontext.core.gistnet.module import GistNet, GistNetConfig
from megacontext.core.gistnet.weight_layout import store_by_columns
from megacontext.traces.errors import ModelError

__all__ = ["NetGister", "load_gistnet", "save_gistnet"]

F32 = npt.NDArray[np.float32]
U32 = npt.NDArray[np.uint32]
_NO_TOKEN = 0xFFFFFFFF
_KIND = "gistnet"


def save_gistnet(
    net: GistNet, folder: Path, embedding: Tensor, pairing: Mapping[str, str] | None = None
) -> str:
    """Write a GistNet that was trained on the base model with this ``embedding`` [vocab, D].

    Args:
        pairing: what else of the base model it was trained with; see :mod:`.pairing`.

    Returns:
        Its checkpoint id.
    """
    facts = {"base": base_fingerprint(embedding), "vocab_size": len(embedding), **(pairing or {})}
    return save_folder(folder, _KIND, net.state_dict(), net.config.as_dict(), facts)


def load_gistnet(folder: Path, embedding: Tensor) -> tuple[GistNet, str]:
    """(module in float32 on the CPU, checkpoint id).

    Raises:
        ModelError: no readable checkpoint, or one of another base model.
    """
    meta, state = load_folder(folder, _KIND)
    fields = dict(meta["config"])
    if fields["dim"] != embedding.shape[1]:
        raise ModelError(
            f"gistnet.path '{folder}' makes gists of {fields['dim']} values but the base model's"
            f" embeddings have {embedding.shape[1]}; train a GistNet for this base model."
        )

    # Gists live in the space of the embeddings that they were trained with.
    base_id = base_fingerprint(embedding)
    if meta["base"] != base_id:
        raise ModelError(
            f"gistnet.path '{folder}' was trained on base model {meta['base']} and this one is"
            f" {base_id}; train a GistNet for this base model."
        )

    net = GistNet(GistNetConfig(**{**fields, "keys": KeyConfig(**fields["keys"])}))
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(
            f"gistnet.path '{folder}' holds a GistNet of another shape than this version reads "
            f"({str(error).splitlines()[-1].strip()}); train it again."
        ) from None
    return net.eval().requires_grad_(False), str(meta["checkpoint_id"])


class NetGister:
    """Makes gists and index keys with a trained GistNet.

    Args:
        net: the module; moved to the embedding's device and put into eval mode.
        embedding: the base model's input embeddings [vocab, D], on the device to compute on.
        checkpoint_id: names the weights in the tree; computed from them if not given.
        batch: nodes per forward.
        dtype: of the arithmetic; the embedding's own if not given. bfloat16 is several times
            faster on CPUs with matrix units for it.
        halved: take the encoder's matrix products in bfloat16, and all else in ``dtype``.
    """

    def __init__(
        self,
        net: GistNet,
        embedding: Tensor,
        checkpoint_id: str | None = None,
        batch: int = 512,
        dtype: torch.dtype | None = None,
        *,
        halved: bool = False,
    ) -> None:
        if embedding.shape[1] != net.config.dim:
            raise ModelError(
                f"the GistNet makes gists of {net.config.dim} values but the base model's"
                f" embeddings have {embedding.shape[1]}; load the GistNet of this base model."
            )
        config = net.config.as_dict()
        self.checkpoint_id = checkpoint_id or weights_id(_KIND, net.state_dict(), config)
        kind = dtype or embedding.dtype
        self.net = net.to(embedding.device, kind).eval().requires_grad_(False)
        if halved:
            halve_products(self.net.encoder)
        if embedding.device.type == "cpu":
            store_by_columns(self.net)

        # What the tree asks for, and where a block's gist is made.
        self.dim = net.config.dim
        self.key_dim = net.config.keys.key_dim
        self.left_context = net.config.left_context
        self.device = embedding.device
        self._batch = batch
        self._one_block: BlockGraph | None = None
        self._no_graph = self.device.type != "cuda"
        self.table = torch.cat((embedding.detach().to(kind), self.net.pad.detach()[None]))

    @classmethod
    def load(
        cls,
        folder: Path,
        embedding: Tensor,
        batch: int = 512,
        dtype: torch.dtype | None = None,
        *,
        halved: bool = False,
    ) -> Self:
        """Load a checkpoint for the base model with this input ``embedding`` [vocab, D].

        Raises:
            ModelError: no readable checkpoint, or one of another base model.
        """
        net, name = load_gistnet(folder, embedding)
        return cls(net, embedding, name, batch, dtype, halved=halved)

    def encode_blocks(self, tokens: U32, left: U32) -> tuple[F32, F32]:
        """Gists F32[n, dim] and keys F32[n, key_dim] of blocks U32[n, K] behind U32[n, C]."""
        block_size = tokens.shape[1]
        if block_size != self.net.config.block_size or left.shape[1] != self.left_context:
            raise ModelError(
                f"this GistNet reads blocks of {self.net.config.block_size} tokens behind"
                f" {self.left_context}, got {block_size} behind {left.shape[1]}; set block_size to"
                f" {self.net.config.block_size} or train another GistNet."
            )
        ids = self._ids(np.concatenate((left, tokens), axis=1))
        if len(ids) == 1 and not self._no_graph:
            return self._encode_one(ids)
        return self._encode_all(ids)

    def _encode_all(self, ids: npt.NDArray[np.int64]) -> tuple[F32, F32]:
        """Gists and keys of blocks I64[n, C + K] behind their context, in batches."""
        gists = np.empty((len(ids), self.dim), np.float32)
        keys = np.empty((len(ids), self.key_dim), np.float32)
        with torch.inference_mode():
            for start in range(0, len(ids), self._batch):
                part = slice(start, start + self._batch)
                gist, key = self._gist_and_key(torch.from_numpy(ids[part]).to(self.device))
                gists[part], keys[part] = gist.float().cpu().numpy(), key.float().cpu().numpy()
        return gists, keys

    def _gist_and_key(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        x = self.table[ids]
        return self.net(x, 1), self.net.keys.keys(x, self.net.config.block_size)

    def _encode_one(self, ids: npt.NDArray[np.int64]) -> tuple[F32, F32]:
        """One block as a CUDA graph, where that gives on this machine what it should."""
        if self._one_block is not None:
            with torch.inference_mode():
                return self._one_block.encode(ids)
        gist, key = self._encode_all(ids)
        try:
            with torch.inference_mode():
                graph = BlockGraph(self._gist_and_key, ids.shape[1], self.device)
                same = all(map(_close, graph.encode(ids), (gist, key)))
        except RuntimeError:  # capturing or replaying is refused
            same = False
        if same:
            self._one_block = graph
        self._no_graph = not same
        return gist, key

    def encode_gists(self, level: int, children: F32) -> tuple[F32, F32]:
        """Gists F32[n, dim] of groups F32[n, K, dim] of the level below, and zero keys.

        Nodes above level 1 are found through their descendants' keys, so their own are zero.
        """
        if level < 2:
            raise ValueError(f"gists of gists start at level 2, got level {level}")
        gists = np.empty((len(children), self.dim), np.float32)
        with torch.inference_mode():
            for start in range(0, len(children), self._batch):
                part = slice(start, start + self._batch)
                x = torch.from_numpy(np.ascontiguousarray(children[part], np.float32))
                x = x.to(self.device, self.table.dtype)
                gists[part] = self.net(x, level).float().cpu().numpy()
        return gists, np.zeros((len(children), self.key_dim), np.float32)

    def encode_query(self, tokens: U32) -> F32:
        """Key-space vectors F32[m, key_dim] of the newest ``tokens`` U32[t].

        A block's similarity is its key's largest dot product with them. The newest
        ``query_tokens`` tokens count; fewer are padded on the left.
        """
        return self.query_vectors(tokens).cpu().numpy()

    def query_vectors(self, tokens: U32) -> Tensor:
        """Like :meth:`encode_query`, float32 on this gister's device."""
        count = self.net.config.keys.query_tokens
        latest = np.asarray(tokens, np.uint32)[-count:]
        padded = np.full((1, count), _NO_TOKEN, np.uint32)
        padded[0, count - len(latest) :] = latest
        with torch.inference_mode():
            real = torch.from_numpy(padded != _NO_TOKEN).to(self.device)
            return self.net.keys.queries(self._embed(padded), real)[0].float()

    def _embed(self, tokens: U32) -> Tensor:
        return self.table[torch.from_numpy(self._ids(tokens)).to(self.device)]

    def _ids(self, tokens: U32) -> npt.NDArray[np.int64]:
        """Rows of the table; what pads has the last one."""
        pad = len(self.table) - 1
        ids = np.where(tokens == _NO_TOKEN, pad, tokens).astype(np.int64)
        if ids.size and int(ids.max()) > pad:
            raise ModelError(
                f"token {int(ids.max())} is outside the base model's vocabulary of {pad}; use the"
                " tokenizer of this base model."
            )
        return ids


def _close(one: F32, other: F32) -> bool:
    """Whether two ways to the same vectors differ by rounding alone."""
    return float(np.linalg.norm(one - other)) <= 0.02 * float(np.linalg.norm(other)) + 1e-6
