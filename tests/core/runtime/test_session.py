from dataclasses import replace

import numpy as np
import pytest
from recorded import rows_of

from megacontext.core.config import load_config, parse_config
from megacontext.core.runtime.run import run
from megacontext.core.verify import verify
from megacontext.traces.schema import CLOCK_COLUMNS, Phase, Trigger


@pytest.fixture
def config(config_text):
    return parse_config(config_text)


def test_a_plain_reader_finds_every_invariant_held(config_text, tmp_path, plain):
    config = parse_config(config_text, ["lens.kind=random"])
    result = run(config, tmp_path / "t.arrow", control=False)
    assert plain.check_trace(result.trace) >= 1500 // 8
    rows = rows_of(result.trace)
    assert rows[-1].history_tokens == 1500 + 24
    assert {row.phase for row in rows} == {Phase.INGEST, Phase.DECODE}
    kinds = np.concatenate([row.actions for row in rows])
    assert kinds["forced"].any()
    assert (kinds["kind"] == 0).any()


@pytest.mark.parametrize("lens", ["random", "recency", "similarity", "bm25", "attention"])
@pytest.mark.parametrize("allocator", ["greedy", "stochastic_greedy", "slot", "optimal"])
def test_every_lens_and_allocator_runs_a_legal_session(
    config_text, tmp_path, lens, allocator, plain
):
    config = parse_config(
        config_text,
        [f"lens.kind={lens}", f"allocator.kind={allocator}", "source.max_tokens=400"],
    )
    result = run(config, tmp_path / "t.arrow", control=False)
    assert plain.check_trace(result.trace) >= 400 // 8


@pytest.mark.parametrize("lens", ["recency", "similarity", "bm25", "attention"])
@pytest.mark.parametrize(("levels", "w_max"), [(1, 80), (2, 72), (5, 96)])
def test_every_legal_depth_and_budget_runs(config_text, tmp_path, lens, levels, w_max, plain):
    settings = [f"lens.kind={lens}", f"tree.max_levels={levels}", f"w_max={w_max}"]
    config = parse_config(config_text, [*settings, "source.max_tokens=260"])
    result = run(config, tmp_path / "t.arrow", control=False)
    assert plain.check_trace(result.trace) >= 260 // 8
    assert verify(result.trace).ok


def test_exact_mode_and_other_positions_run(config_text, tmp_path, plain):
    for setting in ("kv.mode=exact", "kv.positions=global", "kv.positions=gap"):
        config = parse_config(config_text, [setting, "source.max_tokens=300"])
        plain.check_trace(run(config, tmp_path / "t.arrow", control=False).trace)


def test_one_seed_gives_one_trace(config_text, tmp_path, plain):
    config = parse_config(config_text, ["sampling.temperature=1", "lens.kind=random"])
    first = plain.read_rows(run(config, tmp_path / "a.arrow", control=False).trace)[0]
    again = plain.read_rows(run(config, tmp_path / "b.arrow", control=False).trace)[0]

    def timeless(rows):
        return repr([{k: v for k, v in row.items() if k not in CLOCK_COLUMNS} for row in rows])

    assert timeless(first) == timeless(again)
    other = replace(config, seed=config.seed + 1)
    rows = plain.read_rows(run(other, tmp_path / "c.arrow", control=False).trace)[0]
    assert timeless(rows) != timeless(first)


def test_the_history_in_the_trace_is_the_text(config, text_file, tmp_path):
    rows = rows_of(run(config, tmp_path / "t.arrow", control=False).trace)
    text = "".join(piece for row in rows for piece in row.new_text)
    assert text.startswith(text_file.read_text()[:1500])


def test_a_disk_tree_is_continued_by_the_next_run(config_text, tmp_path, plain):
    settings = ["tree.storage=disk", f"tree.path={tmp_path / 'tree'}", "source.max_tokens=400"]
    config = parse_config(config_text, settings)
    run(config, tmp_path / "a.arrow", control=False)
    result = run(config, tmp_path / "b.arrow", control=False)
    rows = rows_of(result.trace)
    assert rows[-1].history_tokens == 2 * (400 + 24)
    plain.check_trace(result.trace)


def with_question(config_text, text_file):
    """The config with a script that plants a fact and asks for it 500 tokens later."""
    return config_text[: config_text.index("source:")] + (
        f"source: {{kind: script, text: {{kind: text, path: {text_file}}}, segments: ["
        "{kind: ingest, tokens: 100}, {kind: plant, name: code, text: ' key is 12345. '},"
        "{kind: ingest, tokens: 500},"
        "{kind: question, about: code, text: 'what is the key? It is', answer: '1', tokens: 4}]}"
    )


def test_script_marks_facts_and_questions_and_checks_answers(config_text, text_file, tmp_path):
    config = parse_config(with_question(config_text, text_file), ["triggers.min_gap=1"])
    result = run(config, tmp_path / "t.arrow", control=False)
    rows = rows_of(result.trace)
    markers = [row.marker for row in rows if row.marker]
    assert markers[0] == "needle planted @100-115 code"
    assert "question about code" in markers[1]
    asked = {row.step for row in rows if row.trigger == Trigger.QUESTION}
    assert len(asked) == 2, "one at the question mark, one where the answer starts"
    assert [a.about for a in result.outcome.answers] == ["code"]


def test_delta_nll_is_zero_while_the_window_holds_everything(config_text, tmp_path):
    config = parse_config(
        config_text,
        [
            "source.max_tokens=88",
            "source.decode_tokens=0",
            "focus.n_diff=0",
            "trace.delta_nll_every=1",
            "trace.horizon=16",
        ],
    )
    rows = rows_of(run(config, tmp_path / "t.arrow", control=False).trace)
    measured = [row.delta_nll for row in rows if row.delta_nll is not None]
    assert len(measured) >= 5
    assert max(map(abs, measured)) < 1e-3


def test_delta_nll_differs_once_far_history_is_gists(config_text, tmp_path):
    config = parse_config(
        config_text,
        [
            "source.max_tokens=480",
            "source.decode_tokens=0",
            "trace.delta_nll_every=4",
            "trace.horizon=16",
        ],
    )
    rows = rows_of(run(config, tmp_path / "t.arrow", control=False).trace)
    measured = [row.delta_nll for row in rows if row.delta_nll is not None]
    assert max(map(abs, measured)) > 1e-3


def test_a_trace_repeats_its_own_run(config_text, tmp_path):
    config = parse_config(config_text, ["source.max_tokens=300", "sampling.temperature=1"])
    first = run(config, tmp_path / "a.arrow", control=False).trace
    again = run(load_config(first), tmp_path / "b.arrow", control=False).trace
    assert verify(first, again).problems == []
    other = run(replace(config, seed=4), tmp_path / "c.arrow", control=False).trace
    assert verify(first, other).problems != []


def test_a_question_reads_its_tokens_again_behind_what_it_opened(config_text, text_file, tmp_path):
    text = with_question(config_text, text_file)

    def rows_at_the_answer(reread: int) -> int:
        config = parse_config(text, ["triggers.min_gap=1", f"kv.reread={reread}"])
        result = run(config, tmp_path / f"{reread}.arrow", control=False)
        asked = [row for row in rows_of(result.trace) if row.trigger == Trigger.QUESTION]
        return sum(row.kv_rows for row in asked)

    assert rows_at_the_answer(32) > rows_at_the_answer(0)
