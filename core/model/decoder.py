"""Which way rows are computed for this model on this machine."""

from __future__ import annotations

from typing import Literal, get_args

from megacontext.core.model.base import BaseModel
from megacontext.core.model.fast_llama import LlamaRunner
from megacontext.core.model.llama_weights import unsupported
from megacontext.core.model.runner import HFRunner, RowRunner
from megacontext.core.model.slotted_cache import SlottedCache
from megacontext.traces.errors import ModelError

__all__ = ["RUNNER_KINDS", "RunnerKind", "no_graphs", "pick_runner"]

RunnerKind = Literal["auto", "hf", "torch", "graph"]
RUNNER_KINDS: tuple[RunnerKind, ...] = get_args(RunnerKind)


def pick_runner(base: BaseModel, cache: SlottedCache, kind: RunnerKind = "auto") -> RowRunner:
    """A runner for the model.

    Args:
        kind: ``hf``, the transformers forward, for any model; ``torch``, the own step for
            Llama-type models in plain PyTorch; ``graph``, the same as Triton kernels under CUDA
            graphs; ``auto``, the last of these that the model and the device allow.

    Raises:
        ModelError: a kind that the model or the device does not allow.
    """
    if kind not in RUNNER_KINDS:
        raise ModelError(f"runner is '{kind}', use {', '.join(RUNNER_KINDS)}")
    if kind == "hf":
        return HFRunner(base, cache)
    reason = unsupported(base) or cache.rotary.reason or _partly_rotated(base, cache)
    graphs = no_graphs(base) or base.graphs_refusal
    if kind == "torch" and reason is None:
        return LlamaRunner(base, cache)
    if kind in ("auto", "graph") and reason is None and graphs is None:
        from megacontext.core.model.graphs import GraphRunner

        return GraphRunner(base, cache)
    if kind == "auto":
        return HFRunner(base, cache) if reason else LlamaRunner(base, cache)
    raise ModelError(
        f"runner is '{kind}' but {reason or graphs}, use runner auto for model '{base.name}'"
    )


def _partly_rotated(base: BaseModel, cache: SlottedCache) -> str | None:
    _, _, head_dim = base.kv_shape
    width = 2 * len(cache.rotary.inv_freq)
    return None if width in (0, head_dim) else f"it rotates {width} of {head_dim} dimensions"


def no_graphs(base: BaseModel) -> str | None:
    """Why the model cannot be decoded under CUDA graphs on this machine, or None."""
    if base.device.type != "cuda":
        return f"the model is on {base.device.type}"
    try:
        import triton  # noqa: F401
    except ImportError:
        return "triton is not installed"
    _, _, head_dim = base.kv_shape
    if head_dim < 16 or head_dim & (head_dim - 1):
        return f"head dimension {head_dim} is no power of two of at least 16"
    return None
