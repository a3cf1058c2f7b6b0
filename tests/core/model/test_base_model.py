"""Loading a base model from a folder, and the sentence for everything that can be wrong."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config

from megacontext.core.model import BaseModel, loading
from megacontext.core.model.tokenizer import Tokenizer
from megacontext.traces.errors import ModelError


def byte_tokenizer(extra: int = 0) -> PreTrainedTokenizerFast:
    """One token per byte, as byte-level BPE has them, and ``extra`` further tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate([*alphabet, *(f"<{i}>" for i in range(extra))])}
    fast = FastTokenizer(models.BPE(vocabulary, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=fast)


@pytest.fixture
def folder(tmp_path, tiny_module):
    """A saved model of 97 tokens with a tokenizer of its own."""
    torch.manual_seed(0)
    path = tmp_path / "model"
    tiny_module("llama").save_pretrained(path)
    vocabulary = {chr(33 + i): i for i in range(90)}
    fast = FastTokenizer(models.BPE(vocabulary, []))
    PreTrainedTokenizerFast(tokenizer_object=fast).save_pretrained(path)
    return path


def refusal(path, **arguments) -> str:
    with pytest.raises(ModelError) as error:
        BaseModel.load(str(path), **({"device": "cpu"} | arguments))
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_folder_loads_frozen_with_its_tokenizer(folder):
    base = BaseModel.load(str(folder), device="cpu")
    assert (base.name, base.dim, base.vocab_size, base.window) == (str(folder), 32, 97, 512)
    assert base.kv_shape == (4, 2, 8)
    assert base.dtype == torch.float32
    assert base.embedding_matrix.shape == (97, 32)
    assert not any(p.requires_grad for p in base.module.parameters())
    ids = base.tokenizer.encode("AB")
    assert ids.dtype == np.uint32
    assert ids.tolist() == [32, 33]
    assert torch.equal(base.embed(ids), base.embedding_matrix[[32, 33]])


def test_the_dtype_can_be_chosen(folder):
    assert BaseModel.load(str(folder), device="cpu", dtype="bfloat16").dtype == torch.bfloat16


def test_a_missing_folder_is_named(tmp_path):
    missing = tmp_path / "nothing here"
    assert refusal(missing) == (
        f"model.path '{missing}' does not exist, give a model folder, a GGUF file or a hub id"
    )


def test_a_folder_without_a_model_is_named(tmp_path):
    assert "is no model folder (no config.json in it)" in refusal(tmp_path)


def test_a_hub_id_offline_is_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refusal("megacontext-nobody/no-such-model")
    assert "neither a folder here nor available from the hub (offline or unknown)" in message


def test_a_damaged_configuration_is_named(folder):
    (folder / "config.json").write_text("{")
    assert "its configuration cannot be read" in refusal(folder)


def test_an_unknown_architecture_is_named(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "perceptron9000"}))
    assert "its configuration cannot be read" in refusal(folder)


def test_an_encoder_decoder_is_refused(tmp_path):
    T5Config(vocab_size=32, d_model=16, num_layers=1).save_pretrained(tmp_path)
    assert "holds a 't5' model, which is no decoder-only language model" in refusal(tmp_path)


def test_missing_weights_are_named(folder):
    (folder / "model.safetensors").unlink()
    assert "its weights cannot be read" in refusal(folder)


def test_damaged_weights_are_named(folder):
    (folder / "model.safetensors").write_bytes(b"no weights")
    assert "its weights cannot be read" in refusal(folder)


def test_incomplete_weights_are_named(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "lacks 1 weights, 'model.norm.weight' among them" in refusal(folder)


def test_a_missing_tokenizer_is_named(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "its tokenizer cannot be read" in refusal(folder)


@pytest.mark.parametrize("extra", [0, 2000])
def test_another_models_tokenizer_is_refused(folder, extra, tiny_module):
    byte_tokenizer(extra).save_pretrained(folder)
    message = refusal(folder)
    assert f"has {256 + extra} tokens but the model has 97" in message


def test_a_far_smaller_tokenizer_is_refused_but_padding_is_not():
    loading.check_tokenizer("m", 151_669, 151_936)
    with pytest.raises(ModelError, match="has 50257 tokens but the model has 151936"):
        loading.check_tokenizer("m", 50_257, 151_936)


def test_a_window_below_the_budget_is_refused(folder):
    assert refusal(folder, needed_window=513) == (
        f"w_max is 513 but model '{folder}' was trained on 512 positions, "
        "set w_max to at most 512 or choose a model with a longer window"
    )
    BaseModel.load(str(folder), device="cpu", needed_window=512)


def test_too_little_memory_is_refused_before_loading(folder, monkeypatch):
    monkeypatch.setattr(loading, "available_bytes", lambda _device: 100_000)
    message = refusal(folder)
    assert "GiB on cpu but 0.0 GiB are free, use dtype bfloat16, a smaller model" in message


def test_free_memory_of_this_machine_is_known():
    found = loading.available_bytes(torch.device("cpu"))
    assert found is None or found > 10_000_000


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_refused(folder):
    expected = "device is 'cuda' but torch finds no GPU, use device cpu or auto"
    assert refusal(folder, device="cuda") == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "tpu"}, "device is 'tpu', use auto, cpu or cuda"),
        ({"dtype": "int8"}, "dtype is 'int8', use auto, float32, bfloat16, float16"),
    ],
)
def test_unknown_devices_and_dtypes_are_refused(folder, arguments, message):
    assert refusal(folder, **arguments) == message


def test_a_wrapped_module_has_no_tokenizer(tiny_model):
    with pytest.raises(ModelError, match="model 'llama' was given no tokenizer"):
        _ = tiny_model("llama").tokenizer


TEXTS = ["plain words", "naïve café", "日本語とemoji 👩‍👩‍👧", "a\u0301b\n\t ", "", "�x�"]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_text_and_never_split_a_character(text):
    tokenizer = Tokenizer(byte_tokenizer())
    ids = tokenizer.encode(text)
    pieces = tokenizer.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert all("\ufffd" not in piece for piece in pieces)


def test_a_stream_carries_a_character_over_calls():
    tokenizer = Tokenizer(byte_tokenizer())
    ids = tokenizer.encode("é!")
    stream = tokenizer.stream()
    assert stream.push(ids[:1]) == [""]
    assert stream.push(ids[1:]) == ["é", "!"]
    assert stream.flush() == ""


def test_an_unfinished_character_shows_at_the_end():
    tokenizer = Tokenizer(byte_tokenizer())
    assert tokenizer.pieces(tokenizer.encode("aé")[:2]) == ["a", "\ufffd"]


def test_bytes_that_are_no_character_come_out_as_replacements():
    tokenizer = Tokenizer(byte_tokenizer())
    ids = [int(tokenizer.encode("é")[1])] * 7  # continuation bytes alone
    assert "".join(tokenizer.pieces(ids)) == tokenizer.decode(ids)


def test_no_special_tokens_are_added():
    tokenizer = Tokenizer(byte_tokenizer())
    assert len(tokenizer.encode("abc")) == 3
    assert tokenizer.eos_id is None
