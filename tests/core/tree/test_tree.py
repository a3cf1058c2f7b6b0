"""Appending and reading, in memory and on disk alike."""

from dataclasses import replace

import numpy as np
import pytest

from megacontext.core.rng import generator
from megacontext.core.tree import NO_TOKEN, HashGister, NullGister, Tree, TreeSpec
from megacontext.core.tree.level import GIST_BATCH
from megacontext.traces.errors import ConfigError, MegaContextError, ModelError, StorageError


@pytest.fixture(params=["ram", "disk"])
def place(request, tmp_path):
    return None if request.param == "ram" else tmp_path / "tree"


def random_tokens(n, vocab=1000, seed=0):
    return generator(seed, "tokens").integers(0, vocab, n, dtype=np.uint32)


def expected(gister, history, level, index, size):
    """A gist by the definition: recursively, one node at a time."""
    if level == 1:
        start = index * size
        left = np.full(gister.left_context, NO_TOKEN, np.uint32)
        known = history[max(start - gister.left_context, 0) : start]
        left[gister.left_context - len(known) :] = known
        vectors, keys = gister.encode_blocks(history[None, start : start + size], left[None])
    else:
        children = [
            expected(gister, history, level - 1, child, size)[0]
            for child in range(index * size, (index + 1) * size)
        ]
        vectors, keys = gister.encode_gists(level, np.stack(children)[None])
    return vectors[0], keys[0]


@pytest.mark.parametrize("left_context", [0, 3, 4, 11])
def test_every_gist_stands_for_exactly_its_children(place, spec, left_context):
    gister = HashGister(left_context=left_context)
    history = random_tokens(277)
    with Tree.create(spec, gister, place) as tree:
        for piece in np.split(history, [1, 2, 5, 100, 103, 104, 250]):
            tree.append(piece)
        for level in (1, 2, 3):
            assert tree.n_nodes(level) == 277 // 4**level
            vectors = tree.gists(level, 0, tree.n_nodes(level))
            keys = tree.keys(level, 0, tree.n_nodes(level))
            assert vectors.dtype == keys.dtype == np.float32
            for index in range(tree.n_nodes(level)):
                vector, key = expected(gister, history, level, index, 4)
                np.testing.assert_array_equal(vectors[index], vector)
                np.testing.assert_array_equal(keys[index], key)


@pytest.mark.parametrize(("size", "levels"), [(2, 11), (4, 6), (32, 2)])
def test_deep_and_wide_trees_hold_every_complete_node(place, spec, size, levels):
    gister = HashGister()
    deep = replace(spec, block_size=size, max_levels=levels)
    history = random_tokens(5000)
    with Tree.create(deep, gister, place) as tree:
        tree.append(history[:4097])
        for token in history[4097:4200]:
            tree.append([int(token)])
        tree.append(history[4200:])
        assert [tree.n_nodes(level) for level in range(1, levels + 1)] == [
            5000 // size**level for level in range(1, levels + 1)
        ]
        last = tree.n_nodes(levels) - 1
        top = tree.gists(levels, last, last + 1)[0]
        np.testing.assert_array_equal(top, expected(gister, history, levels, last, size)[0])
        assert tree.verify(gister) == []


def test_how_tokens_arrive_does_not_matter(spec, gister, tmp_path):
    history = random_tokens(3000)
    at_once = Tree.create(spec, gister)
    at_once.append(history)
    by_ones = Tree.create(spec, gister, tmp_path / "tree")
    for token in history:
        by_ones.append([token])
    for level in (1, 2, 3):
        count = at_once.n_nodes(level)
        np.testing.assert_array_equal(
            at_once.gists(level, 0, count), by_ones.gists(level, 0, count)
        )
        np.testing.assert_array_equal(at_once.keys(level, 0, count), by_ones.keys(level, 0, count))
    by_ones.close()


