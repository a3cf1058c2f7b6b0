"""GistNet: shapes, norms, its start at the mean, checkpoints, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from megacontext.core.gistnet.checkpoint import save_folder
from megacontext.core.gistnet.encoder import Encoder, EncoderShape, copy_base_layers
from megacontext.core.gistnet.gister import NetGister, load_gistnet, save_gistnet
from megacontext.core.gistnet.keys import KeyConfig
from megacontext.core.gistnet.mean import MeanGister
from megacontext.core.gistnet.module import GistNet, GistNetConfig
from megacontext.core.tree import NO_TOKEN, Tree, TreeSpec
from megacontext.traces.errors import ConfigError, ModelError

VOCAB, DIM, K, C = 300, 32, 8, 4
KEYS = KeyConfig(width=16, layers=1, heads=2, ffn=24, context_dim=8, lexical_dim=8)


def embedding(seed: int = 0) -> torch.Tensor:
    return torch.randn((VOCAB, DIM), generator=torch.Generator().manual_seed(seed)) * 0.03


def config(**change: object) -> GistNetConfig:
    fields = {
        "dim": DIM,
        "block_size": K,
        "left_context": C,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "ffn": 48,
        "gist_rms": 0.03,
        "start": "mean",
        "keys": KEYS,
    }
    return GistNetConfig(**{**fields, **change})  # type: ignore[arg-type]


def network(seed: int = 0, **change: object) -> GistNet:
    net = GistNet(config(**change))
    net.init_weights(seed)
    return net


def trained(seed: int = 0, **change: object) -> GistNet:
    """A network whose head is no longer zero."""
    net = network(seed, **change)
    with torch.no_grad():
        noise = torch.randn(net.head.weight.shape, generator=torch.Generator().manual_seed(9))
        net.head.weight.copy_(noise * 0.1)
    return net


def tokens(n: int, width: int = K, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, (n, width)).astype(np.uint32)


@pytest.mark.parametrize("pooling", ["mean", "query", "cls", "mean_query"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_every_kind_makes_rms_matched_gists_and_unit_keys(pooling: str, head: str) -> None:
    gister = NetGister(trained(pooling=pooling, head=head), embedding())
    gists, keys = gister.encode_blocks(tokens(5), tokens(5, C))
    assert gists.shape == (5, DIM)
    assert keys.shape == (5, KEYS.key_dim)
    np.testing.assert_allclose(np.sqrt((gists**2).mean(axis=1)), 0.03, rtol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(keys, axis=1), 1, rtol=1e-3)
    upper, upper_keys = gister.encode_gists(2, np.stack([np.resize(gists, (K, DIM))] * 3))
    np.testing.assert_allclose(np.sqrt((upper**2).mean(axis=1)), 0.03, rtol=1e-3)
    assert not upper_keys.any()


def test_an_untrained_network_makes_the_mean_control_up_to_scale() -> None:
    table = embedding()
    ours = NetGister(network(), table).encode_blocks(tokens(6), tokens(6, C))[0]
    control = MeanGister(table.numpy()).encode_blocks(tokens(6), tokens(6, 0))[0]
    ratio = ours / control
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio.mean(), ratio.shape), rtol=1e-3)


def test_gists_are_the_same_in_any_batch_and_run() -> None:
    first = NetGister(trained(), embedding(), batch=2)
    second = NetGister(trained(), embedding())
    blocks, left = tokens(7), tokens(7, C)
    np.testing.assert_allclose(
        first.encode_blocks(blocks, left)[0], second.encode_blocks(blocks, left)[0], atol=1e-6
    )
    again = second.encode_blocks(blocks, left)
    assert np.array_equal(again[0], second.encode_blocks(blocks, left)[0])
    assert first.checkpoint_id == second.checkpoint_id


def test_gist_depends_on_the_order_of_tokens_and_on_the_left_context() -> None:
    gister = NetGister(trained(), embedding())
    blocks, left = tokens(2), tokens(2, C)
    gists = gister.encode_blocks(blocks, left)[0]
    turned = gister.encode_blocks(blocks[:, ::-1].copy(), left)[0]
    start = gister.encode_blocks(blocks, np.full((2, C), NO_TOKEN, np.uint32))[0]
    assert np.abs(gists - turned).max() > 1e-5
    assert np.abs(gists - start).max() > 1e-5


def test_checkpoint_round_trip_keeps_id_and_gists(tmp_path: Path) -> None:
    table, net = embedding(), trained()
    name = save_gistnet(net, tmp_path / "g", table)
    gister = NetGister.load(tmp_path / "g", table)
    assert gister.checkpoint_id == name
    assert gister.checkpoint_id == NetGister(trained(), table).checkpoint_id
    loaded, _ = load_gistnet(tmp_path / "g", table)
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, net.state_dict()[key].bfloat16().float()), key


def test_gister_fills_a_tree_of_three_levels() -> None:
    gister = NetGister(trained(), embedding())
    spec = TreeSpec(K, 3, DIM, KEYS.key_dim, "fp32", "test", gister.checkpoint_id, VOCAB)
    tree = Tree.create(spec, gister)
    tree.append(tokens(1, K * K + 3)[0])
    assert (tree.n_nodes(1), tree.n_nodes(2)) == (K, 1)
    expected = gister.encode_gists(2, tree.gists(1, 0, K)[None])[0]
    np.testing.assert_allclose(tree.gists(2, 0, 1), expected, atol=1e-6)


def test_other_base_or_width_is_refused_in_one_sentence(tmp_path: Path) -> None:
    save_gistnet(trained(), tmp_path / "g", embedding())
    with pytest.raises(ModelError, match="was trained on base model"):
        NetGister.load(tmp_path / "g", embedding(5))
    with pytest.raises(ModelError, match="32 values but the base model's embeddings have 16"):
        NetGister.load(tmp_path / "g", embedding()[:, :16])
    config, weights = tmp_path / "g" / "config.json", trained().state_dict()
    meta = json.loads(config.read_text())
    name = next(key for key in weights if weights[key].ndim == 2)
    odd = weights | {name: torch.zeros(1, 3)}
    save_folder(tmp_path / "old", "gistnet", odd, meta["config"], {"base": meta["base"]})
    with pytest.raises(ModelError, match="GistNet of another shape"):
        NetGister.load(tmp_path / "old", embedding())


def test_damaged_or_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no readable gistnet checkpoint"):
        NetGister.load(tmp_path / "none", embedding())
    save_gistnet(trained(), tmp_path / "a", embedding())
    save_gistnet(trained(3), tmp_path / "b", embedding())
    (tmp_path / "a" / "model.safetensors").write_bytes(
        (tmp_path / "b" / "model.safetensors").read_bytes()
    )
    with pytest.raises(ModelError, match="not those of checkpoint"):
        NetGister.load(tmp_path / "a", embedding())


def test_wrong_block_size_and_foreign_tokens_are_refused() -> None:
    gister = NetGister(trained(), embedding())
    with pytest.raises(ModelError, match="blocks of 8 tokens"):
        gister.encode_blocks(tokens(1, 16), tokens(1, C))
    with pytest.raises(ModelError, match="outside the base model's vocabulary"):
        gister.encode_blocks(tokens(1) + VOCAB + 7, tokens(1, C))
    with pytest.raises(ConfigError, match="pooling"):
        config(pooling="max")


def test_encoder_takes_over_the_lower_layers_of_a_llama() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=DIM,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=VOCAB,
        )
    )
    net = network()
    copy_base_layers(net.encoder, base.state_dict())
    copied = net.encoder.layers[1].get_parameter("q_proj.weight")
    assert torch.equal(copied, base.model.layers[1].self_attn.q_proj.weight)
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.gate_proj"):
        copy_base_layers(Encoder(EncoderShape(DIM, 1, 4, 2, 64)), base.state_dict())


def test_query_is_padded_and_only_its_newest_tokens_count() -> None:
    gister = NetGister(trained(), embedding())
    long = tokens(1, KEYS.query_tokens + 9)[0]
    np.testing.assert_array_equal(
        gister.encode_query(long), gister.encode_query(long[-KEYS.query_tokens :])
    )
    assert gister.encode_query(long[:3]).shape == (KEYS.queries, KEYS.key_dim)


def test_key_search_finds_a_planted_block_before_any_training() -> None:
    gister = NetGister(trained(), embedding())
    blocks = tokens(200)
    keys = gister.encode_blocks(blocks, tokens(200, C))[1]
    hits = 0
    for gold in range(0, 200, 10):
        score = (keys @ gister.encode_query(blocks[gold]).T).max(axis=1)
        hits += int((score > score[gold]).sum()) < 4
    assert hits >= 17


@pytest.mark.gpu
@pytest.mark.parametrize("start", ["mean", "token"])
def test_one_block_under_a_graph_is_that_block_of_a_batch(start):
    gister = NetGister(trained(start=start), embedding().cuda())
    blocks, left = tokens(6), tokens(6, C, seed=2)
    left[0] = NO_TOKEN
    gists, keys = gister.encode_blocks(blocks, left)
    for i in range(6):
        gist, key = gister.encode_blocks(blocks[i : i + 1], left[i : i + 1])
        np.testing.assert_allclose(gist[0], gists[i], atol=1e-5)
        np.testing.assert_allclose(key[0], keys[i], atol=1e-5)
