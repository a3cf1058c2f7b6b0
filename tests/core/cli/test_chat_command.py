"""``megacontext chat`` through a pipe."""

import io
import json

import pytest

from megacontext.core.cli.app import app, guard
from megacontext.core.verify import verify


@pytest.fixture
def chat(model_folder, monkeypatch, capsys):
    def chat(typed, *options):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        small = ["--model", str(model_folder), "--w-max", "128", "--set", "block_size=8"]
        code = guard(app, ["chat", *small, "--max-new-tokens", "6", *options])
        return (code, *capsys.readouterr())

    return chat


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("".join(f"Line {i} of the book.\n" for i in range(40)))
    return path


def test_lines_are_questions_and_focus_shows_what_the_last_one_changed(chat, book, tmp_path):
    trace = tmp_path / "t.arrow"
    typed = "What is line 3?\n\n/focus\n"
    code, out, err = chat(typed, "--file", str(book), "--trace", str(trace))
    assert code == 0
    _, focus, *actions = out.splitlines()
    assert "expanded" in focus
    assert "of 128 entries show" in focus
    assert actions
    assert all(line.startswith(("+ tokens", "- tokens")) for line in actions)
    assert "note: gists are untrained" in err
    assert not verify(trace).problems


def test_each_answer_is_one_json_line(chat):
    code, out, _ = chat("What is it?\nAnd now?\n", "--json")
    assert code == 0
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["question"] for answer in answers] == ["What is it?", "And now?"]
    assert all(answer["n_tokens"] <= 6 for answer in answers)
    assert answers[0]["refocus"]["trigger"] == "turn_end"


def test_commands_and_what_is_none_of_them(chat, book):
    code, out, err = chat(f"/focus\n/nope\n/file\n/file {book}\n/help\n/quit\nWhat?\n")
    assert code == 0
    assert out.startswith("Nothing was asked yet.\n/focus ")
    assert out.rstrip().endswith("as the end of the input does")
    assert "/nope is no command" in err
    assert "--file '.' is no file" in err


def test_a_missing_file_ends_it_before_a_model_is_loaded(chat):
    code, _, err = chat("", "--model", "nowhere", "--file", "missing.txt")
    assert code == 2
    assert err.startswith("error: --file 'missing.txt' is no file")
