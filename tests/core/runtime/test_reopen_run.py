"""A whole run in which force folds the asked block just before its question."""

import pytest
from recorded import rows_of

from megacontext.core.config import load_config, parse_config
from megacontext.core.evaluation.results.trace_questions import questions_of
from megacontext.core.runtime.run import run
from megacontext.core.verify import verify
from megacontext.traces.schema import Reason, Trigger

FACT, FACT_AT = " key is 12345. ", 100
LEVEL = 3


def script(config_text, text_file, tokens, *settings):
    """Text, a fact, ``tokens`` of text, and a question short enough for the same block."""
    text = config_text[: config_text.index("source:")] + (
        f"source: {{kind: script, text: {{kind: text, path: {text_file}}}, segments: ["
        f"{{kind: ingest, tokens: {FACT_AT}}}, {{kind: plant, name: key, text: '{FACT}'}},"
        f"{{kind: ingest, tokens: {tokens}}},"
        "{kind: question, about: key, text: ' key:', answer: '1', tokens: 12}]}"
    )
    return parse_config(text, ["lens.kind=oracle", *settings])


@pytest.fixture
def folded_last(config_text, text_file, tmp_path):
    """Tokens of text after which the last refocus folds the fact's part of the history, by force,
    into a gist of level 3."""
    config = script(config_text, text_file, 1400)
    for row in rows_of(run(config, tmp_path / "dry.arrow", control=False).trace):
        forced = row.actions[row.actions["forced"]]
        if ((forced["level"] == LEVEL) & (forced["index"] == 0)).any():
            return row.history_tokens - FACT_AT - len(FACT)
    raise AssertionError("no such fold; the run is too short")


def test_what_force_folded_just_before_its_question_opens_at_it(
    config_text, text_file, folded_last, tmp_path
):
    config = script(config_text, text_file, folded_last)
    trace = run(config, tmp_path / "t.arrow", control=False).trace
    rows = rows_of(trace)
    asked = next(i for i, row in enumerate(rows) if row.trigger == Trigger.QUESTION)
    before, at = rows[asked - 1], rows[asked]
    assert before.actions["forced"].any()
    assert before.actions["level"].max() == LEVEL
    assert at.step == before.step + 1
    assert at.levels[0] == LEVEL
    (found,) = questions_of(trace)
    assert found.refocuses == 1, "opened in the refocus of the question"
    report = verify(trace)
    assert report.ok
    assert report.rerun == report.rows
    again = run(load_config(trace), tmp_path / "again.arrow", control=False).trace
    assert verify(trace, again).ok


def test_without_reopening_it_stays_shut_for_its_cooldown(
    config_text, text_file, folded_last, tmp_path
):
    config = script(config_text, text_file, folded_last, "focus.question.reopen=false")
    trace = run(config, tmp_path / "t.arrow", control=False).trace
    at = next(row for row in rows_of(trace) if row.trigger == Trigger.QUESTION)
    shut = {(int(no["level"]), int(no["index"])): int(no["reason"]) for no in at.rejected}
    assert shut[LEVEL, 0] == Reason.COOLDOWN
    assert verify(trace).ok
