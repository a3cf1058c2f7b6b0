import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest
import yaml

from megacontext.core.allocators import make_allocator
from megacontext.core.config import FocusConfig, dump_config, load_config, parse_config
from megacontext.core.focus import Focus, WorkingContext
from megacontext.core.focus.limits import limits_for
from megacontext.core.rng import generator
from megacontext.core.verify import verify
from megacontext.traces.errors import TraceError
from megacontext.traces.meta import TraceMeta
from megacontext.traces.reader import TraceReader
from megacontext.traces.row import TraceRow
from megacontext.traces.schema import Trigger
from megacontext.traces.writer import TraceWriter

K, W_MAX = 8, 256


def _config(kind):
    text = f"seed: 3\nw_max: {W_MAX}\nblock_size: {K}\nallocator: {{kind: {kind}}}\n"
    return parse_config(text + "tree: {max_levels: 3}\nsource: {kind: stdin}\n")


def _record(
    path,
    config,
    steps=60,
    edit: Callable[[TraceRow], None] = lambda row: None,
    actual: FocusConfig | None = None,
    as_limits: bool = False,
    older: bool = False,
    **options,
):
    """Drive a focus as a session does, with knobs, questions and a bulk start; write the trace.

    ``actual`` limits are used instead of the config's; ``as_limits`` says limits row by row;
    ``older`` writes configs as a version did that knew no ``focus.question.reopen``.
    """
    said = yaml.safe_load(dump_config(config))
    if older:
        del said["focus"]["question"]["reopen"]
    meta = TraceMeta(block_size=K, w_max=W_MAX, levels=3, seed=3, config=yaml.safe_dump(said))
    context = WorkingContext(K, config.tree.max_levels, W_MAX, config.focus.protected_blocks)
    own = config.allocator
    drawn = {"temperature": own.temperature, "top_k": own.top_k}
    options_of_kind = drawn if own.kind == "stochastic_greedy" else {}
    focus = Focus(context, make_allocator(own.kind, options_of_kind), seed=config.seed)
    current = actual or config.focus
    with TraceWriter(path, meta.to_metadata(), threaded=False, **options) as writer:

        def put(result, appended, tokens, knobs=None):
            row = TraceRow(
                step=result.step,
                round=result.round,
                history_tokens=result.n_tokens,
                tail_tokens=result.tail_tokens,
                new_tokens=np.zeros(tokens, np.uint32),
                new_text=["x"] * tokens,
                new_nll=np.zeros(tokens, np.float32),
                appended_levels=appended,
                levels=result.levels,
                scores=result.scores,
                actions=result.actions,
                rejected=result.rejected,
                budget_used=result.budget_used,
                w_max=result.w_max,
                trigger=result.trigger,
                knobs=knobs,
            )
            edit(row)
            writer.put(row)

        before = 0
        for appended, result in focus.ingest(700):
            put(result, appended, result.n_tokens - before)
            before = result.n_tokens
        for step in range(steps):
            random = generator(7, "test scores", step)
            trigger, tokens, knobs = Trigger.BLOCK_CLOSED, K, None
            if step % 5 == 4:
                trigger, tokens = Trigger.QUESTION, K // 2
            if step == 20:
                current = dataclasses.replace(current, n_diff=9, cooldown_steps=1)
                new = dataclasses.asdict(current)
                if older:
                    del new["question"]["reopen"]
                knobs = json.dumps({"focus": new, "w_max": W_MAX})
            if step == 40:
                focus.set_w_max(W_MAX - 60)
                trigger, tokens, knobs = Trigger.BUDGET_CUT, 0, json.dumps({"w_max": W_MAX - 60})
            limits = limits_for(current, trigger)
            if as_limits and (step == 20 or trigger == Trigger.QUESTION):
                own_limits = dataclasses.asdict(limits)
                if older:
                    del own_limits["reopen"]
                knobs = json.dumps({"limits": own_limits})
            appended = focus.append(tokens) if tokens else np.empty(0, np.int8)
            focus.begin(trigger, limits)
            while True:
                scores = random.uniform(-1, 1, len(context)).astype(np.float16)
                result = focus.round(scores)
                first = result.round == 0
                put(
                    result,
                    appended if first else appended[:0],
                    tokens if first else 0,
                    knobs if first else None,
                )
                if result.last:
                    break
    return path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return _record(tmp_path_factory.mktemp("verify") / "run.arrow", _config("greedy"))


