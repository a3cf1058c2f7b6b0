"""Tokens that only a gist can foretell: found in text, planted in rows, judged apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from megacontext.core.data.recall import RecallWriter
from megacontext.core.data.shards import open_shards
from megacontext.core.data.tokenizer import load_tokenizer
from megacontext.core.rng import generator
from megacontext.core.training.gistnet_copies import copied_tokens, repeat_pieces
from megacontext.core.training.gistnet_rows import GistRows, TilingMix
from megacontext.core.training.mixture import TokenStreams

K = 32
T = 1024
TABLE = T + T // K + 1
TOKENIZER = Path(__file__).parents[3] / "core/pretrained/demo/base"
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
)


def made(shards: Path, mix: TilingMix) -> dict[str, np.ndarray]:
    rows = GistRows(
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
    found = []
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
            found.append(at)
    return found


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
        assert len(copies) > 20
        shares.append(float(np.isin(target, copies).mean()))
    plain = made(shards, TilingMix(**{**vars(MIX), "copies": 0.0, "repeats": 0.0}))
    assert min(shares) > 0.3
    assert (batch["tokens"] != plain["tokens"]).mean() > 0.1
    assert torch.equal(
        torch.from_numpy(made(shards, MIX)["tokens"]), torch.from_numpy(batch["tokens"])
    )


def test_asked_facts_are_never_written_over(shards: Path) -> None:
    mixes = [TilingMix(**{**vars(MIX), "recall": 1.0, "repeats": share}) for share in (0.0, 1.0)]
    plain, repeating = (made(shards, mix)["tokens"] for mix in mixes)
    np.testing.assert_array_equal(plain, repeating)
