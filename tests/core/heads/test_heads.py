"""The heads lens: stored keys are a function of tokens alone, and lead to what is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from megacontext.core.focus import WorkingContext
from megacontext.core.heads.calibration import HeadsCalibration, load_cached
from megacontext.core.heads.encoder import HeadEncoder, HeadReader
from megacontext.core.heads.history_keys import HistoryKeys
from megacontext.core.heads.lens import HeadsLens
from megacontext.core.heads.store import HEADS_FILE, KeyStore
from megacontext.core.lenses import Observation
from megacontext.core.model import BaseModel, KVWindow, Layout
from megacontext.core.tree import Tree, TreeSpec
from megacontext.core.tree.gisters import NullGister
from megacontext.traces.errors import ConfigError, ModelError

VOCAB, BLOCK, CHUNK, LEFT = 97, 8, 32, 16
TREE_ID = "0" * 32


@pytest.fixture(scope="module")
def base() -> BaseModel:
    """A random Llama whose first layer asks with its keys: a token attends to its own kind."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.4,
    )
    module = LlamaForCausalLM(config)
    attention = module.model.layers[0].self_attn
    attention.q_proj.weight.data.copy_(attention.k_proj.weight.data)
    return BaseModel.from_module(module, name="matching")


def calibration(heads: tuple[tuple[int, int], ...] = ((0, 0), (0, 1))) -> HeadsCalibration:
    return HeadsCalibration(
        model="test",
        heads=heads,
        key_heads=heads,
        offset=np.zeros((len(heads), 32), np.float32),
        scale=np.full((len(heads), 32), 0.15, np.float32),
        chunk=CHUNK,
        left=LEFT,
    )


@pytest.fixture
def encoder(base: BaseModel) -> HeadEncoder:
    return HeadEncoder(HeadReader(base), calibration())


def history(n: int = 300, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, VOCAB, n).astype(np.uint32)


def source(tokens: np.ndarray):
    return lambda start, stop: tokens[start:stop]


def stored(encoder: HeadEncoder, tokens: np.ndarray, cuts: list[int]) -> np.ndarray:
    store = KeyStore(encoder)
    for n in [*cuts, len(tokens)]:
        store.extend(source(tokens), n)
    newest = store.newest(source(tokens), len(tokens))
    return np.concatenate([store.view(0, store.count), newest])


