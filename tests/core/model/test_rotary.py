"""The probe finds how each layer uses positions, and moved keys equal recomputed ones."""

import numpy as np
import pytest
import torch
from transformers import (
    DynamicCache,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from megacontext.core.model import BaseModel, KVWindow
from megacontext.core.model.rotary import probe_rotary, rotate_keys
from megacontext.core.model.slotted_cache import SlottedCache
from megacontext.core.runtime.nll import full_history_nll, token_nll
from megacontext.core.runtime.pretrained import bundle_folder


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("llama", (0, 1, 2, 3)),
        ("llama3", (0, 1, 2, 3)),
        ("yarn", (0, 1, 2, 3)),
        ("smollm3", (0, 1, 2)),  # every fourth layer has no positions
        ("qwen3", (0, 1, 2, 3)),
    ],
)
def test_the_probe_finds_the_rotated_layers(tiny_model, kind, layers):
    found = probe_rotary(tiny_model(kind))
    assert found.reason is None
    assert found.layers == layers


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_bundled_model_in_a_window_is_the_model(dtype):
    """Two of its layers attend so far that their keys hardly turn: less than bfloat16 rounds."""
    base = BaseModel.load(str(bundle_folder() / "base"), device="cpu", dtype=dtype)
    assert len(probe_rotary(base).layers) == base.kv_shape[0]
    text = "The lighthouse keeper counted the ships that passed the harbour. " * 16
    tokens = base.tokenizer.encode(text)
    window = KVWindow(base, 2 * len(tokens))
    first = window.append(tokens[:64])
    rest = window.append(tokens[64:])
    nll = token_nll(torch.cat([first.logits[-1:], rest.logits[:-1]]), tokens[64:])
    full = full_history_nll(base, tokens, len(tokens) - 64)
    assert nll.mean() == pytest.approx(full.mean(), abs=0.01)


def test_learned_positions_cannot_be_moved(tiny_model):
    found = probe_rotary(tiny_model("gpt2"))
    assert found.layers == ()
    assert found.reason == "layer 0 does not rotate its keys by position"


def test_a_rope_that_changes_with_the_length_cannot_be_moved():
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=64,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    )  # fmt: skip
    found = probe_rotary(BaseModel.from_module(LlamaForCausalLM(config)))
    assert found.reason == "its 'dynamic' rope changes with the length"


def test_partly_rotated_keys_are_found():
    config = GPTNeoXConfig(
        vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    found = probe_rotary(BaseModel.from_module(GPTNeoXForCausalLM(config)))
    assert found.reason is None
    assert found.layers == (0, 1)
    assert len(found.inv_freq) == 2


def test_local_layers_do_not_bound_the_window():
    config = MistralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
        sliding_window=24,
    )  # fmt: skip
    base = BaseModel.from_module(MistralForCausalLM(config))
    assert base.window == 64
    assert base.local is not None
    assert base.local.describe() == "layers that see only the newest 24 rows (a sliding window)"


def _keys(base: BaseModel, x: torch.Tensor, positions: list[int]) -> torch.Tensor:
    """Cached keys [L, H, r, D] of rows that see only themselves."""
    cache = DynamicCache()
    mask = torch.eye(len(x), dtype=torch.bool)
    base.forward_rows(x, torch.tensor(positions), mask, cache, keep=1)
    return torch.stack([layer.keys[0] for layer in cache.layers])


@pytest.mark.parametrize("kind", ["llama", "llama3", "yarn", "smollm3", "qwen3"])
def test_moved_keys_equal_keys_computed_at_the_new_positions(tiny_model, kind):
    base = tiny_model(kind)
    x = base.embed([3, 5, 7])
    cache = SlottedCache(base, 8, probe_rotary(base))
    slots, born, target = np.array([6, 1, 4]), np.array([10, 2, 200]), np.array([7, 90, 199])
    cache.write_slots = torch.from_numpy(slots)
    for layer, keys in enumerate(_keys(base, x, born.tolist())):
        cache.write(layer, keys, keys)
    cache.born(slots, born)
    cache.move(slots, target)
    expected = _keys(base, x, target.tolist())
    torch.testing.assert_close(cache.keys[:, :, slots], expected, atol=1e-5, rtol=1e-5)
    cache.move(slots, born)
    torch.testing.assert_close(cache.keys[:, :, slots], _keys(base, x, born.tolist()))


def test_a_thousand_moves_cost_one_rounding(tiny_module):
    """In bfloat16, moving from the birth stays at one rounding; moving on and on does not."""
    torch.manual_seed(0)
    base = BaseModel.from_module(tiny_module("llama").to(torch.bfloat16))
    rotary = probe_rotary(base)
    cache = SlottedCache(base, 4, rotary)
    slots, born = np.arange(3), np.array([5, 50, 150])
    keys = _keys(base, base.embed([3, 5, 7]), born.tolist())
    cache.write_slots = torch.from_numpy(slots)
    for layer in range(len(keys)):
        cache.write(layer, keys[layer], keys[layer])
    cache.born(slots, born)
    rng, at, chained = np.random.default_rng(0), born, keys.clone()
    for _ in range(1000):
        target = rng.integers(0, 500, 3)
        cache.move(slots, target)
        chained = rotate_keys(chained, torch.from_numpy(target - at), rotary.inv_freq)
        at = target
    true = rotate_keys(keys.double(), torch.from_numpy(at - born), rotary.inv_freq)

    def error(found: torch.Tensor) -> float:
        return float((found.double() - true).norm() / true.norm())

    assert error(cache.keys[:, :, :3]) < 2**-8
    assert error(chained) > 4 * error(cache.keys[:, :, :3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama", "smollm3"])
def test_keys_moved_one_by_one_and_many_at_once_are_the_same(tiny_module, kind, dtype):
    base = BaseModel.from_module(tiny_module(kind).to(dtype))
    rotary = probe_rotary(base)
    gathered, whole = SlottedCache(base, 40, rotary), SlottedCache(base, 40, rotary)
    slots, born = np.random.default_rng(0).permutation(40), np.arange(40) * 3
    keys = torch.randn(gathered.keys[:, :, :40].shape, generator=torch.Generator().manual_seed(1))
    for cache in (gathered, whole):
        cache.write_slots = torch.from_numpy(slots)
        for layer, of_layer in enumerate(keys.to(dtype)):
            cache.write(layer, of_layer, of_layer)
        cache.born(slots, born)
    for shift in (7, -2):  # what was moved before stays where it was moved to
        moving = slots[10 + shift :]
        target = born[10 + shift :] + shift
        whole.move(moving, target)
        for slot, place in zip(moving, target, strict=True):
            gathered.move(np.array([slot]), np.array([place]))
        assert torch.equal(gathered.keys, whole.keys)
        assert not torch.equal(whole.keys, whole.values)
