"""What is read along with a selected block: its neighbours, and a cut word to its end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megacontext import core
from megacontext.core.heads.neighbours import cuts_word, neighbour_runs
from megacontext.core.model import BaseModel

BLOCK = 32


@pytest.fixture(scope="module")
def demo_base() -> BaseModel:
    folder = Path(core.__file__).parent / "pretrained" / "demo" / "base"
    return BaseModel.load(str(folder), device="cpu")


def mask(blocks: list[int], count: int = 12) -> np.ndarray:
    selected = np.zeros(count, bool)
    selected[blocks] = True
    return selected


def runs(blocks: list[int], after: int, cut: set[int] = frozenset()) -> dict[int, list[int]]:
    edges = {block * BLOCK for block in cut}
    found = neighbour_runs(mask(blocks), after, BLOCK, edges.__contains__)
    return {block: list(run) for block, run in found.items()}


def test_the_block_before_and_those_behind_are_read() -> None:
    assert runs([5], 1) == {5: [4, 5, 6]}
    assert runs([5], 2) == {5: [4, 5, 6, 7]}
    assert runs([5], 0) == {5: [4, 5]}


def test_a_cut_word_is_read_to_its_end_and_no_other_edge_counts() -> None:
    assert runs([5], 1, {7}) == {5: [4, 5, 6, 7]}
    assert runs([5], 1, {7, 8}) == {5: [4, 5, 6, 7, 8]}
    assert runs([5], 1, {4, 5, 6, 9}) == {5: [4, 5, 6]}


def test_text_without_spaces_is_not_read_without_end() -> None:
    assert runs([2], 1, set(range(20))) == {2: [1, 2, 3, 4, 5, 6]}


def test_runs_stay_inside_the_history() -> None:
    assert runs([0, 11], 2, set(range(20))) == {0: [0, 1, 2, 3, 4, 5], 11: [10, 11]}


def test_a_word_is_cut_inside_an_identifier_and_between_digits_alone(demo_base: BaseModel) -> None:
    text = "the key is 7f3a-99d1-c0de. Then, more\nwords"
    tokens = demo_base.tokenizer.encode(text)
    cuts = cuts_word(demo_base, lambda a, b: tokens[a:b])
    cut_before = []
    for position in range(1, len(tokens)):
        before = demo_base.tokenizer.decode(tokens[:position])
        if cuts(position):
            cut_before.append(len(before))
    identifier = range(text.index("7f3a") + 1, text.index("c0de") + 4)
    assert cut_before
    assert all(at in identifier or text[at - 1 : at + 1].isalpha() for at in cut_before)
    assert text.index(".") not in cut_before
    assert not any(text[at].isspace() for at in cut_before)


def test_a_model_without_a_tokenizer_knows_no_words(demo_base: BaseModel) -> None:
    bare = BaseModel.from_module(demo_base.module)
    assert not cuts_word(bare, lambda a, b: np.zeros(b - a, np.uint32))(5)
