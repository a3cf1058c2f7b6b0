"""Task files: what is read, what is refused."""

import json

import pytest

from megacontext.core.evaluation.sessions.history import token_spans
from megacontext.core.evaluation.tasks.recall import is_right
from megacontext.core.evaluation.tasks.recall_tasks import (
    RecallTask,
    load_tasks,
    load_texts,
    prompt_of,
    write_tasks,
)
from megacontext.traces.errors import SourceError

GOOD = {"history": "abcdef", "question": "q?", "answer": "a"}


def refused(tmp_path, text, load=load_tasks):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(SourceError) as caught:
        load(path)
    said = str(caught.value)
    assert said.endswith(".")
    assert "\n" not in said
    return said


def test_tasks_survive_a_file(tmp_path):
    tasks = [
        RecallTask("abc", "q?", "a", ((0, 2),), "kind", 4),
        RecallTask("äbc\n", "q?", "b"),
        RecallTask("abc", "q", "c", ((0, 1), (2, 3))),
    ]
    path = tmp_path / "t.jsonl"
    write_tasks(path, tasks)
    assert load_tasks(path) == tasks
    assert load_tasks(path, 1) == tasks[:1]
    assert json.loads(path.read_text().splitlines()[0])["gold"] == [0, 2]


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ("{oops", "line 2 is not JSON"),
        ("[1]", "line 2 is no JSON object"),
        ({"history": "a", "question": "b"}, "line 2 has no 'answer'"),
        (GOOD | {"answer": " "}, "'answer' is ' '"),
        (GOOD | {"history": 3}, "'history' is 3"),
        (
            GOOD | {"history": "ab\ud800"},
            r"'history' has half of a character, \ud800, at character 2",
        ),
        (GOOD | {"gold": [2, 9]}, "outside the history's 6 characters"),
        (GOOD | {"gold": [3, 3]}, "0 <= start < end"),
        (GOOD | {"gold": [-1, 3]}, "0 <= start < end"),
        (GOOD | {"gold": 3}, "must be [start, end]"),
        (GOOD | {"gold": [1, 2, 3]}, "must be [start, end]"),
        (GOOD | {"gold": [True, 2]}, "must be [start, end]"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, record, says):
    line = record if isinstance(record, str) else json.dumps(record)
    assert says in refused(tmp_path, json.dumps(GOOD) + "\n" + line + "\n")


def test_empty_missing_and_undecodable_files_are_refused(tmp_path):
    assert "holds no task" in refused(tmp_path, "\n\n")
    assert "holds no text" in refused(tmp_path, "", load_texts)
    assert "has no 'text'" in refused(tmp_path, '{"a": 1}', load_texts)
    with pytest.raises(SourceError, match="cannot be read"):
        load_tasks(tmp_path / "missing.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "\xff"}')
    with pytest.raises(SourceError, match="not UTF-8"):
        load_texts(tmp_path / "latin.jsonl")


def test_a_question_with_its_own_prompt_is_taken_as_it_is():
    assert prompt_of("Who?") == "\nQuestion: Who?\nAnswer:"
    assert prompt_of("\nQ: Who?\nA:") == "\nQ: Who?\nA:"
    assert prompt_of("Who?", "<{question}>") == "<Who?>"


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        (" 5731", "5731", True),
        (" 57312", "5731", False),
        (" 5731.", "5731", True),
        (' "Ada  Lund" is it', "ada lund", True),
        (" Adam", "Ada", False),
        (" Ada, then", "Ada.", True),
        (" the Ada", "Ada", False),
        ("", "Ada", False),
        (" no", "...", False),
        (" $5.00", "$5.00", True),
        (" a/b.txt", "a/b.txt", True),
    ],
)
def test_an_answer_is_right_if_the_text_starts_with_it(text, answer, right):
    assert is_right(text, answer) is right


def test_character_spans_become_the_tokens_that_touch_them():
    import numpy as np

    offsets = np.array([[0, 3], [3, 4], [4, 9], [9, 10]])
    spans = token_spans(offsets, ((3, 4), (2, 5), (0, 10)))
    assert spans.tolist() == [[1, 2], [0, 3], [0, 4]]
    assert token_spans(offsets, ()).shape == (0, 2)


def test_a_plain_text_file_is_one_text_and_json_lines_are_known_by_their_brace(tmp_path):
    plain, lines = tmp_path / "book.txt", tmp_path / "lines.txt"
    plain.write_text("It was a dark night.\n\nThe end.\n")
    assert [(t.name, t.text) for t in load_texts(plain)] == [("book.txt", plain.read_text())]
    lines.write_text('{"text": "one"}\n{"text": "two"}\n')
    assert [text.text for text in load_texts(lines)] == ["one", "two"]
    assert "is not JSON" in refused(tmp_path, "a plain text", load_texts)  # named .jsonl