def test_first_layer_keys_do_not_depend_on_the_position(base: BaseModel) -> None:
    reader = HeadReader(base)
    tokens = history(40)
    moved = np.concatenate([history(23, seed=9), tokens])
    here = reader.read(tokens[None], [0], "keys")[0]
    there = reader.read(moved[None], [0], "keys")[0][:, :, 23:]
    torch.testing.assert_close(here, there, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cuts", [[], [33], [1, 40, 64, 65, 200], list(range(10, 300, 10))])
def test_keys_are_the_same_however_the_history_grew(encoder: HeadEncoder, cuts: list[int]) -> None:
    tokens = history()
    at_once = stored(encoder, tokens, [])
    grown = stored(encoder, tokens, cuts)
    assert len(grown) == len(tokens)
    # One rounding step apart at most: batches of other sizes sum in another order.
    assert np.abs(grown.astype(int) - at_once.astype(int)).max() <= 1


def test_a_history_that_got_shorter_is_encoded_anew(encoder: HeadEncoder) -> None:
    store = KeyStore(encoder)
    first = history(200)
    store.extend(source(first), 200)
    other = np.concatenate([first[:70], history(130, seed=5)])
    store.trim(70)
    store.extend(source(other), 200)
    expected = stored(encoder, other, [])[: store.count]
    assert np.abs(store.view(0, store.count).astype(int) - expected.astype(int)).max() <= 1


class TestOnDisk:
    def open(self, encoder: HeadEncoder, folder: Path) -> KeyStore:
        return KeyStore(encoder, folder, TREE_ID)

    def test_committed_keys_are_there_again(self, encoder: HeadEncoder, tmp_path: Path) -> None:
        tokens = history()
        store = self.open(encoder, tmp_path)
        store.extend(source(tokens), 160)
        store.commit(160)
        expected = np.array(store.view(0, 160))
        store.extend(source(tokens), 300)  # not committed
        store.close()
        again = self.open(encoder, tmp_path)
        assert again.count == 160
        np.testing.assert_array_equal(again.view(0, 160), expected)
        again.close()

    def test_keys_never_outrun_the_history_that_survives(
        self, encoder: HeadEncoder, tmp_path: Path
    ) -> None:
        store = self.open(encoder, tmp_path)
        store.extend(source(history()), 300)
        store.commit(159)
        store.close()
        assert self.open(encoder, tmp_path).count == 0

    @pytest.mark.parametrize("place", [8, 5000, 8192 + 100])
    def test_a_damaged_file_costs_time_but_no_content(
        self, encoder: HeadEncoder, tmp_path: Path, place: int
    ) -> None:
        tokens = history()
        store = self.open(encoder, tmp_path)
        store.extend(source(tokens), 300)
        store.commit(300)
        expected = np.array(store.view(0, store.count))
        store.close()
        path = tmp_path / HEADS_FILE
        raw = bytearray(path.read_bytes())
        raw[place] ^= 0x40
        path.write_bytes(raw)
        again = self.open(encoder, tmp_path)
        again.extend(source(tokens), 300)
        np.testing.assert_array_equal(again.view(0, again.count), expected)
        again.close()

    def test_another_calibration_starts_over(
        self, base: BaseModel, encoder: HeadEncoder, tmp_path: Path
    ) -> None:
        store = self.open(encoder, tmp_path)
        store.extend(source(history()), 300)
        store.commit(300)
        store.close()
        other = HeadEncoder(HeadReader(base), calibration(((1, 0),)))
        assert self.open(other, tmp_path).count == 0


def context_over(tokens: np.ndarray) -> tuple[WorkingContext, Tree]:
    spec = TreeSpec(BLOCK, 2, 1, 1, "fp16", "matching", "none", VOCAB)
    tree = Tree.create(spec, NullGister(checkpoint_id="none"))
    tree.append(tokens)
    context = WorkingContext(BLOCK, 2, 120, 1)
    context.cold_start(len(tokens))
    return context, tree


def observe(context: WorkingContext, tree: Tree, question: int) -> Observation:
    return Observation(
        levels=context.levels,
        index=context.index,
        starts=context.starts,
        n_tokens=context.n_tokens,
        tail_tokens=context.tail_tokens,
        block_size=BLOCK,
        tree=tree,
        question_tokens=question,
    )


def test_the_block_with_the_asked_token_scores_highest(encoder: HeadEncoder) -> None:
    tokens = history(400)
    rare = 2
    tokens[83] = rare  # in block 10
    asked = np.concatenate([tokens, [rare]]).astype(np.uint32)
    context, tree = context_over(asked)
    lens = HeadsLens(HistoryKeys(encoder, KeyStore(encoder)))
    scores = lens.score(observe(context, tree, question=1))
    covering = int(np.flatnonzero(context.starts <= 83)[-1])
    assert scores[covering] == scores.max() > 0.5
    match = lens.matches[0]
    assert match.block == 10
    assert (match.pairs[0].query_token, match.pairs[0].block_token) == (400, 83)
    assert 0 < match.pairs[0].weight <= 1


def test_nothing_is_asked_between_questions(encoder: HeadEncoder) -> None:
    context, tree = context_over(history(400))
    lens = HeadsLens(HistoryKeys(encoder, KeyStore(encoder)))
    scores = lens.score(observe(context, tree, question=0))
    assert lens.matches == ()
    assert np.abs(scores[1:]).max() <= 0.15 + 1e-6  # within the thresholds on both sides
    assert scores[0] > 0.5  # the attention sink, which is under a gist


def test_what_an_earlier_question_expanded_gives_way(encoder: HeadEncoder) -> None:
    tokens = history(400)
    tokens[83], tokens[203] = 2, 1
    asked = np.concatenate([tokens, [2]]).astype(np.uint32)
    context, tree = context_over(asked)
    levels = np.ones(50, np.int8)
    levels[[10, 48, 49]] = 0
    context.set_w_max(400)
    context.load(levels, 401)
    lens = HeadsLens(HistoryKeys(encoder, KeyStore(encoder)))
    block = int(np.flatnonzero(context.starts == 80)[0])
    assert lens.score(observe(context, tree, question=1))[block] > 0.5
    tree.append([1])
    context.append(1)
    assert lens.score(observe(context, tree, question=1))[block] < -0.2, "asked for another"


def test_a_question_leaves_what_it_found_and_the_newest_blocks(encoder: HeadEncoder) -> None:
    tokens = history(400)
    tokens[83] = 2  # in block 10
    context, tree = context_over(np.concatenate([tokens, [2]]).astype(np.uint32))
    levels = np.ones(50, np.int8)
    levels[[20, 30, *range(40, 50)]] = 0
    context.set_w_max(400)
    context.load(levels, 401)
    lens = HeadsLens(HistoryKeys(encoder, KeyStore(encoder)), newest=4)
    scores = lens.score(observe(context, tree, question=1))
    blocks = context.starts // BLOCK
    raw = context.levels == 0
    gives_way = set(blocks[raw & (scores < -0.2)].tolist())
    assert gives_way == {20, 30, *range(40, 46)}
    assert scores[np.flatnonzero(blocks == 10)[0]] > 0.5


def test_a_question_that_finds_nothing_changes_nothing(base: BaseModel) -> None:
    blind = HeadEncoder(HeadReader(base), replace(calibration(), min_mass=1.0))
    context, tree = context_over(np.append(history(400), 2).astype(np.uint32))
    levels = np.ones(50, np.int8)
    levels[[20, 49]] = 0
    context.set_w_max(400)
    context.load(levels, 401)
    scores = HeadsLens(HistoryKeys(blind, KeyStore(blind)), newest=1).score(
        observe(context, tree, question=1)
    )
    assert (scores[context.levels == 0] > -0.2).all()


def test_a_model_with_learned_positions_is_refused() -> None:
    module = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=2))
    with pytest.raises(ModelError, match=r"lens\.kind bm25"):
        HeadReader(BaseModel.from_module(module, name="gpt2"))


