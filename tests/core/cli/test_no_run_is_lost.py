"""``megacontext run`` and ``batch`` never take a file that another run or a person wrote."""

import time

import pytest

from megacontext.core.batch.plan import load_plan
from megacontext.core.batch.run import run_batch
from megacontext.core.cli.app import app, guard
from megacontext.traces.errors import ConfigError, LockedError
from megacontext.traces.reader import TraceReader
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
