# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Triton kernels of a decode step of one row: its begin, queries and keys, and its choice.

Shapes and EARLY as in :mod:`.triton_kernels`; what the host sends as in :mod:`.token_step`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from megacontext.core.model.triton_kernels import scaled

__all__ = ["begin_kernel", "choose_kernel", "join_choice_kernel", "queries_kernel"]


@triton.jit
def begin_kernel(
    newest_ptr,
    chosen_ptr,
    embedding_ptr,
    inputs_ptr,
    orders_ptr,
    x_ptr,
    width,
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    """The row's embedding [width] to ``x`` and to its slot, its order to its slot."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    token = tl.load(newest_ptr)
    if token < 0:
        token = tl.load(chosen_ptr).to(tl.int32)
    slot = tl.load(newest_ptr + 1)
    cols = tl.arange(0, BLOCK)
    inside = cols < width
    x = tl.load(embedding_ptr + token.to(tl.int64) * width + cols, mask=inside)
    tl.store(x_ptr + cols, x, mask=inside)
    tl.store(inputs_ptr + slot.to(tl.int64) * width + cols, x, mask=inside)
    tl.store(orders_ptr + slot, tl.load(newest_ptr + 2))


@triton.jit
def queries_kernel(
    x_ptr,
    norm_ptr,
    w_ptr,
    bias_ptr,
    cos_ptr,
    sin_ptr,
    slot_ptr,
    queries_ptr,
    keys_ptr,
    values_ptr,
    birth_ptr,
    k,
    stored,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BIAS: tl.constexpr,
    ROTATED: tl.constexpr,
    EARLY: tl.constexpr,
    PAIRS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Norm, the product with W [(Hq + 2H) * D, k], bias, rotation, write: of one row.

    Rotary positions mix a head's output i with its output i + D / 2. So a program (head, part)
    computes PAIRS such pairs, turns them itself, and no other kernel has to.
    """
    if EARLY:
        gdc_launch_dependents()

    # The first tile of the weights: rows of the pairs' first and second members.
    head = tl.program_id(0)
    pair = tl.program_id(1) * PAIRS + tl.arange(0, PAIRS)
    row = head * 2 * HALF + pair
    cols = tl.arange(0, BLOCK_K)
    inside = (row[:, None] >= 0) & (cols < k)[None, :]
    at = row[:, None] * k + cols[None, :]
    wa = tl.load(w_ptr + at, mask=inside, other=0.0, eviction_policy="evict_first")
    wb = tl.load(w_ptr + HALF * k + at, mask=inside, other=0.0, eviction_policy="evict_first")
    if EARLY:
        gdc_wait()

    # RMSNorm needs the whole row; every program takes its mean square for itself.
    every = tl.arange(0, BLOCK_X)
    xs = tl.load(x_ptr + every, mask=every < k, other=0.0).to(tl.float32)
    rstd = tl.rsqrt(tl.sum(xs * xs, axis=0) / k + eps)

    # The products, a tile ahead of the loads.
    acc_a = tl.zeros([PAIRS, BLOCK_K], dtype=tl.float32)
    acc_b = tl.zeros([PAIRS, BLOCK_K], dtype=tl.float32)
    for start in range(0, k, BLOCK_K):
        cols = start + tl.arange(0, BLOCK_K)
        x = tl.load(x_ptr + cols, mask=cols < k, other=0.0)
        scale = tl.load(norm_ptr + cols, mask=cols < k, other=0.0)
        x = scaled(x, rstd, scale).to(tl.float32)[None, :]
        acc_a += wa.to(tl.float32) * x
        acc_b += wb.to(tl.float32) * x
        at += BLOCK_K
        inside = (row[:, None] >= 0) & (cols + BLOCK_K < k)[None, :]
        wa = tl.load(w_ptr + at, mask=inside, other=0.0, eviction_policy="evict_first")
        wb = tl.load(w_ptr + HALF * k + at, mask=inside, other=0.0, eviction_policy="evict_first")
    a = tl.sum(acc_a, axis=1)
    b = tl.sum(acc_b, axis=1)
    if BIAS:
        a += tl.load(bias_ptr + row).to(tl.float32)
        b += tl.load(bias_ptr + HALF + row).to(tl.float32)

    # Rounded as a product of its own would be, then turned.
    kind = x_ptr.dtype.element_ty
    a = a.to(kind)
    b = b.to(kind)
    if ROTATED:  # noqa: SIM102  # known when compiled, the other when run
        if head < HEADS + KV_HEADS:
            cos = tl.load(cos_ptr + pair)
            sin = tl.load(sin_ptr + pair)
            a32 = a.to(tl.float32)
            b32 = b.to(tl.float32)
            a = (a32 * cos - b32 * sin).to(kind)
            b = (b32 * cos + a32 * sin).to(kind)

    # To the queries, or to the slot as key (and as born) or as value.
    slot = tl.load(slot_ptr)
    if head < HEADS:
        tl.store(queries_ptr + row, a)
        tl.store(queries_ptr + row + HALF, b)
    elif head < HEADS + KV_HEADS:
        to = ((head - HEADS) * stored + slot) * 2 * HALF + pair
        tl.store(keys_ptr + to, a)
        tl.store(keys_ptr + to + HALF, b)
        if ROTATED:
            tl.store(birth_ptr + to, a)
            tl.store(birth_ptr + to + HALF, b)
    else:
        to = ((head - HEADS - KV_HEADS) * stored + slot) * 2 * HALF + pair
        tl.store(values_ptr + to, a)
        tl.store(values_ptr + to + HALF, b)


@triton.jit
def choose_kernel(
    logits_ptr, peak_ptr, mass_ptr, best_ptr, n, BLOCK: tl.constexpr, EARLY: tl.constexpr
):
    """Largest logit of a part, where it is, and the sum of exp(logit - largest)."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    part = tl.program_id(0)
    at = part * BLOCK + tl.arange(0, BLOCK)
    logits = tl.load(logits_ptr + at, mask=at < n, other=float("-inf"))
    peak = tl.max(logits, axis=0)
    tl.store(peak_ptr + part, peak)
    tl.store(mass_ptr + part, tl.sum(tl.exp(logits - peak), axis=0))
    tl.store(best_ptr + part, part * BLOCK + tl.argmax(logits, axis=0))


@triton.jit
def join_choice_kernel(
    peak_ptr,
    mass_ptr,
    best_ptr,
    chosen_ptr,
    choice_ptr,
    parts,
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    """The likeliest token (of equals the lowest id) for the next step; it and its NLL for the host.

    The host's copy is float32 [2]: ids are below 2^24, so none is rounded.
    """
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    at = tl.arange(0, BLOCK)
    peaks = tl.load(peak_ptr + at, mask=at < parts, other=float("-inf"))
    mass = tl.load(mass_ptr + at, mask=at < parts, other=0.0)
    peak = tl.max(peaks, axis=0)
    chosen = tl.load(best_ptr + tl.argmax(peaks, axis=0))
    tl.store(chosen_ptr, chosen.to(tl.int64))
    tl.store(choice_ptr, chosen.to(tl.float32))
    tl.store(choice_ptr + 1, tl.log(tl.sum(mass * tl.exp(peaks - peak), axis=0)))
