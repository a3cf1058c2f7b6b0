"""A model whose kernels fail on this machine is decoded in a slower way, and says so."""

from __future__ import annotations

import pytest
import torch

from megacontext.core.model import BaseModel, KVWindow, decoder, graph_check
from megacontext.core.model.fast_llama import LlamaRunner
from megacontext.traces.schema import KVMode


@pytest.fixture
def base(tiny_module, monkeypatch) -> BaseModel:
    """A Llama on a CPU that is taken for one on a GPU."""
    monkeypatch.setattr(graph_check, "no_graphs", lambda base: None)
    return BaseModel.from_module(tiny_module("llama"))


def as_graph(monkeypatch, build) -> None:
    """``build(base, w_max)`` makes the window that stands for the one under CUDA graphs."""

    def window(base: BaseModel, w_max: int, runner: str):
        return KVWindow(base, w_max, runner="hf") if runner == "hf" else build(base, w_max)

    monkeypatch.setattr(graph_check, "KVWindow", window)


def test_equal_logits_pass(base, monkeypatch) -> None:
    as_graph(monkeypatch, lambda base, w_max: KVWindow(base, w_max, runner="torch"))
    assert graph_check.check_graphs(base) is None


@pytest.mark.parametrize("method", ["append", "decode"])
@pytest.mark.parametrize("added", [3.0, torch.nan])
def test_other_logits_are_refused(base, monkeypatch, method: str, added: float) -> None:
    def wrong(base: BaseModel, w_max: int) -> KVWindow:
        window = KVWindow(base, w_max, runner="torch")
        right = getattr(window, method)

        def wrongly(tokens):
            forward = right(tokens)
            forward.logits[..., 5] += added
            return forward

        setattr(window, method, wrongly)
        return window

    as_graph(monkeypatch, wrong)
    reason = graph_check.check_graphs(base)
    assert reason is not None
    assert "nats from the model's own" in reason


def test_kernels_that_do_not_run_are_refused_with_their_reason(base, monkeypatch) -> None:
    def fails(base: BaseModel, w_max: int) -> KVWindow:
        raise RuntimeError("no kernel image is available\nfor execution on the device")

    as_graph(monkeypatch, fails)
    reason = graph_check.check_graphs(base)
    assert reason == "decoding under CUDA graphs fails here (no kernel image is available)"


def test_a_refused_model_is_decoded_otherwise_and_says_why(base, monkeypatch) -> None:
    monkeypatch.setattr(decoder, "no_graphs", lambda base: None)
    base.graphs_refusal = "logits under CUDA graphs are 2 nats from the model's own here"
    window = KVWindow(base, 64)
    assert type(window.runner) is LlamaRunner
    assert window.mode is KVMode.SPLICE
    (note,) = window.notes
    assert base.graphs_refusal in note


def test_a_model_on_a_cpu_needs_no_check(tiny_module) -> None:
    assert graph_check.check_graphs(BaseModel.from_module(tiny_module("llama"))) is None
