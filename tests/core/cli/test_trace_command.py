import importlib
import json

import pytest

from megacontext.core.cli.app import guard
from megacontext.core.cli.trace import app
from megacontext.traces.reader import TraceReader
from megacontext.traces.synthetic import make_small_trace


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "made.arrow"
    make_small_trace(path)
    return path


@pytest.fixture
def trace(made, tmp_path):
    path = tmp_path / "run.arrow"
    path.write_bytes(made.read_bytes())
    return path


@pytest.fixture
def run(capsys):
    """Run a trace command: exit code, standard output, standard error."""

    def run(*arguments):
        code = guard(app, [str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.mark.parametrize("command", ["info", "verify", "recover", "compact", "export", "metrics"])
def test_every_command_has_help_with_an_example(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"Example: megacontext trace {command}" in " ".join(out.split())


@pytest.mark.parametrize("command", ["info", "verify", "recover", "compact", "metrics"])
def test_a_missing_trace_is_one_sentence_and_exit_code_2(run, command, tmp_path):
    code, out, err = run(command, tmp_path / "none.arrow", "--json")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "does not exist" in err


def test_info_counts_what_is_damaged(run, trace):
    with TraceReader.open(trace) as reader:
        block = reader._blocks[1]
    raw = bytearray(trace.read_bytes())
    raw[block.offset + 4_000 : block.offset + block.length] = bytes(block.length - 4_000)
    trace.write_bytes(raw)
    figures = json.loads(run("info", trace, "--json")[1])
    assert (figures["rows"], figures["damaged_rows"]) == (200, block.rows)


@pytest.mark.parametrize("app", ["megacontext.core.cli.app", "megacontext.tui.cli"])
def test_the_programs_themselves_say_how_to_begin(app, capsys):
    program = importlib.import_module(app).app
    with pytest.raises(SystemExit):
        program(["--help"])
    assert "Example: m" in " ".join(capsys.readouterr().out.split())


def test_info_tells_the_state(run, trace):
    code, out, _ = run("info", trace, "--json")
    figures = json.loads(out)
    assert code == 0
    assert figures["state"] == "finished"
    assert (figures["rows"], figures["block_size"]) == (200, 8)
    assert {"row": 42, "text": "question"} in figures["markers"]
    trace.write_bytes(trace.read_bytes()[:100_000])
    assert json.loads(run("info", trace, "--json")[1])["state"] == "cut"
    assert "needle planted" in run("info", trace)[1]


def test_verify_says_ok_or_the_first_problem_by_exit_code(run, trace, tmp_path):
    code, out, _ = run("verify", trace, "--json")
    assert code == 0
    assert json.loads(out)["ok"] is True
    raw = bytearray(trace.read_bytes())
    with TraceReader.open(trace) as reader:
        block = reader._blocks[3]
    raw[block.offset + block.length - 2_000 : block.offset + block.length - 500] = bytes(1_500)
    bad = tmp_path / "bad.arrow"
    bad.write_bytes(raw)
    code, out, _ = run("verify", bad)
    assert code == 1
    assert out.startswith("FAILED: 200 rows")
    assert "problem: rows 24 to 31" in out
    code, out, _ = run("verify", trace, "--against", bad, "--json")
    assert code == 1
    assert "cannot be compared" in json.loads(out)["problems"][0]


def test_recover_and_compact_work_in_place_or_elsewhere(run, trace, tmp_path):
    trace.write_bytes(trace.read_bytes()[:100_000])
    code, out, _ = run("recover", trace, "--json")
    assert code == 0
    rows = json.loads(out)["rows"]
    code, out, _ = run("compact", trace, "--scores", "none", "--out", tmp_path / "c.arrow")
    assert code == 0
    assert f"{rows:,} rows" in out
    with TraceReader.open(tmp_path / "c.arrow") as reader:
        assert reader.finished
        assert reader.num_rows == rows
        assert reader.meta.scores == "none"


def test_export_takes_the_format_from_the_name(run, trace, tmp_path):
    for kind in ("parquet", "jsonl", "svg", "html"):
        code, out, _ = run("export", trace, "--out", tmp_path / f"t.{kind}", "--json")
        assert code == 0
        assert json.loads(out)["bytes"] == (tmp_path / f"t.{kind}").stat().st_size
    code, _, err = run("export", trace, "--out", tmp_path / "t.doc")
    assert code == 2
    assert "format = 'doc' is unknown; use one of parquet" in err
    code, out, _ = run("export", trace, "--out", tmp_path / "p.jsonl", "--stop", 3, "--no-scores")
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 3


def test_metrics_prints_one_object_or_a_table(run, trace):
    code, out, _ = run("metrics", trace, "--json")
    assert code == 0
    assert 0 < json.loads(out)["swap_rate"] < 1
    assert "raw after 0 refocuses" in run("metrics", trace)[1]


def test_text_from_a_trace_cannot_reach_the_terminal_as_escapes(run, tmp_path):
    from megacontext.traces.meta import TraceMeta
    from megacontext.traces.row import TraceRow
    from megacontext.traces.writer import TraceWriter

    meta = TraceMeta(block_size=4, w_max=9, levels=1, model="\x1b[31m[bold]x").to_metadata()
    with TraceWriter(tmp_path / "run.arrow", meta) as writer:
        row = TraceRow(step=0, history_tokens=0, budget_used=0, w_max=9, marker="\x1b]0;owned\x07")
        writer.put(row)
    _, out, _ = run("info", tmp_path / "run.arrow")
    assert "\x1b" not in out
    assert "[bold]x" in out
    assert "?]0;owned?" in out
