"""How values lie on disk: dtype codes and conversions to and from float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from megacontext.core.tree.spec import F32

__all__ = ["CODES", "STORED", "decode_vectors", "encode_vectors", "from_bf16", "to_bf16"]

CODES: dict[str, int] = {"uint32": 0, "fp16": 1, "bf16": 2, "fp32": 3, "int8": 4}
STORED: dict[str, np.dtype[Any]] = {
    "uint32": np.dtype("<u4"),
    "fp16": np.dtype("<f2"),
    "bf16": np.dtype("<u2"),
    "fp32": np.dtype("<f4"),
    "int8": np.dtype("i1"),
}


def to_bf16(values: F32) -> NDArray[np.uint16]:
    """The upper halves of the float32 patterns, rounded to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    # Rounding would carry a NaN's mantissa into its exponent; keep the upper half, made quiet.
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    if nan.any():
        rounded = np.where(nan, (bits >> np.uint32(16)) | np.uint32(0x40), rounded)
    return rounded.astype(np.uint16)


def from_bf16(stored: NDArray[np.uint16]) -> F32:
    return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)


def encode_vectors(values: F32, dtype: str) -> NDArray[Any]:
    """``values`` as they are stored under ``dtype`` ("fp16", "bf16", "fp32")."""
    if dtype == "bf16":
        return to_bf16(values)
    with np.errstate(over="ignore"):  # the caller refuses what became infinite
        return np.ascontiguousarray(values, STORED[dtype])


def decode_vectors(stored: NDArray[Any], dtype: str) -> F32:
    """A float32 copy of stored vectors."""
    return from_bf16(stored) if dtype == "bf16" else stored.astype(np.float32)
