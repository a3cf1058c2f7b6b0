"""Functions have paragraphs and identifiers are the field's words; counts may only go down."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import code_style

LONG = "def f():\n" + "    x = 1\n" * 20


def test_a_long_function_without_blank_line_or_comment_is_a_wall():
    assert [wall for *_, wall in code_style.long_functions(LONG)] == [True]
    assert [wall for *_, wall in code_style.long_functions(LONG + "\n    x = 2\n")] == [False]
    assert [wall for *_, wall in code_style.long_functions(LONG + "    # why\n    x = 2\n")] == [
        False
    ]
    documented = LONG.replace("():\n", '():\n    """One.\n\n    Two.\n    """\n')
    assert [wall for *_, wall in code_style.long_functions(documented)] == [True]
    assert list(code_style.long_functions("def f():\n" + "    x = 1\n" * 19)) == []


def test_identifiers_are_compared_word_by_word():
    names = code_style.identifiers("class KeptRows:\n  def take(self, asked_at):\n    self.x = 1\n")
    assert {"KeptRows", "take", "self", "asked_at", "x"} == set(names)
    assert code_style.words_of("KeptRows") == ["kept", "rows"]
    assert code_style.words_of("not_found_2") == ["not", "found", "2"]


@pytest.mark.parametrize(("kind", "index"), [("walls", 0), ("words", 1)])
def test_no_package_exceeds_its_ceiling(kind, index):
    counted = code_style.cases()[index]
    ceilings = code_style.ceilings()
    too_many = {
        package: [f"{where} {what}" for where, what in cases]
        for package, cases in counted.items()
        if len(cases) > ceilings.get(package, {kind: 0})[kind]
    }
    assert not too_many, f"{kind}: {too_many}"


MOST_UNKNOWN_WORDS = 0.108
"""The most that `code_style.py --words` may say; lower it when it fell."""


def test_names_are_made_of_the_fields_words():
    unknown, total = code_style.unknown_words()
    assert unknown.total() / total <= MOST_UNKNOWN_WORDS, unknown.most_common(50)


def test_a_word_of_ones_own_counts_as_often_as_it_is_bound(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text("def hark(x):\n    hark_list = [x]\n    self.hark = hark_list\n")
    monkeypatch.setattr(code_style, "source_files", lambda: iter([tmp_path / "a.py"]))
    unknown, total = code_style.unknown_words()
    assert unknown == {"hark": 3}
    assert total == 4
