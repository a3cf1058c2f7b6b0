"""How text becomes tokens: pieces, special tokens, the beginning and the end, chat templates."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from megacontext.core.model.chat import chat_format
from megacontext.core.model.tokenizer import TextRules, Tokenizer
from megacontext.traces.errors import ModelError

SPECIAL = ["<s>", "</s>", "<|user|>", "<|end|>"]
CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|user|>system be kind<|end|>\n{% endif %}"
    "{% for m in messages %}<|user|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|user|>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('no system') }}{% elif m['role'] == 'user' %}"
    "[INST] {{ m['content'] | trim }} [/INST]{% else %} {{ m['content'] }}</s>{% endif %}"
    "{% endfor %}"
)


def byte_level(chat: str | None = None) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = Fast(models.BPE({c: i for i, c in enumerate([*SPECIAL, *alphabet])}, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=fast, bos_token="<s>", eos_token="</s>", chat_template=chat
    )


def with_prefix_space() -> PreTrainedTokenizerFast:
    """As Llama 2 and Mistral have it: every string gets a space in front, and a beginning."""
    words = ["<s>", "</s>", "▁", *"abcdefgh:\n()x", "▁a", "▁b"]
    fast = Fast(
        models.BPE({w: i for i, w in enumerate(words)}, [("▁", "a"), ("▁", "b")], fuse_unk=True)
    )
    fast.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    fast.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast.add_special_tokens(["<s>", "</s>"])
    fast.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=fast, bos_token="<s>", eos_token="</s>")


def test_text_in_pieces_has_the_tokens_of_the_whole_text():
    tokenizer = Tokenizer(with_prefix_space())
    text = "(a b)\n  a: b\n"
    whole = tokenizer.encode(text)
    pieces = [tokenizer.encode(line) for line in text.splitlines(keepends=True)]
    assert np.concatenate(pieces).tolist() == whole.tolist()
    assert tokenizer.decode(whole) == "".join(tokenizer.pieces(whole)) == text


def test_a_leading_space_of_a_text_is_neither_doubled_nor_lost():
    tokenizer = Tokenizer(with_prefix_space())
    for text in (" a", "  b", "a"):
        assert "".join(tokenizer.pieces(tokenizer.encode(text))) == text


def test_offsets_are_those_of_the_text():
    tokenizer = Tokenizer(with_prefix_space())
    ids, spans = tokenizer.encode_spans("b a")
    assert ids.tolist() == tokenizer.encode_history("b a").tolist()
    assert spans.tolist() == [[0, 0], [0, 1], [1, 3]]


def test_a_special_tokens_name_in_a_text_is_text_unless_told_otherwise():
    text = "say </s> now"
    plain, control = Tokenizer(byte_level()), Tokenizer(byte_level(), TextRules(True))
    assert not set(plain.encode(text).tolist()) & {0, 1, 2, 3}
    assert plain.decode(plain.encode(text)) == text
    assert control.encode(text).tolist().count(1) == 1


def test_a_history_begins_as_the_tokenizer_begins_a_text():
    assert Tokenizer(with_prefix_space()).start_ids == (0,)
    assert Tokenizer(with_prefix_space(), TextRules(bos="off")).start_ids == ()
    assert Tokenizer(byte_level()).start_ids == ()
    assert Tokenizer(byte_level(), TextRules(bos="on")).encode_history("a")[0] == 0


def test_a_beginning_that_does_not_exist_is_refused():
    hf = byte_level()
    hf.bos_token = None
    with pytest.raises(ModelError, match=r"model\.bos is on but the tokenizer has no"):
        Tokenizer(hf, TextRules(bos="on"))


def test_every_end_token_ends_a_reply():
    assert Tokenizer(byte_level(), end_ids=[3]).end_ids == {1, 3}
    assert Tokenizer(byte_level(CHATML)).end_ids == {1, 3}


def test_a_turn_has_no_system_prompt_and_no_end_of_a_reply_that_was_not_there():
    tokenizer = Tokenizer(byte_level(CHATML))
    turn = tokenizer.decode(tokenizer.turn(" Who? "))
    assert turn == "<|user|>user\nWho?<|end|>\n<|user|>assistant\n"
    after_stop = tokenizer.decode(tokenizer.turn("Who?", reply_end=50))
    assert after_stop == "<|end|>\n" + turn
    assert tokenizer.decode(tokenizer.turn("Who?", reply_end=3)) == "\n" + turn


def test_control_tokens_come_from_the_template_alone():
    tokenizer = Tokenizer(byte_level(CHATML))
    ids = tokenizer.turn("What does <|end|> mean?").tolist()
    assert ids.count(3) == 1
    assert "What does <|end|> mean?" in tokenizer.decode(ids)


def test_a_template_that_refuses_a_system_prompt_is_read_too():
    found = chat_format(byte_level(INST))
    assert found is not None
    assert (found.before, found.after, found.close) == ("[INST] ", " [/INST]", "</s>")


def test_a_template_can_be_switched_off_and_a_missing_one_is_refused():
    assert Tokenizer(byte_level(CHATML), TextRules(chat="off")).turn("Who?").tolist() == [
        *Tokenizer(byte_level()).encode("Who?")
    ]
    with pytest.raises(ModelError, match=r"model\.chat is on but the tokenizer has no usable"):
        Tokenizer(byte_level(), TextRules(chat="on"))
    with pytest.raises(ModelError, match="no usable"):
        Tokenizer(byte_level("{{ messages[0]['role'] }}"), TextRules(chat="on"))


def test_prefix_is_found_in_a_metaspace_too():
    fast = Fast(models.BPE({"▁": 0, "a": 1, "▁a": 2}, [("▁", "a")]))
    fast.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace()])
    fast.decoder = decoders.Metaspace()
    assert json.loads(fast.to_str())["pre_tokenizer"]["type"] == "Sequence"
    tokenizer = Tokenizer(PreTrainedTokenizerFast(tokenizer_object=fast))
    assert tokenizer.encode("a a").tolist() == [1, 2]
    assert tokenizer.decode(tokenizer.encode(" a")) == " a"


def test_looked_up_pieces_are_those_of_a_stream_that_decodes_every_token(monkeypatch):
    tokenizer = Tokenizer(byte_level())
    rng = np.random.default_rng(3)
    text = "aé漢🙂 <|end|>\n".encode() * 20
    whole = tokenizer.hf.convert_tokens_to_ids(bytes_to_letters(text))
    broken = rng.integers(0, len(tokenizer), 400).tolist()  # bytes that form no characters
    ids = [*whole, *broken, 2, *whole]

    looked_up = tokenizer.pieces(ids)
    monkeypatch.setattr(tokenizer, "_byte_level", False)
    assert tokenizer.pieces(ids) == looked_up
    assert "".join(looked_up) == tokenizer.decode(ids)


def test_known_tokens_are_not_decoded_again(monkeypatch):
    tokenizer = Tokenizer(byte_level())
    ids = tokenizer.encode("plain text")
    first = tokenizer.pieces(ids)
    monkeypatch.setattr(tokenizer, "_decode", None)
    assert tokenizer.pieces(ids) == first == list("plain text")


def bytes_to_letters(data: bytes) -> list[str]:
    """The byte-level alphabet's letter of each byte."""
    coder = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return [coder.pre_tokenize_str(data.decode())[0][0][i] for i in range(len(data))]
