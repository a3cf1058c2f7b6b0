"""One judge of answers for ``run`` and ``eval recall``."""

import pytest

from megacontext.core.evaluation.tasks import recall
from megacontext.core.runtime.judge import is_right
from megacontext.core.runtime.script import ScriptAnswer


@pytest.mark.parametrize(
    ("expected", "text", "right"),
    [
        ("48213", " 482139", False),
        ("48213", " 48213.", True),
        ("ottoline", " Ottoline", True),
        ("ottoline", "'ottoline'", True),
        ("48213", "The code is 48213", False),
    ],
)
def test_a_longer_number_is_no_answer_and_case_does_not_matter(expected, text, right):
    assert is_right(text, expected) is right
    assert ScriptAnswer("x", expected, text).right is right


def test_an_answer_that_nobody_expected_is_neither():
    assert ScriptAnswer("x", "", "anything").right is None
    assert recall.is_right is is_right
