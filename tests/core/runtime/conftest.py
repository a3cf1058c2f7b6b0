"""A tiny random Llama with a byte-level tokenizer, saved as a model folder once per test run."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<eos>": 0} | {letter: i + 1 for i, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=0,
        bos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def text_file(tmp_path):
    rng = np.random.default_rng(5)
    words = ["".join(rng.choice(list("abcdefgh"), 4)) for _ in range(40)]
    path = tmp_path / "text.txt"
    path.write_text(" ".join(rng.choice(words, 700)))
    return path


@pytest.fixture
def config_text(model_folder, text_file):
    return f"""
seed: 3
w_max: 128
block_size: 8
model: {{path: {model_folder}, dtype: float32}}
tree: {{max_levels: 3}}
kv: {{drift_every: 16, refresh_every: 512, refresh_chunk: 64}}
source: {{kind: text, path: {text_file}, max_tokens: 1500, decode_tokens: 24}}
"""


@pytest.fixture(scope="session")
def plain():
    """The reader that knows only pyarrow and docs/formats.md."""
    path = Path(__file__).parents[2] / "contract" / "plain_reader.py"
    spec = importlib.util.spec_from_file_location("plain_reader", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