@pytest.mark.parametrize("kind", ["greedy", "stochastic_greedy", "slot", "optimal"])
def test_a_recorded_run_is_reproduced_bit_for_bit(tmp_path, kind):
    report = verify(_record(tmp_path / "run.arrow", _config(kind)))
    assert report.problems == []
    assert report.notes == []
    assert report.ok
    assert report.rerun == report.rows > 60
    assert report.allocator == kind
    with TraceReader.open(tmp_path / "run.arrow") as reader:
        assert sum(len(row.actions) for row in reader.rows()) > 60
        assert max(row.round for row in reader.rows()) > 0


def test_the_report_is_plain_json(recorded):
    report = json.loads(json.dumps(verify(recorded).to_json()))
    assert report["ok"] is True
    assert report["rerun"] == report["rows"]


def _with_action(change):
    """Edit the first row after step 30 that has a voluntary action."""
    done = []

    def edit(row):
        if row.step > 30 and len(row.actions) and not done and not row.actions["forced"][-1]:
            row.actions = row.actions.copy()
            change(row)
            done.append(row.step)

    return edit


def test_a_changed_reason_is_the_first_difference(tmp_path):
    def change(row):
        row.actions["reason"][-1] = 13

    path = _record(tmp_path / "run.arrow", _config("greedy"), edit=_with_action(change))
    report = verify(path)
    assert len(report.problems) == 1
    assert "reason=13" in report.problems[0]
    assert "run again (kind=" in report.problems[0]
    assert report.rerun < report.rows
    assert "first difference" in report.notes[0]


def test_a_score_that_the_allocator_did_not_get_is_found(tmp_path):
    def change(row):
        row.scores = -row.scores

    report = verify(_record(tmp_path / "run.arrow", _config("greedy"), edit=_with_action(change)))
    assert "run again" in report.problems[0]


def test_an_action_left_out_breaks_the_states_too(tmp_path):
    def change(row):
        row.actions = row.actions[:-1]

    report = verify(_record(tmp_path / "run.arrow", _config("greedy"), edit=_with_action(change)))
    assert any("budget_used says" in problem for problem in report.problems)
    assert any("actions[" in problem and "is nothing" in problem for problem in report.problems)
    assert any("previous row's state" in problem for problem in report.problems)


def test_other_limits_than_the_recorded_ones_are_found(tmp_path):
    def edit(row):
        if row.knobs is not None and row.step > 20:
            row.knobs = None

    report = verify(_record(tmp_path / "run.arrow", _config("greedy"), edit=edit))
    assert len(report.problems) == 1


def test_limits_in_knobs_are_a_questions_own_or_hold_from_then_on(tmp_path):
    config = _config("greedy")
    question = dataclasses.replace(config.focus.question, n_diff=3, rounds=2)
    actual = dataclasses.replace(config.focus, question=question)  # the config says otherwise
    path = _record(tmp_path / "said.arrow", config, actual=actual, as_limits=True)
    report = verify(path)
    assert report.problems == []
    assert report.rerun == report.rows
    silent = verify(_record(tmp_path / "silent.arrow", config, actual=actual))
    assert not silent.ok


def _never_reopening(focus):
    return dataclasses.replace(focus, question=dataclasses.replace(focus.question, reopen=False))


def test_a_question_that_reopens_is_told_from_one_that_does_not(tmp_path):
    config = _config("greedy")
    closed = _never_reopening(config.focus)
    path = _record(tmp_path / "closed.arrow", config, actual=closed)  # the config says it reopens
    assert "rejected" in verify(path).problems[0] or "actions" in verify(path).problems[0]
    agreed = dataclasses.replace(config, focus=closed)
    assert verify(_record(tmp_path / "agreed.arrow", agreed)).ok


@pytest.mark.parametrize("as_limits", [False, True])
def test_a_trace_older_than_reopening_is_decided_as_it_was(tmp_path, as_limits):
    config = _config("greedy")
    closed = _never_reopening(config.focus)
    path = _record(tmp_path / "old.arrow", config, actual=closed, older=True, as_limits=as_limits)
    report = verify(path)
    assert report.problems == []
    assert report.rerun == report.rows
    assert load_config(path).focus == closed  # the run is repeated as it was
    assert load_config(path, ["focus.question.reopen=true"]).focus == config.focus


