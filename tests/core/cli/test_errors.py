"""Bad input: one clear sentence, exit code 2, nothing damaged."""

import subprocess
import sys

import pytest

from megacontext.core.cli.app import app, guard


def call(capsys, *arguments):
    code = guard(app, [str(a) for a in arguments])
    return code, capsys.readouterr()


@pytest.fixture
def config_file(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("hello world " * 200)
    path = tmp_path / "run.yaml"
    path.write_text(f"source: {{kind: text, path: '{text}'}}\n")
    return path


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["nope=1"], "Unknown key nope"),
        (["w_max=many"], "w_max is 'many'"),
        (["w_max=100"], "smallest legal frontier"),
        (["model.path=./no/such/model"], "no/such/model"),
        (["model.path=."], "model"),
        (["source.path=missing.txt"], "missing.txt"),
        (["source.path=missing.txt", "model.path=./no/such/model"], "missing.txt"),
        (["w_max=1048576"], "window"),
        (["gist.kind=gistnet", "gist.path=missing"], "missing"),
        (["gist.kind=mean", "lens.kind=lensnet", "lens.path=missing"], "missing"),
    ],
)
def test_a_bad_setting_is_one_sentence(capsys, config_file, tmp_path, settings, says):
    out = tmp_path / "t.arrow"
    options = [word for setting in settings for word in ("--set", setting)]
    code, said = call(capsys, "run", "--config", config_file, "--out", out, *options)
    assert code == 2
    assert says in said.err
    lines = [line for line in said.err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert not out.exists()


def test_cuda_without_a_gpu_says_so(capsys, config_file, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code, said = call(capsys, "run", "--config", config_file, "--set", "device=cuda")
    assert code == 2
    assert "cuda" in said.err
    assert "cpu" in said.err


def test_an_unknown_option_and_command_exit_with_2(capsys, config_file):
    assert call(capsys, "run", "--config", config_file, "--frobnicate")[0] == 2
    assert call(capsys, "frobnicate")[0] == 2


def test_empty_and_undecodable_texts_are_refused(capsys, config_file, tmp_path):
    for content, says in ((b"", "holds no text"), (b"ab\xff\xfe", "not UTF-8")):
        (tmp_path / "b.txt").write_bytes(content)
        setting = f"source.path={tmp_path / 'b.txt'}"
        code, said = call(
            capsys, "run", "--config", config_file, "--set", setting, "--out", tmp_path / "t.arrow"
        )
        assert (code, says in said.err) == (2, True)


def test_a_tree_of_another_model_is_refused_and_kept(capsys, config_file, tmp_path):
    from megacontext.core.tree import NullGister, Tree, TreeSpec

    spec = TreeSpec(32, 4, 8, 4, "fp16", "another", "null", 256)
    folder = tmp_path / "tree"
    with Tree.create(spec, NullGister(8, 4), folder) as tree:
        tree.append([1] * 64)
        tree.commit()
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    code, said = call(
        capsys, "run", "--config", config_file, "--tree", folder, "--out", tmp_path / "t.arrow"
    )
    assert code == 2
    assert "another" in said.err
    after = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert {k: v for k, v in after.items() if "LOCK" not in k} == {
        k: v for k, v in before.items() if "LOCK" not in k
    }


def test_a_repeat_does_not_write_over_the_trace_that_it_repeats(capsys, config_file, tmp_path):
    trace = tmp_path / "t.arrow"
    assert call(capsys, "run", "--config", config_file, "--out", trace)[0] == 0
    recorded = trace.read_bytes()
    elsewhere = tmp_path / "link.arrow"
    elsewhere.symlink_to(trace)
    for out in (trace, elsewhere):
        code, said = call(capsys, "run", "--config", trace, "--out", out)
        assert (code, "choose another --out" in said.err) == (2, True)
    assert trace.read_bytes() == recorded
    assert call(capsys, "run", "--config", trace, "--out", trace, "--resume")[0] == 0


@pytest.mark.parametrize("command", ["info", "verify", "metrics"])
def test_something_that_is_no_trace_is_refused(capsys, tmp_path, command):
    bad = tmp_path / "bad.arrow"
    for content in (b"", b"hello", b"ARROW1\0\0" + b"\0" * 100):
        bad.write_bytes(content)
        code, said = call(capsys, "trace", command, bad)
        assert code == 2
        assert said.err.count("\n") == 1
    assert call(capsys, "trace", command, tmp_path)[0] == 2
    assert call(capsys, "trace", command, tmp_path / "missing.arrow")[0] == 2


def test_debug_shows_the_traceback(config_file):
    arguments = ["run", "--config", str(config_file), "--set", "nope=1", "--debug"]
    done = subprocess.run(
        [sys.executable, "-m", "megacontext.core.cli", *arguments], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "Traceback" in done.stderr
