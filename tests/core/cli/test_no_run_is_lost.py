"""No command that writes a trace takes a file that another run or a person wrote."""

import io
import os
import resource
import subprocess
import sys
import time

import pytest

from megacontext.core.batch.plan import load_plan
from megacontext.core.batch.run import run_batch
from megacontext.core.cli.app import app, guard
from megacontext.traces.errors import ConfigError, LockedError
from megacontext.traces.reader import TraceReader
from megacontext.traces.synthetic import make_small_trace
from megacontext.traces.target import claim


def call(capsys, *arguments):
    code = guard(app, [str(a) for a in arguments])
    return code, capsys.readouterr()


@pytest.fixture
def config(tmp_path, model_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("hello world and all who are in it " * 20)
    path = tmp_path / "run.yaml"
    path.write_text(
        f"w_max: 128\nblock_size: 8\nmodel: {{path: {model_folder}}}\n"
        "source: {kind: text, path: a.txt, decode_tokens: 0}\n"
    )
    return path


def rows(path):
    with TraceReader.open(path) as reader:
        return reader.num_rows, reader.meta.seed


def test_a_trace_at_out_is_replaced_only_with_overwrite(config, tmp_path, capsys):
    out = tmp_path / "t.arrow"
    assert call(capsys, "run", "--config", config, "--out", out)[0] == 0
    before = out.read_bytes()
    code, said = call(capsys, "run", "--config", config, "--out", out, "--set", "seed=7")
    assert (code, out.read_bytes() == before) == (2, True)
    assert "--overwrite" in said.err
    again = ("run", "--config", config, "--out", out, "--overwrite", "--set", "seed=7")
    assert call(capsys, *again)[0] == 0
    assert rows(out)[1] == 7


def test_a_run_that_fails_on_its_first_tokens_keeps_the_trace_it_was_to_replace(
    config, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "t.arrow"
    assert call(capsys, "run", "--config", config, "--out", out)[0] == 0
    before = out.read_bytes()

    def broken(*_, **__):
        raise ConfigError("broken on purpose.")

    monkeypatch.setattr("megacontext.core.runtime.session.Session._append_tokens", broken)
    assert call(capsys, "run", "--config", config, "--out", out, "--overwrite")[0] == 2
    assert out.read_bytes() == before


def test_out_over_a_text_is_refused_with_overwrite_too(config, tmp_path, capsys):
    text = tmp_path / "a.txt"
    before = text.read_bytes()
    code, said = call(capsys, "run", "--config", config, "--out", text, "--overwrite")
    assert (code, "is no trace" in said.err, text.read_bytes() == before) == (2, True, True)


def test_runs_without_out_get_names_of_their_own(config, tmp_path, capsys):
    for _ in range(2):
        assert call(capsys, "run", "--config", config)[0] == 0
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(names) == 2
    assert all(name.startswith(f"run-{time.strftime('%Y')}") for name in names)


def test_a_second_run_is_refused_before_it_loads_anything(config, tmp_path, capsys, monkeypatch):
    from megacontext.core.config import load_config
    from megacontext.core.runtime import run as module

    monkeypatch.setattr(module, "build_parts", lambda config: pytest.fail("it loaded the model"))
    out = tmp_path / "t.arrow"
    with claim(out, overwrite=False), pytest.raises(LockedError, match="being written"):
        module.run(load_config(config, []), out)
    assert not out.exists()


def test_resume_asks_for_the_trace_that_goes_on(config, capsys):
    code, said = call(capsys, "run", "--config", config, "--resume")
    assert (code, "--resume needs --out" in said.err) == (2, True)


def test_a_batch_does_not_replace_traces_of_another_config(config, tmp_path):
    plan = tmp_path / "batch.yaml"
    plan.write_text("configs: [run.yaml]\nout: results\n")
    first = run_batch(load_plan(plan))
    trace = first.rows[0]["trace"]
    config.write_text(config.read_text() + "seed: 7\n")
    with pytest.raises(ConfigError, match=r"another config or model.*--overwrite"):
        run_batch(load_plan(plan))
    assert rows(trace)[1] == 0
    assert not run_batch(load_plan(plan), overwrite=True).failed
    assert rows(trace)[1] == 7


# -- commands beside run and batch that write a trace ---------------------------------------------
@pytest.fixture
def two_traces(tmp_path):
    """Two traces: one to read, one that is in the way."""
    source, other = tmp_path / "source.arrow", tmp_path / "other.arrow"
    make_small_trace(source, rows=20)
    make_small_trace(other, rows=30)
    return source, other


COPIES = {
    "recover": ("trace", "recover", "source.arrow", "--out"),
    "compact": ("trace", "compact", "source.arrow", "--out"),
    "make-trace": ("bench", "make-trace", "--rows", "9", "--tokens", "640", "--entries", "768",
                   "--out"),
}  # fmt: skip


@pytest.mark.parametrize("command", COPIES.values(), ids=COPIES)
def test_a_copy_replaces_another_trace_only_with_overwrite(
    command, two_traces, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = two_traces[1].read_bytes()
    code, said = call(capsys, *command, "other.arrow")
    assert (code, two_traces[1].read_bytes() == before) == (2, True)
    assert "a trace of 30 rows" in said.err
    assert "--overwrite" in said.err
    assert call(capsys, *command, "other.arrow", "--overwrite")[0] == 0
    assert rows(two_traces[1])[0] in (9, 20)

    (tmp_path / "notes.txt").write_text("a person's words")
    code, said = call(capsys, *command, "notes.txt", "--overwrite")
    assert (code, "is no trace" in said.err) == (2, True)
    assert (tmp_path / "notes.txt").read_text() == "a person's words"


@pytest.mark.parametrize("command", COPIES.values(), ids=COPIES)
def test_a_full_disk_keeps_what_a_copy_was_to_replace(command, two_traces, tmp_path):
    before = two_traces[1].read_bytes()
    done = on_a_full_disk(*command, "other.arrow", "--overwrite", folder=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "File too large" in done.stderr
    assert two_traces[1].read_bytes() == before


def test_a_full_disk_keeps_the_trace_that_a_run_was_to_replace(config, two_traces, tmp_path):
    before = two_traces[1].read_bytes()
    run = ("run", "--config", config.name, "--out", "other.arrow", "--overwrite", "--no-control")
    done = on_a_full_disk(*run, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert two_traces[1].read_bytes() == before


def on_a_full_disk(*arguments, folder):
    """A command whose files cannot grow beyond 1,000 bytes, which fails as a full disk does."""
    limit = (resource.RLIMIT_FSIZE, (1_000, 1_000))
    return subprocess.run(
        [sys.executable, "-m", "megacontext.core.cli", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(*limit),
        capture_output=True,
        text=True,
        cwd=folder,
    )


@pytest.mark.parametrize("command", ["recover", "compact"])
def test_a_trace_rewritten_in_place_needs_no_overwrite(
    command, two_traces, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert call(capsys, "trace", command, "source.arrow", "--out", two_traces[0])[0] == 0
    assert rows(two_traces[0])[0] == 20


@pytest.mark.parametrize("name", ["source.arrow", "other.arrow"])
@pytest.mark.parametrize("kind", ["parquet", "jsonl", "svg", "html"])
def test_an_export_never_replaces_a_trace(kind, name, two_traces, tmp_path, capsys):
    before = (tmp_path / name).read_bytes()
    export = ("trace", "export", two_traces[0], "--format", kind, "--out", tmp_path / name)
    code, said = call(capsys, *export)
    assert (code, "is a trace" in said.err) == (2, True)
    assert (tmp_path / name).read_bytes() == before


def test_a_conversation_replaces_a_trace_only_with_overwrite(
    two_traces, config, capsys, monkeypatch
):
    monkeypatch.setattr("sys.stdin", io.StringIO("Who?\n"))
    before = two_traces[1].read_bytes()
    chat = ("chat", "--config", config, "--max-new-tokens", "4", "--trace", two_traces[1])
    code, said = call(capsys, *chat)
    assert (code, two_traces[1].read_bytes() == before) == (2, True)
    assert "--overwrite" in said.err
    assert call(capsys, *chat, "--overwrite")[0] == 0
    assert two_traces[1].read_bytes() != before


@pytest.mark.parametrize("command", COPIES.values(), ids=COPIES)
def test_no_command_writes_where_a_run_goes_on(command, two_traces, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = two_traces[1].read_bytes()
    with claim(two_traces[1], overwrite=True):
        code, said = call(capsys, *command, "other.arrow", "--overwrite")
    assert code == 2
    assert "written" in said.err
    assert two_traces[1].read_bytes() == before