def test_gisters_get_bounded_batches(spec):
    seen = []

    class Counting(HashGister):
        def encode_blocks(self, tokens, left):
            seen.append(len(tokens))
            return super().encode_blocks(tokens, left)

    tree = Tree.create(spec, Counting())
    tree.append(random_tokens(4 * (2 * GIST_BATCH + 5)))
    assert seen == [GIST_BATCH, GIST_BATCH, 5]


def test_tokens_are_a_view_that_cannot_be_written(place, spec, gister):
    history = random_tokens(50)
    with Tree.create(spec, gister, place) as tree:
        tree.append(history)
        early = tree.tokens(10, 40)
        tree.append(random_tokens(100_000, seed=1))  # grows and remaps
        np.testing.assert_array_equal(early, history[10:40])
        assert early.base is not None
        assert early.dtype == np.uint32
        with pytest.raises(ValueError, match="read-only"):
            early[0] = 1
        np.testing.assert_array_equal(tree.tokens(0, 50), history)


def test_rows_by_index_and_by_range_agree(place, spec, gister):
    with Tree.create(spec, gister, place) as tree:
        tree.append(random_tokens(400))
        target = np.array([7, 0, 99, 7])
        np.testing.assert_array_equal(tree.gist_rows(1, target), tree.gists(1, 0, 100)[target])
        assert tree.gist_rows(2, np.array([], np.int64)).shape == (0, spec.dim)


def test_reading_outside_the_tree_is_an_index_error(place, spec, gister):
    with Tree.create(spec, gister, place) as tree:
        tree.append(random_tokens(41))
        for read in (
            lambda: tree.tokens(0, 42),
            lambda: tree.tokens(-1, 5),
            lambda: tree.gists(1, 0, 11),
            lambda: tree.keys(2, 3, 2),
            lambda: tree.gist_rows(1, np.array([10])),
            lambda: tree.gist_rows(1, np.array([-1])),
            lambda: tree.n_nodes(0),
            lambda: tree.gists(4, 0, 0),
        ):
            with pytest.raises(IndexError):
                read()


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        ([5, 1000], "token 1 of 2 has id 1000, outside 0 to 999"),
        ([-1], "has id -1"),
        (np.array([2**40]), "outside 0 to 999"),
        (np.array([1.0]), "dtype float64"),
        (np.array([[1]]), r"shape \(1, 1\)"),
        (["a"], "integer ids"),
        (np.array([True]), "dtype bool"),
    ],
)
def test_tokens_that_are_none_are_refused_and_change_nothing(place, spec, gister, tokens, sentence):
    with Tree.create(spec, gister, place) as tree:
        tree.append([1, 2, 3])
        with pytest.raises(ModelError, match=sentence):
            tree.append(tokens)
        tree.append([])
        assert tree.n_tokens == 3
        tree.append(np.array([4, 5], np.int16))
        np.testing.assert_array_equal(tree.tokens(0, 5), [1, 2, 3, 4, 5])


class FlakyGister(HashGister):
    """Fails as told; ``trouble`` is shared state of the test."""

    trouble = ""

    def encode_gists(self, level, children):
        vectors, keys = super().encode_gists(level, children)
        if self.trouble == "raise":
            raise RuntimeError("out of memory")
        if self.trouble == "shape":
            return vectors[:, 1:], keys
        if self.trouble == "nan":
            vectors = vectors.copy()
            vectors[0, 0] = np.nan
        if self.trouble == "large":
            keys = keys * 1e6
        return vectors, keys