def test_coarse_scores_and_dropped_scores_are_said_not_guessed(tmp_path):
    report = verify(_record(tmp_path / "u8.arrow", _config("greedy"), scores="u8"))
    assert report.ok
    assert report.rerun == 0
    assert "keeps u8 scores" in report.notes[0]

    def edit(row):
        if row.step == 30:
            row.scores = None

    dropped = _record(tmp_path / "dropped.arrow", _config("greedy"), edit=edit)
    report = verify(dropped)
    assert report.problems  # a round without scores, though the writer dropped none


def test_a_damaged_row_is_named_and_the_rest_still_checked(tmp_path):
    path = _record(tmp_path / "run.arrow", _config("greedy"))
    raw = bytearray(path.read_bytes())
    with TraceReader.open(path) as reader:
        block = reader._blocks[2]
    raw[block.offset + block.length - 1_200 : block.offset + block.length - 300] = bytes(900)
    path.write_bytes(raw)
    report = verify(path)
    assert not report.ok
    (problem,) = report.problems  # once, not once a row
    assert "rows 16 to 23" in problem
    with TraceReader.open(path) as reader:
        assert report.rows == reader.num_rows


def test_a_made_trace_has_no_allocator_to_run(tmp_path):
    from megacontext.traces.synthetic import make_small_trace

    make_small_trace(tmp_path / "made.arrow")
    report = verify(tmp_path / "made.arrow")
    assert report.ok
    assert "names no allocator" in report.notes[0]


def test_a_cut_trace_verifies_as_far_as_it_goes(recorded, tmp_path):
    cut = tmp_path / "cut.arrow"
    cut.write_bytes(recorded.read_bytes()[:60_000])
    report = verify(cut)
    assert report.ok
    assert report.rerun == report.rows > 8
    assert "no end mark" in report.notes[0]


def test_two_runs_of_one_seed_agree_apart_from_clocks(recorded, tmp_path):
    def edit(row):
        row.t_ns, row.us_lens = 5, 9.0

    again = _record(tmp_path / "again.arrow", _config("greedy"), edit=edit, flush_rows=3)
    assert verify(recorded, again).ok
    shorter = _record(tmp_path / "short.arrow", _config("greedy"), steps=50)
    assert "rows" in verify(recorded, shorter).problems[-1]
    other = _record(tmp_path / "other.arrow", _config("slot"))
    problems = verify(recorded, other).problems
    assert problems[0].startswith("mc.config differs: allocator.kind is 'greedy' here, 'slot' in")
    assert problems[1].startswith("row ")
    config = _config("greedy")
    elsewhere = dataclasses.replace(config.tree, storage="disk", path=str(tmp_path / "tree"))
    moved = dataclasses.replace(config, tree=elsewhere)
    assert verify(recorded, _record(tmp_path / "moved.arrow", moved)).ok  # only where it is kept
    with pytest.raises(TraceError, match="does not exist"):
        verify(recorded, tmp_path / "none.arrow")


def test_a_key_at_the_value_that_an_older_version_acted_by_is_no_difference(recorded, tmp_path):
    def rewritten(name, change):
        with pa.ipc.open_file(recorded) as file:
            table = file.read_all()
        config = yaml.safe_load(table.schema.metadata[b"mc.config"])
        change(config)
        meta = {**table.schema.metadata, b"mc.config": yaml.safe_dump(config).encode()}
        with pa.ipc.new_file(tmp_path / name, table.schema.with_metadata(meta)) as file:
            file.write_table(table, max_chunksize=8)
        return tmp_path / name

    older = rewritten("older.arrow", lambda config: config["focus"].pop("keep_newest"))
    assert verify(recorded, older).ok
    assert verify(older, recorded).ok
    other = rewritten("other.arrow", lambda config: config["focus"].update(keep_newest=3))
    assert "focus.keep_newest is 0 here, 3 in" in verify(recorded, other).problems[0]
    foreign = rewritten("foreign.arrow", lambda config: config.update(comet=1))
    assert "comet is None here, 1 in" in verify(recorded, foreign).problems[0]


def test_other_weights_are_a_difference_and_unknown_ones_are_none(recorded, tmp_path):
    def marked(weights):
        path = tmp_path / f"{weights}.arrow"
        with pa.ipc.open_file(recorded) as file:
            table = file.read_all()
        meta = {**table.schema.metadata, b"mc.weights": weights.encode()}
        with pa.ipc.new_file(path, table.schema.with_metadata(meta)) as file:
            file.write_table(table)
        return path

    old, new = marked("old"), marked("new")
    assert verify(recorded, old).ok
    assert verify(old, recorded).ok
    assert verify(old, new).problems == [f"mc.weights differs: 'old' here, 'new' in {new}."]
