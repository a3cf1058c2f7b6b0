"""Several hops, and the margin and hops that a model's own answers choose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from megacontext.core.heads import fit
from megacontext.core.heads.calibration import HeadsCalibration
from megacontext.core.heads.encoder import HeadEncoder, HeadReader
from megacontext.core.heads.fit import answer_prob, expanded_blocks
from megacontext.core.heads.history_keys import HistoryKeys
from megacontext.core.heads.lookup import look_up
from megacontext.core.heads.store import KeyStore
from megacontext.core.model import BaseModel

VOCAB, BLOCK, BLOCKS = 97, 32, 20
KEY, LINK, OTHER = 2, 1, 0  # tokens that stand nowhere else in the history


@pytest.fixture(scope="module")
def base() -> BaseModel:
    """A random Llama whose first layer asks with its keys: a token attends to its own kind."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.7,
    )
    module = LlamaForCausalLM(config)
    attention = module.model.layers[0].self_attn
    attention.q_proj.weight.data.copy_(attention.k_proj.weight.data)
    return BaseModel.from_module(module, name="matching")


def keys_with(base: BaseModel, **settings: object) -> HistoryKeys:
    heads = ((0, 0), (0, 1))
    calibration = HeadsCalibration(
        model="test",
        heads=heads,
        key_heads=heads,
        offset=np.zeros((2, 32), np.float32),
        scale=np.full((2, 32), 0.15, np.float32),
        **settings,  # type: ignore[arg-type]
    )
    encoder = HeadEncoder(HeadReader(base), calibration)
    return HistoryKeys(encoder, KeyStore(encoder))


@pytest.fixture
def chain() -> np.ndarray:
    """KEY and LINK stand in block 6, LINK alone in block 13, and KEY asks at the end."""
    tokens = np.random.default_rng(0).integers(3, 40, BLOCK * BLOCKS).astype(np.uint32)
    tokens[6 * BLOCK + 10], tokens[6 * BLOCK + 14] = KEY, LINK
    tokens[13 * BLOCK + 20] = LINK
    return np.append(tokens, KEY).astype(np.uint32)


def lookup_of(keys: HistoryKeys, tokens: np.ndarray):
    return look_up(keys, lambda a, b: tokens[a:b], len(tokens), 1, BLOCK)


def test_without_hops_only_what_the_question_names_is_found(base, chain) -> None:
    lookup = lookup_of(keys_with(base, margin=0.5), chain)
    assert np.flatnonzero(lookup.selected).tolist() == [6]


def test_a_hop_leads_from_a_found_block_to_the_next(base, chain) -> None:
    lookup = lookup_of(keys_with(base, margin=0.5, hops=1), chain)
    assert lookup.selected[[6, 13]].all()
    assert lookup.strength[13] < lookup.strength[6] == 1
    hop = next(match for match in lookup.matches if match.block == 13)
    pair = hop.pairs[0]  # the link in the first block met the link in the second
    assert (pair.query_token, pair.block_token) == (6 * BLOCK + 14, 13 * BLOCK + 20)


def test_tokens_that_the_question_did_not_attend_to_lead_nowhere(base, chain) -> None:
    chain[6 * BLOCK + 14] = 50
    chain[6 * BLOCK + 30] = LINK  # in the same block, but out of reach of what was found
    lookup = lookup_of(keys_with(base, margin=0.5, hops=1), chain)
    assert not lookup.selected[13]


def test_a_hop_never_returns_what_is_already_selected(base, chain) -> None:
    lookup = lookup_of(keys_with(base, margin=0.5, hops=5), chain)
    blocks = [match.block for match in lookup.matches]
    assert len(blocks) == len(set(blocks))


def test_a_token_of_the_question_leads_nowhere_further(base, chain) -> None:
    keys = keys_with(base, margin=1.0, hops=1)
    assert lookup_of(keys, chain).selected[13]
    both = np.append(chain[:-1], [LINK, KEY]).astype(np.uint32)
    lookup = look_up(keys, lambda a, b: both[a:b], len(both), 2, BLOCK)
    assert lookup.selected[6]
    assert not lookup.selected[13]


@pytest.mark.parametrize("blocks", [2, 3, 4])
def test_hops_in_a_history_of_few_blocks_end_there(base, blocks) -> None:
    tokens = np.random.default_rng(1).integers(3, 40, BLOCK * blocks + 1).astype(np.uint32)
    lookup = lookup_of(keys_with(base, margin=0.5, hops=3), tokens)
    assert np.isfinite(lookup.strength).all()
    assert all(np.isfinite(match.score) for match in lookup.matches)


