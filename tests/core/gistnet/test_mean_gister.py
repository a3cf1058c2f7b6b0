"""The untrained control: exact means, matched norms, keys that find a planted block."""

from __future__ import annotations

import numpy as np
import pytest

from megacontext.core.gistnet.lexical import LexicalKeys
from megacontext.core.gistnet.mean import MeanGister
from megacontext.core.rng import generator
from megacontext.traces.errors import ModelError

VOCAB, DIM, K = 2000, 32, 16


def embeddings(seed: int = 0) -> np.ndarray:
    return generator(seed, "test-embeddings").standard_normal((VOCAB, DIM), np.float32) * 0.02


def blocks(n: int, seed: int = 0) -> np.ndarray:
    rank = generator(seed, "test-blocks").zipf(1.3, (n, K)) % VOCAB
    return rank.astype(np.uint32)


def no_left(n: int) -> np.ndarray:
    return np.zeros((n, 0), np.uint32)


def test_gist_is_the_scaled_mean_of_the_token_embeddings() -> None:
    table, tokens = embeddings(), blocks(5)
    gister = MeanGister(table)
    gists, keys = gister.encode_blocks(tokens, no_left(5))
    mean = table[tokens].mean(axis=1)
    rms = np.sqrt((table.astype(np.float64) ** 2).mean())
    expected = mean * rms / np.sqrt((mean**2).mean(axis=1, keepdims=True))
    np.testing.assert_allclose(gists, expected, rtol=1e-4)
    assert gists.shape == (5, DIM)
    assert keys.shape == (5, gister.key_dim)


def test_gists_of_gists_have_the_token_embeddings_rms() -> None:
    gister = MeanGister(embeddings(), key_dim=64)
    children = generator(1, "test-children").standard_normal((3, K, DIM), np.float32)
    gists, keys = gister.encode_gists(2, children)
    np.testing.assert_allclose(np.sqrt((gists**2).mean(axis=1)), gister.rms, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(keys, axis=1), 1, rtol=1e-4)


def test_results_do_not_depend_on_the_batch() -> None:
    gister, tokens = MeanGister(embeddings()), blocks(9)
    together = gister.encode_blocks(tokens, no_left(9))
    alone = gister.encode_blocks(tokens[4:5], no_left(1))
    assert np.array_equal(together[0][4], alone[0][0])
    assert np.array_equal(together[1][4], alone[1][0])


def test_checkpoint_id_names_the_parameters_and_the_embeddings() -> None:
    ids = {
        MeanGister(embeddings()).checkpoint_id,
        MeanGister(embeddings(1)).checkpoint_id,
        MeanGister(embeddings(), key_dim=128).checkpoint_id,
        MeanGister(embeddings(), seed=1).checkpoint_id,
    }
    assert len(ids) == 4
    assert MeanGister(embeddings()).checkpoint_id in ids


def test_question_with_the_rare_words_of_a_block_ranks_it_first() -> None:
    gister, tokens = MeanGister(embeddings()), blocks(2048)
    keys, hits = gister.encode_blocks(tokens, no_left(2048))[1], 0
    for case in range(20):
        draw = generator(case, "test-question")
        gold = int(draw.integers(2048))
        rare = np.unique(tokens[gold][tokens[gold] > 300])[:4]
        if len(rare) < 4:
            rare = draw.integers(300, VOCAB, 4).astype(np.uint32)
            tokens[gold, 3:7] = rare
        question = np.concatenate([rare, np.arange(6, dtype=np.uint32)])
        keys[gold] = gister.encode_blocks(tokens[gold : gold + 1], no_left(1))[1][0]
        score = keys @ gister.encode_query(question)[0]
        hits += int((score > score[gold]).sum()) < 4
    assert hits >= 18


def test_repeats_and_unknown_ids_add_nothing_to_a_key() -> None:
    keys = LexicalKeys(VOCAB, 64)
    once = keys.encode(np.array([[700, 900]]))
    np.testing.assert_array_equal(once, keys.encode(np.array([[700, 900, 700, 0xFFFFFFFF]])))
    assert not keys.encode(np.array([[0xFFFFFFFF]])).any()


def test_unusable_embeddings_are_refused() -> None:
    with pytest.raises(ModelError, match="finite matrix"):
        MeanGister(np.full((4, 4), np.nan, np.float32))
    with pytest.raises(ModelError, match="key_dim 0"):
        MeanGister(embeddings(), key_dim=0)
    with pytest.raises(ValueError, match="level 1"):
        MeanGister(embeddings()).encode_gists(1, np.zeros((1, K, DIM), np.float32))
