"""A tiny random Llama with a byte-level tokenizer, and a batch over it."""

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
def batch_file(tmp_path, model_folder):
    """Two overrides of one config over two streams: four jobs."""
    rng = np.random.default_rng(5)
    for name in "ab":
        words = ["".join(rng.choice(list("abcdefgh"), 4)) for _ in range(100)]
        (tmp_path / f"{name}.txt").write_text(" ".join(words))
    (tmp_path / "tiny.yaml").write_text(
        f"""
w_max: 128
block_size: 8
model: {{path: {model_folder}, dtype: float32}}
gist: {{kind: mean}}
tree: {{max_levels: 3}}
lens: {{kind: recency}}
"""
    )
    path = tmp_path / "batch.yaml"
    path.write_text(
        f"""
configs: [tiny.yaml]
seeds: [4]
overrides:
  plain:
  random: [lens.kind=random, focus.n_diff=8]
streams:
  a: {{kind: text, path: {tmp_path}/a.txt, max_tokens: 300, decode_tokens: 4}}
  b: {{kind: text, path: {tmp_path}/b.txt, max_tokens: 200}}
out: {tmp_path}/out
"""
    )
    return path
