"""``megacontext eval``: the JSON contract and one-sentence errors."""

import json

import pyarrow.parquet as pq
import pytest

from megacontext.core.cli.app import app, guard


def call(capsys, *arguments):
    code = guard(app, ["eval", *(str(a) for a in arguments)])
    return code, capsys.readouterr()


def test_recall_prints_one_object_of_contenders(capsys, config_file, tasks_file, tmp_path):
    arguments = ("recall", "--tasks", tasks_file, "--config", config_file, "--json")
    code, said = call(capsys, *arguments, "--out", tmp_path / "out")
    assert code == 0
    figures = json.loads(said.out)
    assert list(figures) == ["ours", "recency", "random", "bm25", "oracle", "gists", "full"]
    for name, own in figures.items():
        assert 0 <= own["interval"][0] <= own["accuracy"] <= own["interval"][1] <= 1
        assert own["count"] == (1 if name in ("oracle", "full") else 2)
        assert {"gold_expanded", "refocuses"} <= set(own)
    assert (figures["oracle"]["gold_expanded"], figures["recency"]["gold_expanded"]) == (1, 0)
    assert pq.read_table(tmp_path / "out" / "recall.parquet").num_rows == 12
    assert "| contender |" in (tmp_path / "out" / "recall.md").read_text()
    assert call(capsys, *arguments)[1].out == said.out


def test_limit_contenders_mode_and_table(capsys, config_file, tasks_file):
    code, said = call(
        capsys,
        *("recall", "--tasks", tasks_file, "--config", config_file, "--limit", 1),
        *("--contenders", "oracle,recency", "--mode", "stream"),
    )
    assert code == 0
    assert "oracle" in said.out
    assert "random" not in said.out


def test_nll_prints_one_object_of_contenders(capsys, config_file, texts_file):
    code, said = call(
        capsys,
        *("nll", "--text", texts_file, "--config", config_file, "--w-max", "96,128"),
        *("--pieces", 1, "--json"),
    )
    assert code == 0
    figures = json.loads(said.out)
    assert list(figures) == ["ours", "recency", "random", "bm25", "gists", "mean", "delete"]
    for own in figures.values():
        assert {"delta_nll", "delta_nll_p95", "recovered_gain", "interval", "count"} <= set(own)
        assert list(own["by_w_max"]) == ["96", "128"]
        assert set(own["by_document"]) == {"one", "two"}
    assert figures["delete"]["recovered_gain"] in (0.0, None)


ONE = ["--times", "8", "--samples", "1", "--kinds", "passkey"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["recall", "--tasks", "TASKS", "--contenders", "ours,nope"], "'nope' is unknown"),
        (["recall", "--tasks", "TASKS", "--mode", "slow"], "--mode is 'slow'"),
        (["recall", "--tasks", "TASKS", "--template", "x"], "--template"),
        (["recall", "--tasks", "missing.jsonl"], "missing.jsonl"),
        (["recall", "--tasks", "TASKS", "--set", "nope=1"], "Unknown key nope"),
        (["tasks", "--out", "/no/such/t.jsonl", *ONE], "/no/such"),
        (["tasks", "--out", "x.jsonl", "--times", "a"], "--times is 'a'"),
        (["nll", "--text", "TEXTS", "--contenders", "full"], "'full' takes no part"),
        (["nll", "--text", "TEXTS", "--w-max", "0"], "at least 1"),
        (["nll", "--text", "TEXTS", "--w-max", "4096"], "4096"),
        (["nll", "--text", "TASKS"], "line 1 has no 'text'"),
    ],
)
def test_errors_are_one_sentence(capsys, config_file, tasks_file, texts_file, arguments, says):
    files = {"TASKS": tasks_file, "TEXTS": texts_file}
    given = [files.get(a, a) for a in arguments]
    code, said = call(capsys, *given, "--config", config_file)
    assert (code, said.out) == (2, "")
    errors = [line for line in said.err.splitlines() if not line.startswith("note:")]
    assert len(errors) == 1
    assert says in errors[0]


def test_tasks_are_made_from_a_text_and_read_back(capsys, config_file, tmp_path):
    texts = tmp_path / "hay.jsonl"
    texts.write_text(json.dumps({"text": "A line of plain hay, over and over.\n" * 200}))
    built = tmp_path / "made.jsonl"
    code, said = call(
        capsys,
        *("tasks", "--out", built, "--config", config_file, "--text", texts, "--times", "8"),
        *("--samples", 2, "--kinds", "passkey", "--facts", 1),
    )
    assert (code, "2 tasks" in said.out) == (0, True)
    code, said = call(
        capsys,
        *("recall", "--tasks", built, "--config", config_file, "--contenders", "oracle", "--json"),
    )
    assert json.loads(said.out)["oracle"]["gold_expanded"] == 1


def test_suite_writes_parquet_and_markdown(capsys, config_file, tmp_path):
    texts = tmp_path / "hay.jsonl"
    texts.write_text(json.dumps({"doc": "hay", "domain": "code", "text": "Plain old hay. " * 4000}))
    code, _ = call(
        capsys,
        *("suite", "--config", config_file, "--quick", "--samples", 1, "--kinds", "passkey"),
        *("--text", texts, "--out", tmp_path / "out", "--set", "focus.protected_blocks=1"),
        *("--set", "w_max=96", "--set", "tree.max_levels=4", "--json"),
    )
    assert code == 0
    rows = pq.read_table(tmp_path / "out" / "suite.parquet").to_pylist()
    measures = {row["measure"] for row in rows}
    assert {"recall", "gold expanded", "ΔNLL@64, one block", "swap rate"} <= measures
    judged = {row["contender"] for row in rows if row["met"] is not None}
    assert judged <= {"ours", "gist"}
    shown = (tmp_path / "out" / "suite.md").read_text()
    assert "## Targets" in shown
    assert "| recency | 0% [0%, 79%] |" in shown


def test_suite_asks_only_the_contenders_it_is_told(capsys, config_file, tmp_path):
    texts = tmp_path / "hay.jsonl"
    texts.write_text(json.dumps({"doc": "hay", "domain": "code", "text": "Plain old hay. " * 4000}))
    asked = (
        *("suite", "--config", config_file, "--quick", "--samples", 1, "--kinds", "passkey"),
        *("--text", texts, "--out", tmp_path / "out", "--only", "recall", "--jobs", 1, "--json"),
        *("--set", "focus.protected_blocks=1", "--set", "w_max=96"),
        *("--set", "tree.max_levels=4", "--contenders"),
    )
    assert call(capsys, *asked, "recency, oracle")[0] == 0
    rows = pq.read_table(tmp_path / "out" / "suite.parquet").to_pylist()
    assert {row["contender"] for row in rows} == {"recency", "oracle"}
    code, said = call(capsys, *asked, "oracle,nobody")
    assert code == 2
    assert "--contenders: 'nobody' is unknown" in said.err