@pytest.mark.parametrize(
    ("trouble", "error", "sentence"),
    [
        ("raise", RuntimeError, "out of memory"),
        ("shape", ModelError, r"returned shape \(1, 7\) for gists of level 2"),
        ("nan", ModelError, "gist of node 1 of level 2 with a value that fp16 cannot hold"),
        ("large", ModelError, "key of node 1 of level 2"),
    ],
)
def test_a_failing_gister_leaves_the_tree_as_it_was(
    place, spec, monkeypatch, trouble, error, sentence
):
    gister = FlakyGister()
    history = random_tokens(200)
    with Tree.create(spec, gister, place) as tree:
        tree.append(history[:30])
        tree.commit()
        monkeypatch.setattr(FlakyGister, "trouble", trouble)
        with pytest.raises(error, match=sentence):
            tree.append(history[30:40])
        assert (tree.n_tokens, tree.n_nodes(1), tree.n_nodes(2)) == (30, 7, 1)
        monkeypatch.setattr(FlakyGister, "trouble", "")
        history[30:40] = 7
        tree.append(history[30:])
        assert tree.verify(gister) == []
        np.testing.assert_array_equal(tree.tokens(0, 200), history)
    if place:
        with Tree.open(place, gister) as tree:
            assert tree.n_tokens == 200
            assert tree.verify(gister) == []


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_gists_survive_every_dtype_within_its_precision(tmp_path, spec, dtype):
    rng = generator(3, "gists")

    class Noise(NullGister):
        def encode_blocks(self, tokens, left):
            n = len(tokens)
            built.append(rng.normal(size=(n, 8)).astype(np.float32))
            return built[-1], np.zeros((n, 4), np.float32)

    built = []
    gister = Noise(8, 4, "hash")
    with Tree.create(replace(spec, dtype=dtype), gister, tmp_path / "tree") as tree:
        tree.append(random_tokens(400))
        bits = {"fp16": 11, "bf16": 8, "fp32": 24}[dtype]
        np.testing.assert_allclose(tree.gists(1, 0, 100), built[0], rtol=2.0**-bits, atol=1e-7)


@pytest.mark.parametrize("place_kind", ["ram", "disk"])
def test_regist_replaces_every_gist_and_no_token(tmp_path, spec, gister, place_kind):
    place = None if place_kind == "ram" else tmp_path / "tree"
    after = HashGister(checkpoint_id="after", key_dim=9)
    history = random_tokens(300)
    seen = []
    with Tree.create(spec, gister, place) as tree:
        tree.append(history)
        before = tree.gists(1, 0, 75)
        tree.regist(after, lambda done, total: seen.append((done, total)))
        assert tree.spec == replace(spec, gist_checkpoint="after", key_dim=9)
        assert not (tree.gists(1, 0, 75) == before).all(axis=1).any()
        assert tree.verify(after) == []
        tree.append(history)
        assert tree.verify(after) == []
        np.testing.assert_array_equal(tree.tokens(0, 600), np.tile(history, 2))
    assert seen[-1] == (75 + 18 + 4, 75 + 18 + 4)
    if place:
        with Tree.open(place, after) as tree:
            assert tree.verify(after) == []
        with pytest.raises(StorageError, match=r"come from checkpoint 'after'.*regist"):
            Tree.open(place, gister)


def test_a_closed_tree_takes_no_writes(place, spec, gister):
    tree = Tree.create(spec, gister, place)
    tree.append([1])
    tree.close()
    tree.close()
    with pytest.raises(StorageError, match="is closed"):
        tree.append([2])


def test_closing_commits_and_cuts_files_to_their_rows(tmp_path, spec, gister):
    with Tree.create(spec, gister, tmp_path / "tree") as tree:
        tree.append(random_tokens(100))
        assert tree.committed_tokens == 0
    assert (tmp_path / "tree" / "LOD0.ctx").stat().st_size == 8192 + 400
    assert (tmp_path / "tree" / "LOD1.ctx").stat().st_size == 8192 + 25 * 16
    assert (tmp_path / "tree" / "KEY2.ctx").stat().st_size == 8192 + 6 * 8
    with Tree.open(tmp_path / "tree", gister) as tree:
        assert tree.n_tokens == tree.committed_tokens == 100


