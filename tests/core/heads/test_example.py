"""Another question in the same words is an example: no candidate, and read whole."""

from __future__ import annotations

import numpy as np
import pytest

from megacontext.core.heads.example import ANSWER_TOKENS, TEXT_TOKENS, asks_alike, find_example

BLOCK = 32
N = 40 * BLOCK
QUESTION = np.arange(1_000, 1_020, dtype=np.uint32)


def history(*placed: tuple[int, np.ndarray]) -> np.ndarray:
    tokens = np.random.default_rng(0).integers(0, 900, N).astype(np.uint32)
    for at, text in placed:
        tokens[at : at + len(text)] = text
    return tokens


def other(changed: int) -> np.ndarray:
    """The question, with its tokens from the sixth on replaced."""
    text = QUESTION.copy()
    text[5 : 5 + changed] = np.arange(2_000, 2_000 + changed)
    return text


def found(tokens: np.ndarray, question: np.ndarray = QUESTION, blocks=range(40)):
    return find_example(question, lambda a, b: tokens[a:b], N, blocks, BLOCK)


@pytest.mark.parametrize("at", [600, 20 * BLOCK - 7, 20 * BLOCK - 20])
def test_another_question_in_the_same_words_with_its_text_and_answer(at: int) -> None:
    assert found(history((at, other(2)))) == (at - TEXT_TOKENS, at + 20 + ANSWER_TOKENS)


def test_its_text_begins_where_the_history_begins() -> None:
    assert found(history((40, other(2)))) == (0, 60 + ANSWER_TOKENS)


def test_its_answer_ends_where_the_history_ends() -> None:
    assert found(history((N - 20, other(2)))) == (N - 20 - TEXT_TOKENS, N)


def test_the_same_question_is_none_since_its_answer_is_the_answer() -> None:
    assert found(history((40, QUESTION))) is None


def test_a_text_that_shares_few_words_is_none() -> None:
    assert found(history((40, other(10)))) is None


def test_a_fact_with_the_questions_key_is_none() -> None:
    fact = np.concatenate([[1, 2], QUESTION[4:14], [3, 4, 5, 6]])
    assert found(history((40, fact.astype(np.uint32)))) is None


def test_keys_may_differ_in_length() -> None:
    longer = np.insert(other(2), 7, [3_000, 3_001])
    assert found(history((40, longer))) is not None


def test_a_short_question_says_too_little() -> None:
    assert found(history((40, other(1)[:7])), QUESTION[:7]) is None


def test_blocks_are_looked_at_in_their_order() -> None:
    tokens = history((40, other(2)), (900, other(1)))
    assert found(tokens, blocks=[28, 1])[1] == 920 + ANSWER_TOKENS
    assert found(tokens, blocks=[7, 9]) is None


def test_alike_is_not_equal() -> None:
    assert asks_alike(other(1), QUESTION)
    assert not asks_alike(QUESTION, QUESTION)
