"""Which words a block says, and which sentences are read along with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megacontext import core
from megacontext.core.heads.sentences import sentence_runs
from megacontext.core.heads.words import HistoryWords, words_of
from megacontext.core.model import BaseModel

BLOCK = 8


class Spelled:
    """A base model whose tokens spell what they are told to: one token a letter."""

    has_tokenizer = True

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokenizer = self

    def pieces(self, ids: np.ndarray) -> list[str]:
        return [self.text[i] for i in ids.tolist()]

    def tokens(self, start: int, stop: int) -> np.ndarray:
        assert 0 <= start <= stop <= len(self.text)
        return np.arange(start, stop, dtype=np.uint32)

    def runs(self, block: int, positions: list[int]) -> list[int]:
        """The run of ``block``; where no sentence ends, of the block alone."""
        n_blocks = len(self.text) // BLOCK
        otherwise = {block: range(block, block + 1)}
        runs = sentence_runs(
            self,
            self.tokens,
            {block: positions},
            otherwise,
            n_blocks,
            BLOCK,  # type: ignore[arg-type]
        )
        return list(runs[block])


def test_a_word_has_the_numbers_of_all_its_pieces() -> None:
    assert words_of(["The", " ke", "y", "s of", " the"]) == {
        "the": [0, 4],
        "keys": [1, 2, 3],
        "of": [3],
    }


def test_a_span_that_cuts_a_word_says_it_whole() -> None:
    spelled = Spelled("one twelve six")
    words = HistoryWords(spelled, spelled.tokens, len(spelled.text))  # type: ignore[arg-type]
    assert words.between(6, 12) == {"twelve": [0, 1, 2, 3], "six": [5]}


def test_without_a_tokenizer_every_token_is_a_word() -> None:
    folder = Path(core.__file__).parent / "pretrained" / "demo" / "base"
    bare = BaseModel.from_module(BaseModel.load(str(folder), device="cpu").module)
    tokens = np.array([5, 6, 5, 7], np.uint32)
    words = HistoryWords(bare, lambda a, b: tokens[a:b], 4)
    assert words.between(1, 3) == {"6": [0], "5": [1]}


# In blocks of eight: |Aaaa aaa|. Bbbb b|bbb. Ccc|c. Dddd| dddd dd|d.
SENTENCES = "Aaaa aaa. Bbbb bbbb. Cccc. Dddd dddd ddd." + " " * 7


@pytest.mark.parametrize(
    ("position", "run"),
    [
        (11, [1, 2, 3]),  # B from its start, C behind it
        (18, [1, 2, 3]),  # the same from B's other block
        (21, [2, 3, 4, 5]),  # C and D to its end
    ],
)
def test_the_matched_sentence_and_the_next_are_read(position: int, run: list[int]) -> None:
    assert Spelled(SENTENCES).runs(position // BLOCK, [position]) == run


def test_all_matched_sentences_of_a_block_are_read() -> None:
    assert Spelled(SENTENCES).runs(2, [18, 22]) == [1, 2, 3, 4, 5]


def test_text_without_sentences_is_read_as_before() -> None:
    assert Spelled("a" * 80).runs(5, [42]) == [5]
    assert Spelled(SENTENCES).runs(0, [3]) == [0, 1, 2]  # no sentence begins before it
    assert Spelled(SENTENCES).runs(4, [33]) == [3, 4]  # one ends behind it, and no second
