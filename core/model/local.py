"""Layers that see only part of what stands before a row, and the bounds of a model's window.

Two kinds: *sliding* layers see the newest N rows, *chunked* ones the rows of their own chunk of N.
Both count rows in window order. A model may have such layers everywhere or beside full ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["LocalLayers", "WindowBound", "local_layers", "row_masks", "window_bound"]

_KINDS: dict[str, Literal["sliding", "chunked"]] = {
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
}
_DEFAULT_WINDOW = 2048


@dataclass(frozen=True)
class LocalLayers:
    """``kind`` and ``size`` of the local layers; ``types``: the model's layer types, empty where
    all layers are local."""

    kind: Literal["sliding", "chunked"]
    size: int
    types: tuple[str, ...]

    def describe(self) -> str:
        """One clause on what these layers see."""
        return (
            f"layers that see only the newest {self.size} rows (a sliding window)"
            if self.kind == "sliding"
            else f"layers that see only their own chunk of {self.size} rows"
        )


@dataclass(frozen=True)
class WindowBound:
    """At most ``rows``, and a clause that says why, of the model: "was trained on N positions"."""

    rows: int
    why: str


def local_layers(config: Any) -> LocalLayers | None:
    """The local layers of a model; None where every layer sees everything before it."""
    text = config.get_text_config()
    types = tuple(getattr(text, "layer_types", None) or ())
    sliding = getattr(text, "sliding_window", None)
    chunk = getattr(text, "attention_chunk_size", None)
    distinct = tuple(dict.fromkeys(types))
    if chunk and "chunked_attention" in types:
        return LocalLayers("chunked", int(chunk), distinct)
    if sliding and (not types or "sliding_attention" in types):
        return LocalLayers("sliding", int(sliding), () if len(distinct) < 2 else distinct)
    return None


def window_bound(config: Any) -> WindowBound:
    """The positions that a model can be given."""
    text = config.get_text_config()
    trained = int(getattr(text, "max_position_embeddings", None) or _DEFAULT_WINDOW)
    bound = WindowBound(trained, f"was trained on {trained} positions")
    switch = _longrope_switch(text)
    if switch is not None and switch < trained:
        # Keys in the cache would be of both kinds.
        return WindowBound(switch, f"rotates all positions another way beyond {switch} (longrope)")
    return bound


def _longrope_switch(config: Any) -> int | None:
    rope = getattr(config, "rope_parameters", None) or {}
    sections = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    found = []
    for section in sections:
        if section.get("rope_type") == "longrope":
            value = section.get("original_max_position_embeddings")
            value = value or getattr(config, "original_max_position_embeddings", None)
            found += [int(value)] if value else []
    return min(found, default=None)


def row_masks(
    local: LocalLayers | None, seen: Tensor, columns: Tensor, rows: Tensor
) -> Tensor | dict[str, Tensor]:
    """What each row sees, by layer type where the types differ.

    Args:
        seen: bool [r, columns] for a layer that sees everything before a row.
        columns: I64[columns], window order of each column.
        rows: I64[r], window order of each row.
    """
    if local is None or int(rows.max()) < local.size:
        return seen
    if local.kind == "sliding":
        near = rows[:, None] - columns < local.size
    else:
        near = torch.div(columns, local.size, rounding_mode="floor") == torch.div(
            rows, local.size, rounding_mode="floor"
        ).unsqueeze(1)
    if not local.types:
        return seen & near
    return {kind: seen & near if kind in _KINDS else seen for kind in local.types}