def test_a_calibration_survives_its_file(tmp_path: Path) -> None:
    first = calibration()
    first.save(tmp_path / "c.json")
    again = HeadsCalibration.load(tmp_path / "c.json")
    assert (again.heads, again.key_heads, again.id) == (first.heads, first.key_heads, first.id)


@pytest.mark.parametrize("text", ["", "{}", '{"format": 99}', '{"format": 2, "heads": 3}'])
def test_a_file_that_is_no_calibration_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="megacontext calibrate"):
        HeadsCalibration.load(path)


def test_hidden_gists_leave_the_raw_tokens_alone_in_the_window(base: BaseModel) -> None:
    tokens = history(40)
    window = KVWindow(base, 64, "exact", hide_gists=True)
    layout = Layout(np.array([0, 1, 0], np.int8), np.array([0, 1, 2]), 24, 30, BLOCK)
    window.sync(layout, lambda level, index: None, lambda start, stop: tokens[start:stop])
    seen = np.concatenate([tokens[:8], tokens[16:30]]).astype(np.int64)
    with torch.no_grad():
        plain = base.module(input_ids=torch.from_numpy(seen)[None]).logits[0, -1]
    assert len(window) == len(seen)
    torch.testing.assert_close(window.last.logits[-1], plain, atol=1e-4, rtol=1e-4)


def test_a_cached_calibration_of_an_older_version_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEGACONTEXT_CACHE", str(tmp_path))
    path = tmp_path / "heads" / "0123.json"
    calibration().save(path)
    found = load_cached("0123")
    assert found is not None
    assert found.heads == calibration().heads
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    assert load_cached("0123") is None