def test_equal_runs_write_equal_bytes(tmp_path, spec, gister):
    for name in ("a", "b"):
        with Tree.create(spec, gister, tmp_path / name, seed=5, now_ns=10**18) as tree:
            tree.append(random_tokens(777))
            assert tree.created == "2001-09-09T01:46:40Z"
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_a_tree_id_is_given_or_depends_on_the_seed(spec, gister):
    first, second = (Tree.create(spec, gister, seed=s, now_ns=0).tree_id for s in (1, 2))
    assert first != second
    assert Tree.create(spec, gister, tree_id="0" * 32).tree_id == "0" * 32
    with pytest.raises(ConfigError, match="32 lower-case hex digits"):
        Tree.create(spec, gister, tree_id="XYZ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("block_size", 3),
        ("block_size", 1),
        ("max_levels", 0),
        ("max_levels", 40),
        ("dim", 0),
        ("key_dim", 0),
        ("vocab_size", 2**32),
        ("dtype", "int8"),
        ("model", ""),
        ("gist_checkpoint", "x" * 2000),
    ],
)
def test_an_impossible_spec_names_its_field(spec, field, value):
    with pytest.raises(ConfigError, match=field):
        replace(spec, **{field: value})


def test_a_gister_must_fit_the_spec(spec):
    with pytest.raises(ModelError, match="gists of 5"):
        Tree.create(spec, HashGister(dim=5))
    with pytest.raises(StorageError, match="'other'"):
        Tree.create(spec, HashGister(checkpoint_id="other"))


def test_every_refusal_is_one_sentence(spec, gister):
    with pytest.raises(MegaContextError) as caught:
        Tree.create(spec, gister).append([5000])
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_null_gists_are_zero(place):
    spec = TreeSpec(4, 2, 3, 2, "bf16", "m", "null", 10)
    with Tree.create(spec, NullGister(3, 2), place) as tree:
        tree.append(np.ones(64, np.uint32))
        assert not tree.gists(2, 0, 4).any()
        assert tree.keys(1, 0, 16).shape == (16, 2)


@pytest.mark.parametrize("left_context", [0, 3, 11])
def test_a_gist_made_beforehand_is_the_one_the_tree_would_make(place, spec, left_context):
    gister = HashGister(left_context=left_context)
    history = random_tokens(90)
    calls = []

    class Watched(HashGister):
        def encode_blocks(self, tokens, left):
            calls.append(len(tokens))
            return super().encode_blocks(tokens, left)

    with Tree.create(spec, Watched(left_context=left_context), place) as tree:
        for start in range(0, 90, 2):
            piece = history[start : start + 2]
            closed = tree.closing(piece)
            assert (closed is not None) == (start % 4 == 2)
            tree.append(piece, None if closed is None else gister.encode_blocks(*closed))
        assert calls == []
        assert tree.n_nodes(1) == 22
        assert tree.verify(gister) == []


def test_a_gist_for_one_block_does_not_pass_for_two(place, spec, gister):
    with Tree.create(spec, gister, place) as tree:
        built = gister.encode_blocks(*tree.closing(random_tokens(4)))
        with pytest.raises(ValueError, match="1 gists made, 2 blocks closed"):
            tree.append(random_tokens(8), built)
        assert tree.n_tokens == 0


def test_a_tree_in_memory_goes_back_and_on_as_if_nothing_had_been(spec, tmp_path):
    gister, history = HashGister(), random_tokens(277)
    tree, fresh = Tree.create(spec, gister), Tree.create(spec, gister)
    tree.append(history[:200])
    tree.commit()
    tree.append(random_tokens(150, seed=1))
    tree.forget(200)
    assert (tree.n_tokens, tree.committed_tokens, tree.n_nodes(2)) == (200, 200, 200 // 16)
    tree.append(history[200:])
    fresh.append(history)
    assert np.array_equal(tree.tokens(0, 277), fresh.tokens(0, 277))
    for level in (1, 2, 3):
        count = fresh.n_nodes(level)
        assert tree.n_nodes(level) == count
        assert np.array_equal(tree.gists(level, 0, count), fresh.gists(level, 0, count))
    with Tree.create(spec, gister, tmp_path / "disk") as stored:
        stored.append(history)
        with pytest.raises(StorageError, match="lies on disk"):
            stored.forget(10)
