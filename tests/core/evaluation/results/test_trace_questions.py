"""Questions of a recorded run are read back from its trace alone."""

import json

import pytest

from megacontext.core.cli.app import app, guard
from megacontext.core.config import parse_config
from megacontext.core.evaluation.results.report import page
from megacontext.core.evaluation.results.trace_questions import questions_of
from megacontext.core.runtime.run import run
from megacontext.traces.errors import TraceError

SCRIPT = """
lens: {kind: oracle}
source:
  kind: script
  text: {kind: python, max_tokens: 0}
  segments:
    - {kind: ingest, tokens: 40}
    - {kind: plant, name: cat, text: "\\nThe cat is Tom.\\n"}
    - {kind: ingest, tokens: 300}
    - {kind: question, about: cat, text: "\\nWho?\\n", answer: "Tom", tokens: 5}
    - {kind: ingest, tokens: 30}
"""


@pytest.fixture(scope="module")
def trace(config_text, tmp_path_factory):
    path = tmp_path_factory.mktemp("traced") / "run.arrow"
    config = parse_config(config_text.replace("lens: {kind: similarity}\n", "") + SCRIPT)
    result = run(config, path, control=False, read_stdin=False)
    return path, result.outcome.answers


def test_the_gold_comes_and_the_answer_is_what_was_decoded(trace):
    path, answers = trace
    (asked,) = questions_of(path)
    assert (asked.about, asked.expected) == ("cat", "Tom")
    assert 1 <= asked.refocuses <= 2
    assert asked.answer == answers[0].text.strip()
    assert asked.right is bool(answers[0].right)


def test_the_command_fails_where_too_few_are_good(trace, capsys):
    path, answers = trace
    good = int(bool(answers[0].right))
    assert guard(app, ["eval", "questions", str(path), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["questions"], figures["in_time"], figures["good"]) == (1, 1, good)
    assert guard(app, ["eval", "questions", str(path), "--need", "2"]) == 1
    assert "--need is 2" in capsys.readouterr().err


def test_a_page_shows_the_questions_of_a_run(trace):
    path, answers = trace
    text = page([], [path])
    assert f"answered right: {int(bool(answers[0].right))} of 1" in text
    assert "| cat | " in text


def test_a_run_without_questions_is_refused(config_text, tmp_path):
    path = tmp_path / "plain.arrow"
    source = "source: {kind: python, max_tokens: 40}\n"
    run(parse_config(config_text + source), path, control=False, read_stdin=False)
    with pytest.raises(TraceError, match="its script asks 0"):
        questions_of(path)
