"""The checkers themselves: a naive frontier must refuse what the invariants forbid."""

from __future__ import annotations

import numpy as np
import pytest

from megacontext.simulator.checks.frontier import Shadow, check_arrays
from megacontext.simulator.checks.invariant import InvariantError
from megacontext.simulator.checks.refocus import clean_scores


def shadow() -> Shadow:
    made = Shadow(block_size=4, max_levels=2)
    made.reset([2, 1, 1, 0], 4 * 7 + 3)
    return made


def test_cost_counts_raw_blocks_gists_and_tail() -> None:
    assert shadow().cost == 1 + 1 + 1 + 4 + 3


def test_expand_then_collapse_restores_the_bytes() -> None:
    made = shadow()
    before = bytes(made.levels), made.starts.tobytes(), made.cost
    made.expand(2, 0)
    assert bytes(made.levels) == bytes([1, 1, 1, 1, 1, 1, 0])
    assert made.cost == before[2] + 3
    made.collapse(2, 0)
    assert (bytes(made.levels), made.starts.tobytes(), made.cost) == before


@pytest.mark.parametrize(
    ("act", "invariant"),
    [
        (lambda s: s.expand(1, 0), "antichain"),
        (lambda s: s.expand(2, 1), "antichain"),
        (lambda s: s.expand(3, 0), "antichain"),
        (lambda s: s.collapse(2, 1), "atomic"),
        (lambda s: s.collapse(1, 5), "atomic"),
        (lambda s: s.append(1, [2]), "alignment"),
        (lambda s: s.append(4, []), "tiling"),
        (lambda s: s.append(1, [3]), "antichain"),
    ],
)
def test_an_illegal_edit_names_its_invariant(act, invariant: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvariantError) as caught:
        act(shadow())
    assert caught.value.invariant == invariant


def test_arrays_must_say_what_the_edits_said() -> None:
    made = shadow()
    levels = np.array([2, 1, 1, 0], np.int8)
    index, starts = np.array([0, 4, 5, 6]), np.array([0, 16, 20, 24])
    check_arrays(made, levels, index, starts)
    for wrong in (
        (levels[::-1].copy(), index, starts),
        (levels, index + 1, starts),
        (levels, index, starts + 4),
    ):
        with pytest.raises(InvariantError):
            check_arrays(made, *wrong)


def test_unusable_scores_count_as_zero() -> None:
    given = np.array([0.5, np.nan, np.inf, -np.inf, 1e30], np.float32)
    assert clean_scores(given, 5).tolist() == [0.5, 0, 0, 0, 0]
    assert clean_scores(given, 4).tolist() == [0, 0, 0, 0]
