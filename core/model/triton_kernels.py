# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Triton kernels of the decode step. Imported only where triton and a GPU exist.

Shape legend: r rows, n outputs, k inputs, Hq query heads, H key/value heads, G = Hq / H, D head
dimension, S slots. All tensors are contiguous; sums are float32.

EARLY: programmatic dependent launch. A kernel may start while the one before it still runs; it
first loads what that one cannot change (weights), then waits for it. Every program waits, so a
kernel that has ended vouches for all before it.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

__all__ = [
    "attend_kernel",
    "combine_kernel",
    "gated_kernel",
    "gemv_kernel",
    "move_kernel",
    "norm_kernel",
    "rotate_write_kernel",
    "scaled",
]

# A finite stand-in for minus infinity: a split without visible slots must not produce NaN.
_LOW = tl.constexpr(-1.0e30)


@triton.jit
def scaled(x, rstd, scale):
    """``x`` over its root mean square, rounded, times ``scale``, rounded: as Llama's RMSNorm."""
    normed = (x.to(tl.float32) * rstd).to(x.dtype)
    return (normed.to(tl.float32) * scale.to(tl.float32)).to(x.dtype)


@triton.jit
def gemv_kernel(
    x_ptr,
    norm_ptr,
    w_ptr,
    residual_ptr,
    out_ptr,
    n,
    k,
    eps,
    NORM: tl.constexpr,
    GATED: tl.constexpr,
    RESIDUAL: tl.constexpr,
    EARLY: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """out[n] = W[n, k] · norm(x)[k] (+ residual); GATED: silu(W[:n] x) * (W[n:] x)."""
    if EARLY:
        gdc_launch_dependents()
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_n = rows < n
    cols = tl.arange(0, BLOCK_K)
    at = rows[:, None] * k + cols[None, :]
    inside = in_n[:, None] & (cols < k)[None, :]
    w = tl.load(w_ptr + at, mask=inside, other=0.0, eviction_policy="evict_first")
    if GATED:
        up_ptr = w_ptr + n * k
        up = tl.load(up_ptr + at, mask=inside, other=0.0, eviction_policy="evict_first")
    if EARLY:
        gdc_wait()
    acc = tl.zeros([BLOCK_N, BLOCK_K], dtype=tl.float32)
    acc_up = tl.zeros([BLOCK_N, BLOCK_K], dtype=tl.float32)
    rstd = 1.0
    if NORM:
        every = tl.arange(0, BLOCK_X)
        xs = tl.load(x_ptr + every, mask=every < k, other=0.0).to(tl.float32)
        rstd = tl.rsqrt(tl.sum(xs * xs, axis=0) / k + eps)
    for start in range(0, k, BLOCK_K):
        cols = start + tl.arange(0, BLOCK_K)
        x = tl.load(x_ptr + cols, mask=cols < k, other=0.0)
        if NORM:
            scale = tl.load(norm_ptr + cols, mask=cols < k, other=0.0)
            x = scaled(x, rstd, scale)
        x = x.to(tl.float32)[None, :]
        acc += w.to(tl.float32) * x
        if GATED:
            acc_up += up.to(tl.float32) * x
        # The next tile; the last turn loads nothing.
        at += BLOCK_K
        inside = in_n[:, None] & (cols + BLOCK_K < k)[None, :]
        w = tl.load(w_ptr + at, mask=inside, other=0.0, eviction_policy="evict_first")
        if GATED:
            up = tl.load(up_ptr + at, mask=inside, other=0.0, eviction_policy="evict_first")
    out = tl.sum(acc, axis=1)
    if GATED:
        out = out * tl.sigmoid(out) * tl.sum(acc_up, axis=1)
    if RESIDUAL:
        out += tl.load(residual_ptr + rows, mask=in_n, other=0.0).to(tl.float32)
    tl.store(out_ptr + rows, out.to(out_ptr.dtype.element_ty), mask=in_n)


@triton.jit
def norm_kernel(x_ptr, norm_ptr, out_ptr, width, eps, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """RMSNorm of one row [width] per program."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    inside = cols < width
    x = tl.load(x_ptr + row * width + cols, mask=inside, other=0.0)
    x32 = x.to(tl.float32)
    rstd = tl.rsqrt(tl.sum(x32 * x32, axis=0) / width + eps)
    scale = tl.load(norm_ptr + cols, mask=inside, other=0.0)
    tl.store(out_ptr + row * width + cols, scaled(x, rstd, scale), mask=inside)


@triton.jit
def gated_kernel(gate_up_ptr, out_ptr, width, BLOCK: tl.constexpr):
    """out [r, f] = silu(gate) * up from [r, 2f]."""
    row = tl.program_id(0)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < width
    gate = tl.load(gate_up_ptr + row * 2 * width + cols, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * 2 * width + width + cols, mask=inside, other=0.0)
    out = gate * tl.sigmoid(gate) * up.to(tl.float32)
    tl.store(out_ptr + row * width + cols, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def rotate_write_kernel(
    qkv_ptr,
    query_norm_ptr,
    key_norm_ptr,
    cos_ptr,
    sin_ptr,
    slots_ptr,
    queries_ptr,
    keys_ptr,
    values_ptr,
    birth_ptr,
    stored,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    NORMED: tl.constexpr,
    ROTATED: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One head of one row per program: norm and rotate, then to the queries or to its slot."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()

    # This head of this row, in two halves as rotary positions pair them.
    row = tl.program_id(0)
    head = tl.program_id(1)
    half = tl.arange(0, HALF)
    width: tl.constexpr = 2 * HALF
    source = qkv_ptr + (row * (HEADS + 2 * KV_HEADS) + head) * width
    a = tl.load(source + half)
    b = tl.load(source + HALF + half)
    if head < HEADS + KV_HEADS:
        if NORMED:
            norm_ptr = key_norm_ptr
            if head < HEADS:
                norm_ptr = query_norm_ptr
            a32 = a.to(tl.float32)
            b32 = b.to(tl.float32)
            total = tl.sum(a32 * a32, axis=0) + tl.sum(b32 * b32, axis=0)
            rstd = tl.rsqrt(total / width + eps)
            a = scaled(a, rstd, tl.load(norm_ptr + half))
            b = scaled(b, rstd, tl.load(norm_ptr + HALF + half))
        if ROTATED:
            cos = tl.load(cos_ptr + row * HALF + half)
            sin = tl.load(sin_ptr + row * HALF + half)
            a32 = a.to(tl.float32)
            b32 = b.to(tl.float32)
            a = (a32 * cos - b32 * sin).to(a.dtype)
            b = (b32 * cos + a32 * sin).to(b.dtype)

    # To the queries, or to the slot as key (and as born) or as value.
    slot = tl.load(slots_ptr + row)
    if head < HEADS:
        target = queries_ptr + (row * HEADS + head) * width
        tl.store(target + half, a)
        tl.store(target + HALF + half, b)
    elif head < HEADS + KV_HEADS:
        at = ((head - HEADS) * stored + slot) * width
        tl.store(keys_ptr + at + half, a)
        tl.store(keys_ptr + at + HALF + half, b)
        if ROTATED:
            tl.store(birth_ptr + at + half, a)
            tl.store(birth_ptr + at + HALF + half, b)
    else:
        at = ((head - HEADS - KV_HEADS) * stored + slot) * width
        tl.store(values_ptr + at + half, a)
        tl.store(values_ptr + at + HALF + half, b)


@triton.jit
def attend_kernel(
    queries_ptr,
    keys_ptr,
    values_ptr,
    slot_orders_ptr,
    row_orders_ptr,
    partial_ptr,
    peak_ptr,
    mass_ptr,
    rows,
    stored,
    stop,
    split_len,
    scale_log2,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_S: tl.constexpr,
    PRECISION: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Split-K attention (Flash-Decoding): program (query tile, key/value head, split of slots).

    A query tile mixes rows and the G query heads of one key/value head, so each key is read once.
    Writes the unnormalized sum, the peak and the mass of its split; tiles of slots that no row
    may see are skipped.
    """
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()

    # The queries of this tile, and the newest of them.
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    GROUP: tl.constexpr = HEADS // KV_HEADS
    index = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    row = index // GROUP
    head = kv_head * GROUP + index % GROUP
    in_m = row < rows
    dims = tl.arange(0, DIM)
    at_q = (row * HEADS + head)[:, None] * DIM + dims[None, :]
    q = tl.load(queries_ptr + at_q, mask=in_m[:, None], other=0.0)
    order = tl.load(row_orders_ptr + row, mask=in_m, other=-1)
    newest = tl.max(order, axis=0)

    # A softmax over this split of the slots, a tile at a time.
    peak = tl.full([BLOCK_M], _LOW, dtype=tl.float32)
    mass = tl.zeros([BLOCK_M], dtype=tl.float32)
    acc = tl.zeros([BLOCK_M, DIM], dtype=tl.float32)
    base = kv_head * stored
    first = split * split_len
    for start in range(first, tl.minimum(first + split_len, stop), BLOCK_S):
        slots = start + tl.arange(0, BLOCK_S)
        slot_order = tl.load(slot_orders_ptr + slots)
        seen = (slot_order >= 0) & (slot_order <= newest)
        if tl.max(seen.to(tl.int32), axis=0) > 0:
            at = (base + slots)[:, None] * DIM + dims[None, :]
            k = tl.load(keys_ptr + at)
            v = tl.load(values_ptr + at)
            score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale_log2
            allowed = (slot_order[None, :] >= 0) & (slot_order[None, :] <= order[:, None])
            score = tl.where(allowed, score, _LOW)
            new_peak = tl.maximum(peak, tl.max(score, axis=1))
            decay = tl.exp2(peak - new_peak)
            weight = tl.where(allowed, tl.exp2(score - new_peak[:, None]), 0.0)
            mass = mass * decay + tl.sum(weight, axis=1)
            acc = acc * decay[:, None]
            acc += tl.dot(weight.to(v.dtype), v, input_precision=PRECISION)
            peak = new_peak

    # What joining the splits needs.
    part = split * rows * HEADS + row * HEADS + head
    tl.store(partial_ptr + part[:, None] * DIM + dims[None, :], acc, mask=in_m[:, None])
    tl.store(peak_ptr + part, peak, mask=in_m)
    tl.store(mass_ptr + part, mass, mask=in_m)


@triton.jit
def combine_kernel(
    partial_ptr,
    peak_ptr,
    mass_ptr,
    out_ptr,
    count,
    SPLITS: tl.constexpr,
    DIM: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Join the splits of one (row, query head) per program."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()
    item = tl.program_id(0)
    splits = tl.arange(0, SPLITS)
    dims = tl.arange(0, DIM)
    peak = tl.load(peak_ptr + splits * count + item)
    mass = tl.load(mass_ptr + splits * count + item)
    factor = tl.exp2(peak - tl.max(peak, axis=0))
    parts = tl.load(partial_ptr + (splits * count + item)[:, None] * DIM + dims[None, :])
    total = tl.sum(parts * factor[:, None], axis=0)
    # A padding row sees nothing; its output is never read but must stay finite.
    out = total / tl.maximum(tl.sum(mass * factor, axis=0), 1e-30)
    tl.store(out_ptr + item * DIM + dims, out.to(out_ptr.dtype.element_ty))


@triton.jit
def move_kernel(
    birth_ptr,
    keys_ptr,
    layers_ptr,
    cos_ptr,
    sin_ptr,
    moving_ptr,
    stored,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """Rotate the born keys of one (rotated layer, head, tile of slots) into the cache."""
    number = tl.program_id(0) // KV_HEADS
    head = tl.program_id(0) % KV_HEADS
    slots = tl.program_id(1) * BLOCK_S + tl.arange(0, BLOCK_S)
    moving = tl.load(moving_ptr + slots) != 0
    if tl.max(moving.to(tl.int32), axis=0) > 0:
        half = tl.arange(0, HALF)
        cos = tl.load(cos_ptr + slots[:, None] * HALF + half[None, :])
        sin = tl.load(sin_ptr + slots[:, None] * HALF + half[None, :])
        layer = tl.load(layers_ptr + number)
        inside = (head * stored + slots)[:, None] * 2 * HALF + half[None, :]
        layer_size = KV_HEADS * stored * 2 * HALF
        source = birth_ptr + number.to(tl.int64) * layer_size + inside
        target = keys_ptr + layer * layer_size + inside
        a = tl.load(source).to(tl.float32)
        b = tl.load(source + HALF).to(tl.float32)
        kind = keys_ptr.dtype.element_ty
        tl.store(target, (a * cos - b * sin).to(kind), mask=moving[:, None])
        tl.store(target + HALF, (b * cos + a * sin).to(kind), mask=moving[:, None])
