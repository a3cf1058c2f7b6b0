"""Memoized gists and block retrieval."""

import numpy as np

from megacontext.core.evaluation.sessions.block_search import BlockSearch, words_of
from megacontext.core.evaluation.sessions.cached_encoder import CachedEncoder
from megacontext.core.tree.gisters import HashGister


class Counting(HashGister):
    encoded = 0

    def encode_blocks(self, tokens, left):
        type(self).encoded += len(tokens)
        return super().encode_blocks(tokens, left)


def test_a_memo_gives_what_its_gister_gives_and_asks_once():
    Counting.encoded = 0
    inner, tokens = Counting(left_context=2), np.arange(24, dtype=np.uint32).reshape(3, 8)
    tokens[2] = tokens[0]
    left = np.zeros((3, 2), np.uint32)
    memo = CachedEncoder(inner)
    for part in (slice(0, 3), slice(1, 3), slice(0, 2)):
        built = memo.encode_blocks(tokens[part], left[part])
        for one, other in zip(
            built, HashGister().encode_blocks(tokens[part], left[part]), strict=True
        ):
            np.testing.assert_array_equal(one, other)
    assert Counting.encoded == 2  # the third block repeats the first


def test_a_memo_tells_left_context_and_levels_apart():
    memo = CachedEncoder(HashGister(dim=8, left_context=1))
    tokens = np.ones((1, 4), np.uint32)
    a, _ = memo.encode_blocks(tokens, np.array([[1]], np.uint32))
    b, _ = memo.encode_blocks(tokens, np.array([[2]], np.uint32))
    assert (a != b).any()
    children = np.ones((1, 4, 8), np.float32)
    assert (memo.encode_gists(2, children)[0] != memo.encode_gists(3, children)[0]).any()


def test_search_ranks_rare_words_and_ignores_case():
    search = BlockSearch(["the cat sat", "the Zebra_1 ran", "the dog ate the the", ""])
    scores = search.scores("where is ZEBRA_1, the animal?")
    assert scores.argmax() == 1
    assert scores[3] == 0
    assert scores[1] > 4 * scores[0] > 0
    assert words_of("Foo_bar's 12!") == ["foo_bar", "s", "12"]
