"""Batches for the retriever: they repeat, and point at the blocks that are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from megacontext.core.data.shards import open_shards
from megacontext.core.data.token_streams import TokenStreams
from megacontext.core.training.common.idf import inverse_document_frequency
from megacontext.core.training.index_keys.dataset import KeyDataset, KeyMix, gold_share

K = 32


def test_key_batches_repeat_and_point_at_the_asked_blocks(
    shards: Path, tokenizer: Tokenizer
) -> None:
    opened = open_shards(shards)
    idf = inverse_document_frequency(opened.streams, 8192, K)
    common, unseen = (tokenizer.encode(text).ids[0] for text in (" the", " Ottoman"))
    assert idf[common] < idf[unseen]

    def rows(source: str) -> KeyDataset:
        mix = KeyMix(samples=6, blocks=16, asks=2, sources={source: 1.0}, facts_max=3)
        return KeyDataset(
            mix,
            TokenStreams(opened),
            tokenizer,
            idf,
            block_size=K,
            query_tokens=K,
            seed=0,
            phase=0,
            rank=0,
            accumulation=1,
        )

    for source in ("recall", "random", "cloze", "lexical"):
        batch = rows(source)[3]
        repeated = rows(source)[3]
        assert all(torch.equal(batch[name], repeated[name]) for name in batch)
        total = batch["goal"].sum(-1)
        assert bool(((total - 1).abs() < 1e-3).any())
        too_late = torch.arange(16) >= batch["before"][..., None]
        assert float((batch["goal"] * too_late).sum()) == 0
    cloze = rows("cloze")[0]
    gold = int(cloze["goal"][0, 0, 0].argmax())
    block = cloze["tokens"][0, 0].view(-1, K)[gold].tolist()
    question = cloze["questions"][0, 0, 0, -4:].tolist()
    assert any(block[i : i + 4] == question for i in range(K))


def test_gold_share_follows_the_fact_over_a_block_border() -> None:
    share = gold_share([(K - 8, K + 24)], 4, K)
    np.testing.assert_allclose(share, [0.25, 0.75, 0, 0])
    assert gold_share([(-1, -1)], 4, K).sum() == 0
