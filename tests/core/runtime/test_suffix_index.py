"""The index of suffixes finds what a search through all of the history finds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext.core.runtime.triggers.suffix_index import LONGEST, Suffixes

_TRIED = 32  # earlier places that are looked at


def searched(text: list[int], n: int) -> tuple[int, int]:
    """(place, length) by comparing the end of the text with every earlier place."""
    end = len(text)
    places = [p for p in range(n, end) if text[p - n : p] == text[end - n :]][-_TRIED:]
    best = (0, 0)
    for place in reversed(places):
        length = n
        while length < min(LONGEST, place) and text[place - 1 - length] == text[end - 1 - length]:
            length += 1
        if length > best[1]:
            best = (place, length)
    return best


@given(
    text=st.lists(st.integers(0, 3), max_size=120),
    n=st.integers(1, 4),
)
def test_every_match_is_the_longest_and_newest(text, n):
    index = Suffixes(n)
    for end, token in enumerate(text, 1):
        assert index.push(token) == searched(text[:end], n)
    assert len(index) == len(text)


def test_a_match_is_cut_at_its_longest():
    index = Suffixes(2)
    passage = list(range(2 * LONGEST))
    for token in passage:
        assert index.push(token) == (0, 0)
    found = [index.push(token) for token in passage]
    assert found[0] == (0, 0)
    assert found[1] == (2, 2)
    assert found[-1] == (2 * LONGEST, LONGEST)


@pytest.mark.parametrize("cuts", [[0], [1], [700], [300, 310, 900], [999, 1000]])
@pytest.mark.parametrize("n", [1, 3])
def test_taken_in_at_once_or_token_by_token_it_is_the_same(cuts, n):
    text = np.random.default_rng(n).integers(0, 12, 1400).astype(np.uint32)
    by_token, in_bulk = Suffixes(n), Suffixes(n)
    for part in np.split(text[:1200], cuts):
        in_bulk.extend(part)
    for token in text[:1200].tolist():
        by_token.push(token)
    later = text[1200:].tolist()
    found = [by_token.push(token) for token in later]
    assert found == [in_bulk.push(token) for token in later]
    assert any(length > n for _, length in found)
