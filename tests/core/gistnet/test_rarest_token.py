import numpy as np

from megacontext.core.gistnet.rarest_token import TokenGister
from megacontext.core.rng import generator

TABLE = generator(1, "test-embeddings").standard_normal((600, 16), np.float32)
NO_LEFT = np.empty((0, 0), np.uint32)


def test_a_gist_is_the_embedding_of_the_rarest_token():
    gister = TokenGister(TABLE, key_dim=32)
    tokens = np.array([[300, 599, 301, 7], [400, 3, 350, 399]], np.uint32)
    gists, keys = gister.encode_blocks(tokens, NO_LEFT)
    assert np.array_equal(gists, TABLE[[599, 400]])
    assert keys.shape == (2, 32)


def test_a_gist_of_gists_is_one_of_its_children():
    gister = TokenGister(TABLE, key_dim=32)
    children = TABLE[:24].reshape(3, 8, 16)
    gists, _ = gister.encode_gists(2, children)
    for gist, group in zip(gists, children, strict=True):
        assert (group == gist).all(axis=1).sum() == 1
    distance = np.linalg.norm(children - children.mean(axis=1, keepdims=True), axis=2)
    assert np.array_equal(gists, children[np.arange(3), distance.argmax(axis=1)])


def test_it_never_passes_for_mean_gists():
    assert TokenGister(TABLE).checkpoint_id.startswith("token-")