def test_expanded_blocks_are_the_first_the_newest_and_what_is_found(
    base, chain, monkeypatch
) -> None:
    monkeypatch.setattr(fit, "_NEWEST", 4)
    keys = keys_with(base)
    narrow, hop = expanded_blocks(keys, chain[:-1], chain[-1:], [(0.5, 0), (0.5, 1)])
    newest = range(BLOCKS - 4, BLOCKS)
    assert narrow == (0, 5, 6, 7, *newest)
    assert hop == (0, 5, 6, 7, 12, 13, 14, *newest)


def test_the_answers_prob_is_that_of_the_whole_text_when_all_is_raw(base, chain) -> None:
    history, question, answer = chain[:-1], chain[-1:], np.array([5, 9], np.uint32)
    prob = answer_prob(base, history, range(BLOCKS), question, answer)
    ids = torch.from_numpy(np.concatenate([history, question, answer]).astype(np.int64))
    with torch.no_grad():
        plain = base.module(input_ids=ids[None], labels=None).logits[0, -3:-1].log_softmax(-1)
    expected = plain[[0, 1], [5, 9]].mean().exp()
    assert prob == pytest.approx(float(expected), rel=1e-3)


class TestFit:
    """The setting with the likeliest answers, and of equal ones the one with fewest blocks."""

    def fitted(self, base, monkeypatch, prob_of) -> HeadsCalibration:
        keys = keys_with(base)
        monkeypatch.setattr(fit, "expanded_blocks", lambda *arguments: arguments[-1])
        monkeypatch.setattr(fit, "answer_prob", lambda base, history, blocks, *_: prob_of(*blocks))

        class Encodes:
            encode = staticmethod(lambda text: np.arange(3, dtype=np.uint32))

        class Task:
            name, history, question, outputs = "facts", "h", "q", ("a",)

        reader = keys.encoder.reader
        monkeypatch.setattr(reader.base, "_tokenizer", Encodes())
        return fit.fit_selection(reader, keys.encoder.calibration, [[Task()]])

    def test_the_highest_prob_wins(self, base, monkeypatch) -> None:
        chosen = self.fitted(
            base, monkeypatch, lambda margin, hops: 0.5 + 0.2 * (margin == 0.5) + 0.2 * (hops == 6)
        )
        assert (chosen.margin, chosen.hops) == (0.5, 6)
        assert chosen.metrics["answer_prob_margin_0.5_hops_6"] == 0.9

    def test_of_equal_settings_the_one_with_fewest_blocks(self, base, monkeypatch) -> None:
        chosen = self.fitted(base, monkeypatch, lambda margin, hops: 0.5 + 0.001 * (margin < 0.5))
        assert (chosen.margin, chosen.hops) == (max(fit.MARGINS), 0)


def test_margin_and_hops_leave_the_stored_keys_alone(base) -> None:
    calibration = keys_with(base).encoder.calibration
    assert replace(calibration, margin=0.15, hops=3).id == calibration.id


def test_an_example_is_read_whole_and_is_no_candidate(base) -> None:
    tokens = np.random.default_rng(1).integers(20, 60, BLOCK * 40).astype(np.uint32)
    question = np.arange(60, 76, dtype=np.uint32)
    example = question.copy()
    example[5] = 80
    tokens[30 * BLOCK + 4 : 30 * BLOCK + 20] = example
    tokens[34 * BLOCK + 9] = question[5]  # what is asked for
    tokens = np.concatenate([tokens, question])
    lookup = look_up(keys_with(base, margin=0.5), lambda a, b: tokens[a:b], len(tokens), 16, BLOCK)
    assert np.flatnonzero(lookup.example).tolist() == list(range(14, 32))
    assert lookup.selected[34]
    assert not lookup.selected[lookup.example].any()


def test_a_token_that_knows_where_to_look_counts_more_than_many_that_do_not(base) -> None:
    tokens = np.random.default_rng(2).integers(40, 60, BLOCK * BLOCKS).astype(np.uint32)
    words = np.arange(3, 11)
    for block in (4, 7, 11):  # said in the words of the question, of other things
        tokens[block * BLOCK + 8 : block * BLOCK + 16] = words
    tokens[14 * BLOCK + 8 : 14 * BLOCK + 12] = words[:4]
    tokens[14 * BLOCK + 12] = KEY
    tokens = np.concatenate([tokens, words, [KEY]]).astype(np.uint32)
    lookup = look_up(keys_with(base, margin=0.99), lambda a, b: tokens[a:b], len(tokens), 9, BLOCK)
    assert np.flatnonzero(lookup.selected).tolist() == [14]
