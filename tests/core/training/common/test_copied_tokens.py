"""Tokens that only a gist can foretell: found in text, planted in rows, judged apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from megacontext.core.config.parser import build
from megacontext.core.data.recall.writer import RecallWriter
from megacontext.core.data.shards import open_shards
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.data.tokenizer import load_tokenizer
from megacontext.core.gistnet.gister import NetGister
from megacontext.core.model.base import BaseModel
from megacontext.core.rng import generator
from megacontext.core.training.common.copied_tokens import copied_tokens, repeat_pieces
from megacontext.core.training.common.frozen_base import FrozenBase
from megacontext.core.training.gistnet.dataset import GistDataset, TilingMix
from megacontext.core.training.gistnet.evaluate import GistEvalConfig, GistEvaluator
from megacontext.core.training.gistnet.task import GistNetTraining, train_gistnet

K = 32
T = 1024
TABLE = T + T // K + 1
TOKENIZER = Path(__file__).parents[4] / "core/pretrained/demo/base"
MIX = TilingMix(
    length=T,
    rows=5,
    scored=64,
    gists=(6, 20),
    tail=3,
    recall=0.0,
    far=50,
    copies=0.75,
    repeats=1.0,
    apart=40,
    behind=12,
)


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
    return {name: value[0].numpy() for name, value in rows[2].items()}


def searched(text: np.ndarray, coarse: np.ndarray, size: int, apart: int) -> list[int]:
    """The definition, pair by pair."""
    result = []
    for at in range(1, len(text)):
        if coarse[at // size] or coarse[(at - 1) // size]:
            continue
        equal = [
            p
            for p in range(1, at)
            if text[p - 1] == text[at - 1]
            and text[p] == text[at]
            and coarse[p // size] == coarse[(p - 1) // size]
            and (not coarse[p // size] or p // size == (p - 1) // size)
        ]
        raw = [p for p in equal if not coarse[p // size]]
        gists = [p for p in equal if coarse[p // size] and p + apart <= at]
        if gists and not raw:
            result.append(at)
    return result


def test_found_copies_are_those_of_the_definition() -> None:
    rng = generator(0, "test-copies")
    text, coarse = rng.integers(0, 12, 200), rng.random(25) < 0.4
    expected = searched(text, coarse, 8, 20)
    assert len(expected) > 3
    assert copied_tokens(text, coarse, 8, 20).tolist() == expected
    assert copied_tokens(text, np.zeros(25, bool), 8, 20).tolist() == []


def test_repeated_pieces_stand_in_raw_blocks_and_are_found_again() -> None:
    rng = generator(1, "test-copies")
    text = np.arange(T)  # no token twice
    coarse = np.zeros(T // K, bool)
    coarse[[2, 3, 9, 20]] = True
    made = repeat_pieces(rng, text, coarse, np.array([3, 9]), K, 40)
    changed = np.flatnonzero(made != text)
    assert len(changed) > 100
    assert not coarse[changed // K].any()
    assert set(made[changed] // K) == {3, 9}
    assert (changed - (made[changed] // K + 1) * K >= 40).all()
    copies = copied_tokens(made, coarse, K, K + 40)
    assert set(copies) <= set(changed)
    assert len(copies) > 30
    assert (repeat_pieces(rng, text, coarse, np.empty(0, np.int64), K, 40) == text).all()


def test_rows_score_copies_first_and_stay_aligned(shards: Path) -> None:
    batch = made(shards, MIX)
    shares = []
    for row in range(MIX.rows):
        target = batch["target"][row]
        for window, predictor in (("window", "predictor"), ("bare", "predictor_raw")):
            entry = batch[window][row][batch[predictor][row] + 1]
            assert np.array_equal(entry - row * TABLE, target), window
        own = batch["window"][row] - row * TABLE
        gists = own[(own >= T) & (own < T + T // K)] - T
        coarse = np.isin(np.arange(T // K), gists)
        copies = copied_tokens(batch["tokens"][row], coarse, K, K + MIX.apart)
        assert len(copies) > 15
        newest = np.maximum.accumulate(np.where((own >= T) & (own < TABLE), np.arange(T), 0))
        distance = batch["predictor"][row] - newest[batch["predictor"][row]]
        assert distance.min() >= MIX.behind
        shares.append(float(np.isin(target, copies).mean()))
    plain = made(shards, TilingMix(**{**vars(MIX), "copies": 0.0, "repeats": 0.0}))
    assert min(shares) > 0.2
    assert np.mean(shares) > 0.5
    assert (batch["tokens"] != plain["tokens"]).mean() > 0.1
    assert torch.equal(
        torch.from_numpy(made(shards, MIX)["tokens"]), torch.from_numpy(batch["tokens"])
    )


def test_asked_facts_are_never_written_over(shards: Path) -> None:
    mixes = [TilingMix(**{**vars(MIX), "recall": 1.0, "repeats": share}) for share in (0.0, 1.0)]
    plain, repeating = (made(shards, mix)["tokens"] for mix in mixes)
    np.testing.assert_array_equal(plain, repeating)


def test_judge_scores_copies_and_what_follows_two_raw_blocks(shards: Path, tiny_base: Path) -> None:
    base = FrozenBase(BaseModel.load(str(tiny_base), device="cpu"))
    evaluator = GistEvaluator(
        GistEvalConfig(rows=2, scored=16), base, TokenStreams(open_shards(shards)), K
    )
    seen: dict[str, tuple[torch.Tensor, dict[str, torch.Tensor]]] = {}
    for _, setting, tokens, tiling in evaluator._cells:
        seen[setting] = tokens, tiling
    tokens, tiling = seen["copies"]
    for row in range(2):
        coarse = np.isin(np.arange(64), tiling["blocks"][row])
        copies = copied_tokens(tokens[row].numpy(), coarse, K, K + 64)
        assert len(copies) > 5
        assert np.isin(tiling["target"][row], copies).all()
    _, tiling = seen["apart"]
    behind = tiling["target"] - (tiling["blocks"] + 1) * K
    assert behind.tolist() == [list(range(64, 128))] * 2


def test_training_goes_on_from_a_gistnet_and_keeps_its_index_keys(
    shards: Path, tiny_base: Path, tmp_path: Path
) -> None:
    keys = {"width": 16, "layers": 1, "heads": 2, "ffn": 16, "context_dim": 8, "lexical_dim": 8}
    tilings = {"length": 256, "rows": 4, "scored": 32, "gists": [5, 5], "tail": 2}
    fields: dict[str, Any] = {
        "base": str(tiny_base),
        "shards": str(shards),
        "heldout": str(shards),
        "loop": {"seed": 1, "budget": {"steps": 2}, "schedule": {"warmup_steps": 1}},
        "net": {"layers": 1, "left_context": 8, "keys": keys},
        "phases": [{"share": 1.0, "tilings": {**tilings, "copies": 0.5, "repeats": 0.5}}],
        "evaluation": {"rows": 1, "scored": 16},
    }
    config = build(GistNetTraining, fields)
    first, second = tmp_path / "first", tmp_path / "second"
    train_gistnet(config, tmp_path / "a", device="cpu", export=first)
    later = replace(config, loop=replace(config.loop, checkpoint_steps=1))
    train_gistnet(later, tmp_path / "b", device="cpu", init=first, export=second)
    before, after = (load_file(f / "model.safetensors") for f in (first, second))
    kept = {name for name in before if torch.equal(before[name], after[name])}
    assert kept >= {name for name in before if name.startswith("keys.")} | {"pad"}
    assert not kept & {"head.weight", "encoder.layers.0.v_proj.weight"}

    embedding = BaseModel.load(str(tiny_base), device="cpu").embedding_matrix
    rng = generator(3, "test-copies")
    tokens = rng.integers(0, 8192, (3, K)).astype(np.uint32)
    left = rng.integers(0, 8192, (3, 8)).astype(np.uint32)
    left[0] = 0xFFFFFFFF  # the first block of a history
    (gists, own), (newer, same) = (
        NetGister.load(folder, embedding).encode_blocks(tokens, left) for folder in (first, second)
    )
    np.testing.assert_array_equal(own, same)
    assert np.abs(gists - newer).max() > 1e-4
