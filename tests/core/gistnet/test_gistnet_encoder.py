"""The encoder's shortcuts leave what it computes as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from megacontext.core.gistnet import gister as gister_module
from megacontext.core.gistnet.bf16_linear import HalfLinear
from megacontext.core.gistnet.encoder import Encoder, EncoderShape
from megacontext.core.gistnet.gister import NetGister
from megacontext.core.gistnet.module import GistNet, GistNetConfig
from megacontext.core.rng import generator


@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("rows", [1, 4])
def test_the_newest_states_are_those_of_the_whole_sequence(layers, rows):
    encoder = Encoder(EncoderShape(32, layers, 4, 2, 48)).eval()
    encoder.init_weights(torch.Generator().manual_seed(0))
    x = torch.randn(rows, 10, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        newest, every = encoder(x, 4), encoder(x)
    assert newest.shape == (rows, 4, 32)
    torch.testing.assert_close(newest, every[:, -4:], atol=1e-5, rtol=1e-5)


def _gister(halved: bool) -> NetGister:
    net = GistNet(GistNetConfig(64, 8, left_context=4, layers=3, heads=4, kv_heads=2, ffn=96))
    net.init_weights(0)
    with torch.no_grad():  # the head starts at zero: gists would not see the encoder
        net.head.weight.copy_(torch.eye(64))
    embedding = torch.randn(50, 64, generator=torch.Generator().manual_seed(2)) * 0.02
    return NetGister(net, embedding, halved=halved)


def test_halved_products_move_no_gist_and_no_key_noticeably():
    tokens = generator(0, "halved").integers(0, 50, (40, 12)).astype(np.uint32)
    whole, halved = _gister(False), _gister(True)
    (gists, keys), (near, same) = (
        gister.encode_blocks(tokens[:, 4:], tokens[:, :4]) for gister in (whole, halved)
    )
    cosine = (gists * near).sum(1) / np.linalg.norm(gists, axis=1) / np.linalg.norm(near, axis=1)
    assert not np.array_equal(gists, near)
    assert cosine.min() > 0.9999
    np.testing.assert_array_equal(keys, same)
    assert halved.checkpoint_id == whole.checkpoint_id


def test_only_the_gist_encoder_multiplies_in_bfloat16():
    net = _gister(True).net
    assert isinstance(net.encoder.layers[0].down_proj, HalfLinear)
    assert net.encoder.layers[0].q_proj.weight.dtype == torch.bfloat16
    for part in (net.head, net.keys.encoder.layers[0].q_proj, net.keys.lexical):
        assert part.weight.dtype == torch.float32


def test_weights_stored_by_columns_keep_every_gist_and_key(monkeypatch):
    tokens = generator(0, "columns").integers(0, 50, (40, 12)).astype(np.uint32)
    by_columns = _gister(False)
    monkeypatch.setattr(gister_module, "store_by_columns", lambda net: None)
    by_rows = _gister(False)
    stored = by_columns.net.encoder.layers[0].q_proj.weight
    plain = by_rows.net.encoder.layers[0].q_proj.weight
    assert stored.T.is_contiguous()
    assert plain.is_contiguous()
    assert torch.equal(stored, plain)
    for count in (1, 40):
        ours, theirs = (
            gister.encode_blocks(tokens[:count, 4:], tokens[:count, :4])
            for gister in (by_columns, by_rows)
        )
        np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(ours[1], theirs[1], rtol=0, atol=1e-6)


def test_an_encoder_that_was_read_can_still_be_trained():
    encoder = Encoder(EncoderShape(32, 2, 4, 2, 48))
    encoder.init_weights(torch.Generator().manual_seed(0))
    x = torch.randn(2, 11, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        read = encoder(x)
    trained = encoder(x)
    trained.sum().backward()
    assert torch.equal(read, trained)
    assert all(parameter.grad is not None for parameter in encoder.parameters())


class _Graph:
    """Stands for a CUDA graph on a CPU: ``error`` is what the machine adds to a gist."""

    made = 0
    error = 0.0

    def __init__(self, encode, length, device) -> None:
        type(self).made += 1
        self._encode = encode

    def encode(self, ids):
        gist, key = self._encode(torch.from_numpy(ids))
        return gist.numpy() + self.error, key.numpy()


@pytest.mark.parametrize(("error", "used"), [(0.0, True), (0.5, False), (np.nan, False)])
def test_a_graph_that_gives_other_gists_is_not_used(monkeypatch, error, used):
    monkeypatch.setattr(gister_module, "BlockGraph", _Graph)
    monkeypatch.setattr(_Graph, "made", 0)
    monkeypatch.setattr(_Graph, "error", error)
    tokens = generator(0, "graph").integers(0, 50, (3, 12)).astype(np.uint32)
    plain, graphed = _gister(False), _gister(False)
    graphed._no_graph = False
    for block in tokens:
        expected = plain.encode_blocks(block[None, 4:], block[None, :4])
        for got, target in zip(
            graphed.encode_blocks(block[None, 4:], block[None, :4]), expected, strict=True
        ):
            np.testing.assert_allclose(got, target, atol=1e-6)
    assert _Graph.made == 1
    assert (graphed._one_block is not None) is used


def test_a_machine_that_refuses_graphs_encodes_without(monkeypatch):
    def refuse(*arguments):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(gister_module, "BlockGraph", refuse)
    gister = _gister(False)
    gister._no_graph = False
    tokens = generator(0, "graph").integers(0, 50, (1, 12)).astype(np.uint32)
    gists, keys = gister.encode_blocks(tokens[:, 4:], tokens[:, :4])
    assert gister._no_graph
    assert np.isfinite(gists).all()
    assert np.isfinite(keys).all()
