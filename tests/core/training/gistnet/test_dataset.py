"""Batches of the gist encoder: one table per batch, far pasts, static shapes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from megacontext.core.data.recall.writer import RecallWriter
from megacontext.core.data.shards import open_shards
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.data.tokenizer import load_tokenizer
from megacontext.core.model.base import BaseModel
from megacontext.core.training.common.frozen_base import FrozenBase, llama_hidden, plain_llama
from megacontext.core.training.common.tilings import tile
from megacontext.core.training.gistnet.dataset import GistDataset, TilingMix
from megacontext.traces.errors import ConfigError

K = 32
T = 2 * K * K
BLOCKS, GROUPS = T // K, 2
TABLE = T + BLOCKS + GROUPS
TOKENIZER = Path(__file__).parents[4] / "core/pretrained/demo/base"


def made(shards: Path, mix: TilingMix) -> dict[str, np.ndarray]:
    rows = GistDataset(
        mix,
        TokenStreams(open_shards(shards)),
        RecallWriter(load_tokenizer(TOKENIZER), "train", 0, K),
        block_size=K,
        seed=0,
        phase=0,
        rank=0,
        accumulation=1,
    )
    return {name: value[0].numpy() for name, value in rows[3].items()}


MIX = TilingMix(
    length=T, rows=6, scored=200, gists=(4, 50), groups=1, group_chance=0.7, recall=0.5, far=300
)


def test_scored_tokens_are_aligned_by_their_place_in_the_history() -> None:
    length = 64 * K
    row = tile(length, K, np.array([33, 34, 40]), np.array([0]))
    assert len(row.entries) == length - (32 + 3) * K + 3 + 1
    assert np.array_equal(row.entries[row.predictor + 1], row.target)
    assert np.array_equal(row.entries_raw[row.predictor_raw + 1], row.target)
    # The first token behind a gist is predicted by the gist here and by older text there.
    first = np.flatnonzero(row.target == 35 * K)[0]
    assert row.entries[row.predictor[first]] == length + 1
    assert row.entries_raw[row.predictor_raw[first]] == 33 * K - 1
    assert row.blocks.tolist() == [33, 34, 40, *range(32)]


def test_every_scored_token_follows_its_predictor_in_both_windows(shards: Path) -> None:
    batch = made(shards, MIX)
    for row in range(MIX.rows):
        first = row * TABLE
        target = batch["target"][row]
        for window, predictor in (("window", "predictor"), ("bare", "predictor_raw")):
            entry = batch[window][row][batch[predictor][row] + 1]
            assert np.array_equal(entry - first, target), window
        bare = batch["bare"][row] - first
        raw = bare[: int(batch["predictor_raw"][row].max()) + 2]
        assert (np.diff(raw) > 0).all()
        assert raw.max() < T


def test_windows_tile_their_row_behind_a_far_past_of_other_rows(shards: Path) -> None:
    batch = made(shards, MIX)
    fars = []
    for row in range(MIX.rows):
        window = batch["window"][row]
        owner, slot = window // TABLE, window % TABLE
        far = int(np.argmax(owner == row))
        fars.append(far)
        assert (owner[:far] != row).all()
        assert far == 0 or (slot[:far] >= T + BLOCKS).any() or (slot[:far] < T + BLOCKS).all()
        own = slot[far : int(batch["predictor"][row].max()) + 2]
        block = np.where(own < T, own // K, np.where(own < T + BLOCKS, own - T, -1))
        start = np.where(
            own < T, own, np.where(own < T + BLOCKS, block * K, (own - T - BLOCKS) * K * K)
        )
        width = np.where(own < T, 1, np.where(own < T + BLOCKS, K, K * K))
        assert start[0] == 0
        assert np.array_equal(start[1:], (start + width)[:-1])
    assert max(fars) > 30


def test_shapes_are_the_same_for_every_tiling(shards: Path) -> None:
    plain = TilingMix(length=T, rows=6, scored=200, gists=(1, 2), recall=0.0)
    shapes = [{n: v.shape for n, v in made(shards, mix).items()} for mix in (MIX, plain)]
    assert shapes[0] == shapes[1]
    assert shapes[0]["window"] == (6, T)


@pytest.mark.parametrize("length", [96, 512])
def test_windows_shorter_than_a_group_may_have_a_far_past(shards: Path, length: int) -> None:
    mix = TilingMix(length=length, rows=6, scored=16, gists=(1, 2), tail=1, recall=0.0, far=20)
    batch = made(shards, mix)
    blocks = length // K
    own = np.arange(len(batch["window"]))[:, None]
    table = length + blocks
    far = batch["window"] // table != own
    assert far.any()
    assert (batch["window"] < 6 * table).all()


def test_windows_without_a_single_gist_have_no_far_past(shards: Path) -> None:
    mix = TilingMix(length=64, rows=4, scored=16, gists=(1, 2), tail=2, recall=0.0, far=20)
    batch = made(shards, mix)
    np.testing.assert_array_equal(batch["window"], batch["bare"])


def test_asked_facts_stay_raw_and_answers_are_scored(shards: Path) -> None:
    mix = TilingMix(length=T, rows=4, scored=64, gists=(60, 60), recall=1.0, gold_raw=1.0, tail=1)
    writer = RecallWriter(load_tokenizer(TOKENIZER), "train", 0, K)
    rows = GistDataset(
        mix,
        TokenStreams(open_shards(shards)),
        writer,
        block_size=K,
        seed=0,
        phase=0,
        rank=0,
        accumulation=1,
    )
    samples = []
    inner = writer.sample
    writer.sample = lambda *a: samples.append(inner(*a)) or samples[-1]  # type: ignore[method-assign,func-returns-value]
    batch = {name: value[0].numpy() for name, value in rows[0].items()}
    assert len(samples) == mix.rows
    for row, sample in enumerate(samples):
        window = batch["window"][row] - row * TABLE
        length = int(batch["predictor"][row].max()) + 2
        raw = set(window[:length].tolist())
        gold = {t for s in sample.asked for g in s.gold for t in range(*sample.facts[g])}
        assert gold <= raw
        answers = np.flatnonzero(np.isin(sample.answer, (1, 2)))
        assert np.isin(answers[: mix.scored // 2], batch["target"][row]).mean() > 0.9
        stressed = batch["target"][row][batch["stress"][row] > 1]
        assert (sample.answer[stressed] == 2).all()
        assert len(stressed)


@pytest.mark.parametrize(
    "change", [{"far": 5, "rows": 1}, {"gists": (3, 2)}, {"recall": 1.5}, {"gists": (0, 2)}]
)
def test_impossible_tilings_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"tilings\."):
        TilingMix(**change)  # type: ignore[arg-type]


def test_plain_llama_equals_the_loaded_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=8192,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, tmp_path / name)
    base = BaseModel.load(str(tmp_path), device="cpu")
    plain = plain_llama(base)
    assert plain is not None
    x = torch.randn((2, 100, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = FrozenBase(base).hidden(x)
        torch.testing.assert_close(llama_hidden(plain, x), expected, atol=1e-5, rtol=1e-4)
