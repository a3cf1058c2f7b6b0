"""Every synthetic lens through the same matrix."""

from __future__ import annotations

import numpy as np
import pytest

from megacontext.simulator.lenses import LENSES, LensView, ideal_scores, make_lens
from megacontext.simulator.streams import truth
from megacontext.traces.errors import ConfigError


def view(step: int = 0, round_: int = 0) -> LensView:
    levels = np.array([2, 2, 1, 1, 1, 0, 0], np.int8)
    index = np.array([0, 1, 8, 9, 10, 11, 12], np.int64)
    starts = index * 4 ** np.maximum(levels, 1).astype(np.int64)
    return LensView(levels, index, starts, 54, 2, 4, truth([5, 9], [1.0, 0.5], 13), step, round_)


@pytest.mark.parametrize("name", LENSES)
def test_the_same_seed_and_moment_give_the_same_scores(name: str) -> None:
    one, two = make_lens(name, 5), make_lens(name, 5)
    for step in range(6):
        assert np.array_equal(one.score(view(step)), two.score(view(step)), equal_nan=True)


@pytest.mark.parametrize("name", [name for name, lens in LENSES.items() if lens.honest])
def test_honest_lenses_give_one_finite_score_a_node(name: str) -> None:
    lens = make_lens(name, 5)
    for step in range(12):
        scores = lens.score(view(step))
        assert scores.shape == (7,)
        assert np.isfinite(scores).all()
        assert (np.abs(scores) <= 1).all()


def test_the_oracle_finds_the_nodes_above_wanted_blocks() -> None:
    assert np.flatnonzero(ideal_scores(view()) > 0).tolist() == [1, 3]


def test_dishonest_lenses_do_what_they_are_named_for() -> None:
    nan, short = make_lens("nan", 5), make_lens("wrong_length", 5)
    assert any(not np.isfinite(nan.score(view(step))).all() for step in range(8))
    assert {short.score(view(step)).size for step in range(4)} == {7, 8, 6, 0}


def test_the_adversary_hates_what_is_wanted() -> None:
    gists = make_lens("adversarial", 5).score(view(0))
    assert gists[1] < 0 < gists[0]


def test_stale_scores_are_those_of_earlier_refocuses() -> None:
    lens = make_lens("stale", 5)
    first = lens.score(view(0))
    assert (first < 0).all()
    for step in range(1, 7):
        late = lens.score(view(step))
    assert np.flatnonzero(late > 0).tolist() == [1, 3]


def test_an_unknown_lens_is_refused() -> None:
    with pytest.raises(ConfigError, match="lens 'oracel' is unknown; did you mean 'oracle'"):
        make_lens("oracel", 0)
