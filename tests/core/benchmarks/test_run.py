"""The runner: kept, continued, attributed, summarized."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from megacontext.core.benchmarks import run as runner
from megacontext.core.benchmarks.run import AskJob, ask, run_bench
from megacontext.core.benchmarks.summary import MEAN, figures_of, length_name, summarize
from megacontext.core.cli.app import app, guard
from megacontext.core.config import parse_config
from megacontext.core.evaluation.sessions.evidence import MISREAD, NOT_SCORED
from megacontext.traces.errors import ConfigError

WHO = ["ours", "full", "recency", "bm25", "oracle_neighbours"]


def test_gold_is_raw_for_an_oracle_and_for_no_window(kit, tasks):
    task = tasks[1]
    found = {name: ask(kit, task, name, 0, "u") for name in WHO}
    assert found["full"] is None  # the tiny model's window is shorter
    assert found["oracle_neighbours"].gold_raw is True
    assert found["oracle_neighbours"].cause == MISREAD
    assert found["oracle_neighbours"].rank == 1
    assert found["recency"].gold_raw is False
    assert found["recency"].cause == NOT_SCORED
    assert all(r.score == 0 for r in found.values() if r)
    assert ask(kit, replace(task, gold=()), "oracle_neighbours", 0, "u") is None


def test_neighbours_of_gold_are_opened_too(kit, tasks):
    from megacontext.core.evaluation.contenders.oracle import with_neighbours
    from megacontext.core.evaluation.sessions.history import token_spans

    history = kit.history(tasks[1].history)
    gold = token_spans(history.offsets, tasks[1].gold)
    ((start, stop),) = with_neighbours(gold, 8, len(history.tokens)).tolist()
    assert start == (gold[0, 0] // 8 - 1) * 8
    assert stop == (-(-gold[0, 1] // 8) + 1) * 8


def test_an_answer_ends_as_soon_as_its_score_is_full(kit, tasks):
    def answered(**changes):
        return ask(kit, replace(tasks[1], **changes), "recency", 0, "u")

    whole = answered(outputs=("never",), max_tokens=40)
    early = answered(outputs=(whole.text[:3],), max_tokens=40)
    assert early.score == 1
    assert whole.text.startswith(early.text)
    assert len(early.text) < len(whole.text)
    assert early.cause == ""


def test_questions_about_one_history_do_not_disturb_each_other(kit, tasks):
    first, second = tasks[1:]
    alone = [ask(kit, task, "ours", 0, "u") for task in (second,)]
    ask(kit, first, "ours", 0, "u")
    again = [ask(kit, task, "ours", 0, "u") for task in (second,)]
    assert [replace(r, seconds=0) for r in alone] == [replace(r, seconds=0) for r in again]


def test_a_history_is_tokenized_and_gisted_once(kit, tasks, monkeypatch):
    kit._histories.clear()
    made = []
    tree = type(kit).tree
    monkeypatch.setattr(type(kit), "tree", lambda *a: made.append(1) or tree(*a))
    for task in tasks[1:]:
        for name in ("ours", "oracle_neighbours", "bm25"):
            ask(kit, task, name, 0, "u")
    assert len(made) == 1
    assert len(kit._histories) == 1


def test_what_is_done_is_not_asked_again(config_text, tasks_file, tmp_path, monkeypatch):
    config, store = parse_config(config_text), tmp_path / "results.jsonl"

    def results(names, **options):
        return run_bench(config, [tasks_file], names, store, **options)

    first = results(["recency", "full"])
    assert [(r.length, r.contender, r.sample) for r in first] == [
        (0, "recency", 0),
        (0, "full", 0),
        (4096, "recency", 0),
        (4096, "recency", 1),
    ]
    lines = store.read_text().splitlines()
    store.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:40])  # a kill while writing
    asked = []
    original = AskJob.run
    monkeypatch.setattr(AskJob, "run", lambda job, kit: asked.append(job) or original(job, kit))
    again = results(["recency", "full", "bm25"])
    assert [job.contenders for job in asked].count(("bm25",)) == 2
    assert len(asked) == 3  # and what the kill cost

    def told(results):
        return [(r.length, r.contender, r.sample, r.text) for r in results]

    assert told([r for r in again if r.contender != "bm25"]) == told(first)


def test_only_the_named_tasks_and_first_samples_are_asked(config_text, tasks_file, tmp_path):
    config, store = parse_config(config_text), tmp_path / "r.jsonl"

    def asked(**options):
        found = run_bench(config, [tasks_file], ["recency"], store, **options)
        return [(r.length, r.sample) for r in found]

    assert asked(samples=1) == [(0, 0), (4096, 0)]
    assert asked(names=["codes"]) == [(0, 0), (4096, 0), (4096, 1)]
    with pytest.raises(ConfigError, match="--tasks"):
        asked(names=["other"])


def test_two_files_with_the_same_task_are_refused(config_text, tasks_file, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_bytes(tasks_file.read_bytes())
    with pytest.raises(ConfigError, match="both hold"):
        run_bench(parse_config(config_text), [tasks_file, other], ["recency"], tmp_path / "r")


def result(**changes):
    fields = {
        "unit": "u",
        "benchmark": "ruler",
        "name": "vt",
        "length": 4096,
        "sample": 0,
        "history": "h0",
        "contender": "ours",
        "w_max": 128,
        "score": 1.0,
        "text": "",
        "outputs": ("a",),
        "gold_raw": True,
        "cause": "",
        "reason": "",
        "rank": 1,
        "lens_score": 0.5,
        "refocuses": 1,
        "tokens": 4000,
        "seconds": 1.0,
    }
    return runner.BenchResult(**(fields | changes))


def test_retention_is_over_full_context_at_the_shortest_length():
    results = [
        result(contender="full", score=0.5, rank=None),
        result(contender="full", length=32768, score=1.0),
        result(length=32768, score=0.25, cause="not expanded", reason="budget", gold_raw=False),
        result(length=32768, name="cwe", score=0.0, gold_raw=None),
        result(contender="full", name="cwe", score=0.0, gold_raw=None),
    ]
    figures = figures_of(summarize(results))
    ours = figures["32768"][MEAN]["ours"]
    assert ours["score"] == 0.25  # counting takes no part
    assert ours["retention"] == 0.5
    assert ours["causes"] == {"not expanded": 1}
    assert ours["reasons"] == {"budget": 1}
    assert ours["gold_expanded"] == 0
    assert figures["32768"]["vt"]["full"]["retention"] == 2
    assert figures["32768"]["cwe"]["ours"]["retention"] is None


def test_lengths_have_names():
    assert [length_name(n) for n in (0, 4096, 131072, 1 << 20, 5000)] == [
        "0k",
        "4k",
        "128k",
        "1M",
        "5,000",
    ]


def call(capsys, *arguments):
    code = guard(app, ["eval", *(str(a) for a in arguments)])
    return code, capsys.readouterr()


def test_the_command_writes_tables_and_continues(capsys, tmp_path, config_text, tasks_file):
    config = tmp_path / "eval.yaml"
    config.write_text(config_text)
    arguments = ("facts", "--config", config, "--load-tasks", tasks_file, "--out", tmp_path / "out")
    code, out = call(capsys, *arguments, "--contenders", "ours,full,recency", "--json")
    assert code == 0
    figures = json.loads(out.out)["results"]
    assert set(figures["4096"]["codes"]) == {"ours", "recency"}
    assert {"score", "count", "interval", "retention"} <= set(figures["0"]["codes"]["full"])
    assert pq.read_table(tmp_path / "out" / "facts.parquet").num_rows == 7
    page = (tmp_path / "out" / "facts.md").read_text()
    assert "Causes of wrong answers" in page
    assert "| recency |" in page
    again = json.loads(
        call(capsys, *arguments, "--contenders", "ours,full,recency", "--json")[1].out
    )
    assert again["results"] == figures


def test_tasks_are_saved_and_then_loaded(capsys, tmp_path, config_text):
    config, saved = tmp_path / "eval.yaml", tmp_path / "tasks.jsonl.xz"
    config.write_text(config_text)
    hay = tmp_path / "hay.txt"
    hay.write_text("".join(f"a line of text, number {i}\n" for i in range(500)))
    made = ("worlds", "--config", config, "--haystack", hay, "--lengths", "4k", "--samples", 2)
    code, out = call(capsys, *made, "--tasks", "qa5", "--save-tasks", saved)
    assert code == 0
    assert saved.is_file()
    code, out = call(
        capsys,
        *("worlds", "--config", config, "--load-tasks", saved, "--contenders", "recency"),
        *("--out", tmp_path / "out"),
    )
    assert code == 0
    assert "recency" in out.out


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("worlds", "--lengths", "4q"), "--lengths"),
        (("ruler", "--lengths", "0k"), "--lengths"),
        (("worlds", "--tasks", "qa9"), "--tasks"),
        (("ruler", "--contenders", "nobody", "--load-tasks", "x.jsonl"), "--contenders"),
        (("ruler", "--load-tasks", "missing.jsonl"), "missing.jsonl"),
        (("facts", "--haystack", "missing.txt", "--lengths", "4k"), "missing.txt"),
        (("ruler", "--embedder", "missing", "--load-tasks", "x.jsonl"), "--embedder"),
    ],
)
def test_errors_are_one_sentence(capsys, tmp_path, config_text, options, word):
    config = tmp_path / "eval.yaml"
    config.write_text(config_text)
    code, out = call(capsys, *options, "--config", config, "--out", tmp_path / "out")
    assert code == 2
    assert word in out.err
    assert "Traceback" not in out.err
