"""LensNet: non-causality, retrieval, legality, checkpoints, refusals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megacontext.core.focus import WorkingContext, smallest_w_max
from megacontext.core.gistnet.checkpoint import save_folder
from megacontext.core.gistnet.gister import NetGister
from megacontext.core.gistnet.keys import KeyConfig
from megacontext.core.gistnet.module import GistNet, GistNetConfig
from megacontext.core.lensnet.bench import bench_lens
from megacontext.core.lensnet.features import FEATURES, known_blocks, node_features, node_max
from megacontext.core.lensnet.inputs import LensInputs, TreeTensors, lens_pass
from megacontext.core.lensnet.lens import NetLens, legal_scores, save_lensnet, start_from
from megacontext.core.lensnet.module import LensNet, LensNetConfig, TailQueries, attend_in_parts
from megacontext.core.tree import Tree, TreeSpec
from megacontext.traces.errors import ConfigError, ModelError

VOCAB, DIM, K, C = 300, 32, 8, 4
KEYS = KeyConfig(width=16, layers=1, heads=2, ffn=24, context_dim=16, lexical_dim=16)
TABLE = torch.randn((VOCAB, DIM), generator=torch.Generator().manual_seed(0)) * 0.03


@dataclass
class Seen:
    levels: Any
    index: Any
    starts: Any
    n_tokens: int
    block_size: int
    tree: Any
    query_tokens: Any
    query_hidden: Any = None
    surprisal: Any = None


def gister(seed: int = 0) -> NetGister:
    net = GistNet(GistNetConfig(DIM, K, C, 1, 4, 2, 48, gist_rms=0.03, keys=KEYS))
    net.init_weights(seed)
    return NetGister(net, TABLE)


def lensnet(seed: int = 0) -> LensNet:
    """A network whose learned part has a say."""
    net = LensNet(LensNetConfig(DIM, KEYS.key_dim, K, width=16, heads=2))
    net.init_weights(seed)
    with torch.no_grad():
        source = torch.Generator().manual_seed(seed + 1)
        net.score.weight.copy_(torch.randn(net.score.weight.shape, generator=source) * 0.1)
        net.score.bias.fill_(1.5)  # positive scores: nothing that the legality mask would hide
    return net


def history(n_tokens: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, n_tokens).astype(np.uint32)


def planted(maker: NetGister, tokens: np.ndarray) -> Tree:
    spec = TreeSpec(K, 3, DIM, KEYS.key_dim, "fp32", "test", maker.checkpoint_id, VOCAB)
    tree = Tree.create(spec, maker)
    tree.append(tokens)
    return tree


def looking(tree: Tree, question: np.ndarray, **change: Any) -> Seen:
    """All level-2 gists but the last, then level-1 gists, then two raw blocks."""
    n1, n2 = tree.n_nodes(1), tree.n_nodes(2)
    ones = np.arange((n2 - 1) * K, n1)
    levels = np.concatenate([np.full(n2 - 1, 2), np.ones(len(ones), int)]).astype(np.int8)
    levels[-2:] = 0
    index = np.concatenate([np.arange(n2 - 1), ones])
    starts = index * np.where(levels == 2, K * K, K)
    fields = {
        "levels": levels,
        "index": index,
        "starts": starts,
        "n_tokens": tree.n_tokens,
        "block_size": K,
        "tree": tree,
        "query_tokens": question,
    }
    return Seen(**{**fields, **change})


def test_far_gist_changes_its_score_when_the_newest_tokens_change() -> None:
    maker = gister()
    tree = planted(maker, history(K * K * 6))
    lens = NetLens(lensnet(), maker)
    first = lens.score(looking(tree, history(20, 2)))
    second = lens.score(looking(tree, history(20, 3)))
    assert abs(float(first[0] - second[0])) > 1e-4
    assert np.array_equal(first, NetLens(lensnet(), maker).score(looking(tree, history(20, 2))))


def test_question_ranks_the_gist_over_a_planted_block_first() -> None:
    maker = gister()
    net = LensNet(LensNetConfig(DIM, KEYS.key_dim, K, width=16, heads=2))
    net.init_weights(0)  # the untrained score: retrieval alone
    tokens = history(K * K * 12)
    tree = planted(maker, tokens)
    hits = 0
    for gold in range(10):
        block = gold * K + 3
        asked = looking(tree, tokens[block * K : block * K + K])
        scores = NetLens(net, maker).score(asked)
        hits += int(np.argmax(scores) == gold)
    assert hits >= 8


def features(blocks: torch.Tensor, known: int, levels: list[int], index: list[int]) -> Any:
    level, node = torch.tensor([levels]), torch.tensor([index])
    starts = node * K ** level.clamp(min=1)
    total = torch.tensor([len(blocks) * K])
    none = torch.zeros(level.shape)
    return node_features(
        blocks[None], torch.tensor([known]), level, node, starts, total, none, K, 3
    )


def test_attention_in_parts_is_attention() -> None:
    source = torch.Generator().manual_seed(4)
    asks = torch.randn((2, 3, 5, 16), generator=source)
    nodes = torch.randn((2, 2, 3, 1024, 16), generator=source)
    valid = torch.rand((2, 1, 1, 1024), generator=source) < 0.7
    for mask in (None, valid):
        expected = torch.nn.functional.scaled_dot_product_attention(
            asks, nodes[0], nodes[1], attn_mask=mask
        )
        result = attend_in_parts(asks, nodes[0], nodes[1], mask)
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-4)


def column(made: torch.Tensor, name: str) -> list[float]:
    values: list[float] = made[0, :, FEATURES.index(name)].tolist()
    return values


def test_blocks_that_hold_the_question_do_not_match_it() -> None:
    known = known_blocks(torch.tensor([6]), torch.tensor([50]), torch.tensor([12]), K)
    assert known.tolist() == [4]
    blocks = torch.tensor([0.1, 0.4, 0.2, 0.1, 0.9, 0.9])
    built, own = features(blocks, 4, [0] * 6, list(range(6)))
    assert own[0].tolist() == pytest.approx([0.1, 0.4, 0.2, 0.1, 0, 0])
    assert np.argmin(column(built, "log_rank")) == 1
    assert column(built, "behind_best")[1] == 0


def test_level_three_node_over_a_match_is_scored_like_a_level_two_node() -> None:
    blocks = torch.zeros(2 * K**2 + K**2 * 8)
    blocks[K + 3] = 1
    built, own = features(blocks, len(blocks), [3, 2, 1], [0, K, K * K + K])
    assert own[0].tolist() == [1, 0, 0]
    width = column(built, "log_width")
    assert width[0] == width[1] > width[2]
    assert len(lensnet().level_embedding) == 3
    assert column(built, "log_rank")[0] == 0


def test_the_place_among_all_blocks_does_not_depend_on_the_frontier() -> None:
    blocks = torch.rand(3 * K, generator=torch.Generator().manual_seed(1))
    few, _ = features(blocks, len(blocks), [2, 0], [0, 3 * K - 1])
    many, _ = features(blocks, len(blocks), [2] + [0] * 9, [0, *range(3 * K - 9, 3 * K)])
    for name in ("outlier", "log_rank", "log_rank_near", "behind_best"):
        assert column(few, name)[0] == column(many, name)[0]
        assert column(few, name)[-1] == column(many, name)[-1]


def test_count_better_is_the_number_of_blocks_that_match_better() -> None:
    blocks = torch.tensor([0.5, 0.1, 0.2, 0.9, 0.3, 0.4, 0.0, 0.05])
    level = torch.zeros((1, 8), dtype=torch.int64)
    node = torch.arange(8)[None]
    total, known = torch.tensor([8 * K]), torch.tensor([8])
    features, similarity = node_features(
        blocks[None], known, level, node, node * K, total, torch.zeros(1, 8), K, 2
    )
    tail = torch.zeros(1, 1, 1)
    queries = TailQueries(tail, tail, tail, tail, tail)
    inputs = LensInputs(tail, level, features, queries, level >= 0, similarity)
    # A neighbour of the best match counts as the best match does.
    assert inputs.count_better()[0].round().tolist() == [1, 1, 0, 0, 0, 2, 2, 6]


def test_hidden_states_count_and_may_be_absent() -> None:
    maker = gister()
    tree = planted(maker, history(K * K * 3))
    lens = NetLens(lensnet(), maker)
    bare = lens.score(looking(tree, history(9, 2)))
    hidden = torch.randn((6, DIM), generator=torch.Generator().manual_seed(3))
    assert not np.allclose(bare, lens.score(looking(tree, history(9, 2), query_hidden=hidden)))
    assert np.isfinite(bare).all()


def test_scores_follow_a_growing_tree_and_an_empty_frontier_has_none() -> None:
    maker = gister()
    tree = planted(maker, history(K * K * 3))
    lens = NetLens(lensnet(), maker)
    lens.score(looking(tree, history(9, 2)))
    tree.append(history(K * K * 2, 8))
    grown = looking(tree, history(9, 2))
    np.testing.assert_allclose(lens.score(grown), NetLens(lensnet(), maker).score(grown), atol=1e-6)
    none = looking(tree, history(9, 2))
    none.levels = none.index = none.starts = np.zeros(0, np.int64)
    assert lens.score(none).shape == (0,)


def test_illegal_wishes_are_masked() -> None:
    levels = np.array([2, 1, 1, 1, 1, 1, 0, 0])
    index = np.array([0, 4, 5, 6, 7, 8, 9, 10])
    up, down = np.ones(8, np.float32), -np.ones(8, np.float32)
    assert legal_scores(up, levels, index, 4).tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    assert legal_scores(down, levels, index, 4).tolist() == [0, -1, -1, -1, -1, 0, -1, -1]


def test_similarity_is_pooled_over_descendants_and_neighbours_stand_beside_it() -> None:
    blocks = torch.arange(16, dtype=torch.float32)[None]
    levels, index = torch.tensor([[2, 1, 0, 1]]), torch.tensor([[1, 2, 9, 15]])
    assert node_max(blocks, levels, index, 4, 2).tolist() == [[7, 2, 9, 15]]
    one = torch.zeros(3 * K)
    one[K] = 0.5
    built, _ = features(one, 3 * K, [0, 0, 2, 2], [K + 1, K - 1, 0, 2])
    assert column(built, "before") == [2, 0, 0, 0]
    assert column(built, "after") == [0, 2, 2, 0]


def test_checkpoint_round_trip_and_another_gistnet_is_refused(tmp_path: Path) -> None:
    maker = gister()
    net = lensnet()
    save_lensnet(net, tmp_path, maker)
    tree = planted(maker, history(K * K * 3))
    asked = looking(tree, history(9, 2))
    for parameter in net.parameters():
        parameter.data = parameter.data.bfloat16().float()
    expected = NetLens(net, maker).score(asked)
    np.testing.assert_array_equal(NetLens.load(tmp_path, maker).score(asked), expected)
    with pytest.raises(ModelError, match="was trained on gists of gistnet-"):
        NetLens.load(tmp_path, gister(4))
    with pytest.raises(ModelError, match="no readable lensnet checkpoint"):
        NetLens.load(tmp_path / "none", maker)
    # Weights of another version of the features.
    state = net.state_dict() | {"retrieval.weight": torch.zeros(1, 3)}
    facts = {"gist_checkpoint": maker.checkpoint_id}
    save_folder(tmp_path / "old", "lensnet", state, net.config.as_dict(), facts)
    with pytest.raises(ModelError, match="LensNet of another shape"):
        NetLens.load(tmp_path / "old", maker)


def test_training_starts_from_a_lens_of_another_gistnet_of_the_same_sizes(tmp_path: Path) -> None:
    net = lensnet()
    save_lensnet(net, tmp_path, gister())
    started = start_from(tmp_path, net.config)
    assert started.training
    assert all(p.requires_grad for p in started.parameters())
    for name, value in net.state_dict().items():
        torch.testing.assert_close(started.state_dict()[name], value.bfloat16().float())
    with pytest.raises(ModelError, match=rf"key_dim {net.config.key_dim} and the GistNet has 8;"):
        start_from(tmp_path, replace(net.config, key_dim=8))


def test_impossible_sizes_and_a_missing_tree_are_refused() -> None:
    with pytest.raises(ConfigError, match="width: 520"):
        LensNetConfig(DIM, 8, width=520)
    maker = gister()
    with pytest.raises(ModelError, match="keys of 8 values"):
        NetLens(LensNet(LensNetConfig(DIM, 8, width=16)), maker)
    tree = planted(maker, history(K * K))
    asked = looking(tree, history(3))
    asked.tree = None
    with pytest.raises(ModelError, match="give the run a tree"):
        NetLens(lensnet(), maker).score(asked)


def test_bench_reports_a_time_per_round() -> None:
    figures = bench_lens(entries=64, dim=128, repeats=2)
    assert figures["entries"] == 64
    assert float(figures["lens_ms_p50"]) > 0


def test_padded_buffers_give_the_same_scores() -> None:
    """What a captured pass computes on a GPU, without one."""
    maker = gister()
    net = lensnet().eval()
    tree = planted(maker, history(K * K * 3 + 40))
    seen = looking(tree, history(20, 2))
    n1, n2 = tree.n_nodes(1), tree.n_nodes(2)
    entries = torch.from_numpy(
        np.stack([np.asarray(a, np.int64) for a in (seen.levels, seen.index, seen.starts)])
    )
    counts = torch.tensor([tree.n_tokens, n1, n2, 2])
    question = torch.full((KEYS.query_tokens,), VOCAB)
    question[-20:] = torch.from_numpy(history(20, 2).astype(np.int64))
    hidden = torch.randn((2, DIM), generator=torch.Generator().manual_seed(5))

    def run(rows: int, wide: int, states: int) -> torch.Tensor:
        def grown(values: np.ndarray) -> torch.Tensor:
            buffer = torch.full((rows, values.shape[1]), 7.0)
            buffer[: len(values)] = torch.from_numpy(np.array(values, np.float32))
            return buffer

        stored = TreeTensors(
            grown(tree.keys(1, 0, n1))[None],
            (grown(tree.gists(1, 0, n1))[None], grown(tree.gists(2, 0, n2))[None]),
        )
        padded = torch.zeros((3, wide), dtype=torch.int64)
        padded[0] = -1
        padded[:, : entries.shape[1]] = entries
        late = torch.full((states, DIM), 3.0)
        late[-2:] = hidden
        with torch.no_grad():
            scores = lens_pass(
                maker.net.keys,
                net,
                maker.table,
                stored,
                padded,
                counts,
                question,
                late,
                torch.zeros(wide),
            )
        return scores[: entries.shape[1]]

    exact = run(n1, entries.shape[1], 2)
    torch.testing.assert_close(run(64, 40, 4), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
def test_replayed_pass_on_a_gpu_agrees_with_the_cpu() -> None:
    net = GistNet(GistNetConfig(DIM, K, C, 1, 4, 2, 48, gist_rms=0.03, keys=KEYS))
    net.init_weights(0)
    there = NetLens(lensnet(), NetGister(net, TABLE.cuda()))
    maker = gister()
    here = NetLens(lensnet(), maker)
    tree = planted(maker, history(K * K * 6))
    for question in range(3):
        asked = looking(tree, history(20, question))
        np.testing.assert_allclose(there.score(asked), here.score(asked), atol=1e-3)


def test_a_match_stands_out_as_much_in_a_short_history_with_lookalikes() -> None:
    usual = torch.randn(800, generator=torch.Generator().manual_seed(1)) * 0.1
    result = []
    for count in (100, 800):
        blocks = usual[:count].clone()
        blocks[:12] = 0.6
        built, _ = features(blocks, count, [1], [0])
        result.append(float(column(built, "outlier")[0]))
    assert result[0] > 0.85 * result[1]
    # Blocks that may not match are not usual either.
    fewer, _ = features(torch.cat((usual[:100], torch.full((K,), 0.9))), 100, [1], [20])
    same, _ = features(usual[:100], 100, [1], [20])
    assert float(column(fewer, "outlier")[0]) == pytest.approx(float(column(same, "outlier")[0]))


@pytest.mark.parametrize("max_levels", [1, 2, 3, 4])
@pytest.mark.parametrize("n_tokens", [K - 1, K, 5 * K + 3, K * K, 3 * K * K + K + 1, K**3 + 5])
def test_any_depth_of_tree_at_any_length_is_scored(max_levels: int, n_tokens: int) -> None:
    maker = gister()
    spec = TreeSpec(K, max_levels, DIM, KEYS.key_dim, "fp32", "test", maker.checkpoint_id, VOCAB)
    tree = Tree.create(spec, maker)
    tree.append(history(n_tokens))
    context = WorkingContext(K, max_levels, smallest_w_max(K, max_levels, 1) + 9 * K, 1)
    context.cold_start(n_tokens)
    seen = Seen(
        context.levels,
        context.index,
        context.starts,
        n_tokens,
        K,
        tree,
        tree.tokens(max(0, n_tokens - 20), n_tokens),
        surprisal=np.ones(n_tokens, np.float32),
    )

    scores = NetLens(lensnet(), maker).score(seen)

    assert scores.shape == context.levels.shape
    assert np.isfinite(scores).all()
