"""Keys and queries of chosen heads, before rotation, from a plain forward pass of the base model.

Every architecture that transformers attends with through its attention interface hands over
rotated queries and keys; turned back by their positions, they no longer depend on where a token
stands. A pass ends at the last layer that is asked for. Shape legend: B windows, T tokens of a
window, H key heads, D head dimension, L layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from megacontext.core.heads.calibration import HeadsCalibration
from megacontext.core.model.base import BaseModel
from megacontext.core.model.rotary import RotaryLayers, probe_rotary, rotate_keys
from megacontext.core.tree.spec import U32
from megacontext.traces.errors import ModelError

__all__ = ["HeadEncoder", "HeadReader", "unsupported"]

_NAME = "megacontext_heads"


def unsupported(base: BaseModel) -> str | None:
    """Why the model's keys cannot be matched at a distance, as one clause, or None."""
    return probe_rotary(base).reason


class _Enough(Exception):  # noqa: N818  # control flow, never seen outside
    """All layers that were asked for have been read."""


class HeadReader:
    """Reads un-rotated queries and keys of some layers.

    Args:
        base: the frozen model.

    Raises:
        ModelError: its keys cannot be turned back by their positions.
    """

    def __init__(self, base: BaseModel) -> None:
        self.base = base
        self.rotary: RotaryLayers = probe_rotary(base)
        if self.rotary.reason is not None:
            raise ModelError(
                f"lens.kind is heads but in model '{base.name}' {self.rotary.reason}; use "
                "lens.kind bm25 for this model."
            )
        self.scaling = 1.0

    @torch.no_grad()
    def read(
        self, windows: NDArray[np.integer[Any]], layers: Iterable[int], what: str
    ) -> dict[int, Tensor]:
        """One pass over ``windows`` [B, T].

        Args:
            what: ``keys`` or ``queries``.

        Returns:
            For each layer, float32 [B, heads, T, D], before rotation.
        """
        asked = sorted(set(layers))
        captured: dict[int, Tensor] = {}
        ids = torch.from_numpy(np.asarray(windows, np.int64)).to(self.base.device)
        with self._capturing(asked, captured, what), suppress(_Enough):
            self.base.module(input_ids=ids, use_cache=False)
        positions = torch.arange(ids.shape[1], device=ids.device)
        return {layer: self._turned_back(layer, x, positions) for layer, x in captured.items()}

    def _turned_back(self, layer: int, x: Tensor, positions: Tensor) -> Tensor:
        x = x.float()
        if layer not in self.rotary.layers:
            return x
        return rotate_keys(x, -positions, self.rotary.inv_freq)

    @contextmanager
    def _capturing(
        self, layers: list[int], captured: dict[int, Tensor], what: str
    ) -> Iterator[None]:
        def attend(
            module: torch.nn.Module,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            attention_mask: Tensor | None,
            **options: Any,
        ) -> tuple[Tensor, None]:
            layer = int(module.layer_idx)  # type: ignore[arg-type]
            if layer in layers:
                captured[layer] = key if what == "keys" else query
                scaling = options.get("scaling")
                self.scaling = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
                if layer == layers[-1]:
                    raise _Enough
            mixed: tuple[Tensor, None] = sdpa_attention_forward(
                module, query, key, value, attention_mask, **options
            )
            return mixed

        AttentionInterface.register(_NAME, attend)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        config = self.base.config
        before = config._attn_implementation
        config._attn_implementation = _NAME
        try:
            yield
        finally:
            config._attn_implementation = before


class HeadEncoder:
    """Stored keys of tokens and queries of a question, for the heads of a calibration.

    Follows :class:`~megacontext.core.heads.store.KeyEncoder`.
    """

    def __init__(self, reader: HeadReader, calibration: HeadsCalibration) -> None:
        self.reader = reader
        self.calibration = calibration
        device = reader.base.device
        self._offset = torch.from_numpy(calibration.offset).to(device)
        self._scale = torch.from_numpy(calibration.scale).to(device)
        layers, kv_heads, _ = reader.base.kv_shape
        heads = int(reader.base.config.num_attention_heads)
        self._group = heads // kv_heads
        if max(layer for layer, _ in calibration.heads) >= layers:
            raise ModelError("lens.path: the calibration names layers that the model lacks.")

    @property
    def device(self) -> torch.device:
        return self.reader.base.device

    def encode(self, tokens: U32, start: int) -> NDArray[np.int8]:
        """See :class:`~megacontext.core.heads.store.KeyEncoder`."""
        keys: NDArray[np.int8] = self._keys(np.asarray(tokens)[None], start)[0]
        return keys

    def encode_chunks(self, tokens: U32, first: int) -> NDArray[np.int8]:
        """See :class:`~megacontext.core.heads.store.KeyEncoder`."""
        chunk, left = self.calibration.chunk, self.calibration.left
        parts = []
        context = min(left, first)
        while context < left and len(tokens) > context:  # chunks without their whole context
            parts.append(self.encode(tokens[: context + chunk], context))
            tokens = tokens[max(0, context + chunk - left) :]
            context = min(left, context + chunk)
        if len(tokens) > context:
            windows = np.lib.stride_tricks.sliding_window_view(tokens, left + chunk)[::chunk]
            parts.append(self._keys(windows, left).reshape(-1, self.calibration.bytes_per_token))
        return np.concatenate(parts)

    def queries(self, tokens: U32, start: int) -> Tensor:
        """What to multiply stored keys with: F32[heads, t - start, D].

        The model's own scaling and the stored keys' scale are in them; the stored offset shifts
        all logits of a query alike and is left out.
        """
        return self.queries_at(np.asarray(tokens)[None], [start], len(tokens) - start)[0]

    def queries_at(
        self, windows: NDArray[np.integer[Any]], starts: Sequence[int], count: int
    ) -> Tensor:
        """As :meth:`queries`, of ``count`` tokens from ``starts`` on in each of ``windows`` [B, T].

        Returns:
            F32[B, heads, count, D].
        """
        calibration = self.calibration
        read = self.reader.read(windows, [layer for layer, _ in calibration.heads], "queries")
        index_of = {pair: i for i, pair in enumerate(calibration.key_heads)}
        rows = []
        for layer, head in calibration.heads:
            scale = self._scale[index_of[layer, head // self._group]] * self.reader.scaling
            of_head = read[layer][:, head]
            rows.append(
                torch.stack([of_head[i, s : s + count] for i, s in enumerate(starts)]) * scale
            )
        return torch.stack(rows, dim=1)

    def key_index(self) -> list[int]:
        """For each head, which of the stored key heads it reads."""
        index_of = {pair: i for i, pair in enumerate(self.calibration.key_heads)}
        return [index_of[layer, head // self._group] for layer, head in self.calibration.heads]

    def _keys(self, windows: NDArray[np.integer[Any]], start: int) -> NDArray[np.int8]:
        """Stored form of the keys from ``start`` on: int8 [B, T - start, H * D]."""
        pairs = self.calibration.key_heads
        read = self.reader.read(windows, [layer for layer, _ in pairs], "keys")
        keys_BTHD = torch.stack([read[layer][:, head, start:] for layer, head in pairs], dim=2)
        scaled = (keys_BTHD - self._offset) / self._scale
        stored = scaled.round_().clamp_(-127, 127).to(torch.int8)
        flat: NDArray[np.int8] = stored.flatten(2).cpu().numpy()
        return flat
