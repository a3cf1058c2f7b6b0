"""What a tree refuses before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megacontext.core.tree.spec import U32, Gister, TreeSpec
from megacontext.traces.errors import ModelError, StorageError

__all__ = ["check_gister", "check_span", "check_spec", "regist_spec", "token_ids"]


_FIXES = {
    "gist_checkpoint": "rebuild the gists with regist or load that checkpoint",
    "tokenizer": "its ids mean other text to this model, choose another tree",
}


def check_gister(spec: TreeSpec, gister: Gister, where: str) -> None:
    """Refuse a gister whose gists cannot stand beside those of the tree ``where``.

    Raises:
        StorageError: it has another checkpoint id; gists are never mixed silently.
        ModelError: its vectors have another length.
    """
    if gister.checkpoint_id != spec.gist_checkpoint and gister.dim == spec.dim:
        raise StorageError(
            f"the gists of {where} come from checkpoint {spec.gist_checkpoint!r}, not from "
            f"{gister.checkpoint_id!r}; load that checkpoint or rebuild the gists with regist."
        )
    if gister.dim != spec.dim or gister.key_dim != spec.key_dim:
        raise ModelError(
            f"gister {gister.checkpoint_id!r} makes gists of {gister.dim} and keys of "
            f"{gister.key_dim} values but {where} holds {spec.dim} and {spec.key_dim}; load the "
            f"gister {spec.gist_checkpoint!r}."
        )


def check_spec(have: TreeSpec, expected: TreeSpec, where: str) -> None:
    """Refuse a tree that is not the expected one, naming the first field that differs.

    Raises:
        StorageError: a field differs.
    """
    for field in fields(TreeSpec):
        left, right = getattr(have, field.name), getattr(expected, field.name)
        if field.name == "tokenizer" and not (left and right):
            continue  # a tree from before this field
        if left != right:
            fix = _FIXES.get(field.name, "open it with the same setting or choose another tree")
            raise StorageError(
                f"{field.name} of {where} is {left!r} but {right!r} is expected; {fix}."
            )


def regist_spec(spec: TreeSpec, gister: Gister, where: str) -> TreeSpec:
    """The facts of the tree ``where`` after a regist with ``gister``.

    Raises:
        ModelError: its vectors are not of the base model's width.
    """
    if gister.dim != spec.dim:
        raise ModelError(
            f"gister {gister.checkpoint_id!r} makes gists of {gister.dim} values but {where} "
            f"holds {spec.dim}; load one for model {spec.model!r}."
        )
    return replace(spec, gist_checkpoint=gister.checkpoint_id, key_dim=gister.key_dim)


def token_ids(tokens: Sequence[int] | NDArray[Any], vocab_size: int) -> U32:
    """``tokens`` as a C-contiguous uint32 array of legal ids."""
    ids = np.asarray(tokens)
    if ids.ndim == 1 and not len(ids):
        return np.empty(0, np.uint32)
    if ids.ndim != 1 or ids.dtype.kind not in "ui":
        raise ModelError(
            f"tokens have dtype {ids.dtype} and shape {ids.shape}; pass a one-dimensional array "
            f"of integer ids."
        )
    if ids.max() >= vocab_size or (ids.dtype.kind == "i" and ids.min() < 0):
        at = int(np.argmax((ids >= vocab_size) | (ids < 0)))
        raise ModelError(
            f"token {at} of {len(ids)} has id {ids[at]}, outside 0 to {vocab_size - 1}; use the "
            f"tokenizer of the tree's model."
        )
    return np.ascontiguousarray(ids, np.uint32)


def check_span(label: str, start: int, stop: int, count: int) -> None:
    """Refuse rows [start, stop) that are not within [0, count)."""
    if not 0 <= start <= stop <= count:
        raise IndexError(f"{label}: [{start}, {stop}) is outside [0, {count})")
