"""Bad input to ``megacontext data`` and ``train``: one sentence, whatever it is."""

from pathlib import Path

import pytest

from megacontext.core.cli.app import app, guard

ROOT = Path(__file__).parents[3]


def call(capsys, *arguments):
    code = guard(app, [str(a) for a in arguments])
    return code, capsys.readouterr()


def refused(capsys, *arguments):
    code, said = call(capsys, *arguments)
    assert (code, said.out, said.err.count("\n")) == (2, "", 1), said.err
    assert said.err.startswith("error: ")
    return said.err


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("loop.workers=-1", "loop.workers is -1; it must be a value of at least 0"),
        ("loop.accumulation=0", "loop.accumulation is 0; it must be a value of at least 1"),
        ("loop.seed=-1", "loop.seed is -1; it must be"),
        ("phases.9.share=1", "--set phases.9.share: 9 is not a section"),
        ("phases.x=1", "--set phases.x: the list has no item x"),
        ("base.x=1", "--set base.x: base is not a section"),
        ("base=[1,", "is not a YAML value"),
        ("evaluation.pools=[]", "evaluation.pools is an empty list"),
        ("evaluation.cases=0", "evaluation.cases is 0; it must be a value of at least 1"),
        ("phases.0.mix.narrow=1.5", "mix.narrow: 1.5 is outside 0 to 1"),
        ("phases.0.mix.single=2", "mix.single: 2.0 is outside 0 to 1"),
        ("phases.0.mix.samples=0", "phases.0.mix.samples is 0; it must be"),
    ],
)
def test_a_bad_setting_names_its_key(capsys, tmp_path, setting, says):
    config = ROOT / "configs/train/gistnet-keys-smoke.yaml"
    arguments = ["train", "keys", "--config", config, "--out", tmp_path / "o", "--set", setting]
    assert says in refused(capsys, *arguments)


def test_a_config_that_is_no_text_is_named(capsys, tmp_path):
    (tmp_path / "bin").write_bytes(b"\xff\xfe\x00")
    for command in (["data", "prepare"], ["train", "gistnet", "--out", tmp_path / "o"]):
        assert "not UTF-8" in refused(capsys, *command, "--config", tmp_path / "bin")


def test_a_key_that_stands_twice_in_a_config_is_named(capsys, tmp_path):
    config = tmp_path / "twice.yaml"
    for command in (["data", "prepare"], ["train", "gistnet", "--out", tmp_path / "o"]):
        config.write_text("shards: a\nheldout: b\nshards: c\n")
        said = refused(capsys, *command, "--config", config)
        assert "has the key shards twice in one section (again at line 3)" in said
        config.write_text("shards: [a\n")
        assert "is not valid YAML" in refused(capsys, *command, "--config", config)


def test_an_out_that_cannot_be_a_folder_and_a_folder_as_a_text_are_named(capsys, tmp_path):
    (tmp_path / "taken").write_text("x = 1\n" * 99)
    config = tmp_path / "d.yaml"
    source = f"sources: [{{kind: text, path: {tmp_path}/taken}}]"
    config.write_text(f"tokenizer: {ROOT}/core/pretrained/demo/base\n{source}\n")
    prepare = ["data", "prepare", "--config", config]
    assert "taken" in refused(capsys, *prepare, "--out", tmp_path / "taken")
    folder = ["--set", f"sources.0.path={tmp_path}", "--out", tmp_path / "o"]
    assert "is no file" in refused(capsys, *prepare, *folder)
    assert "block_size" in refused(capsys, *prepare, "--set", "block_size=0", "--out", tmp_path)


def test_a_device_that_is_not_there_is_named(capsys, tmp_path):
    config = ROOT / "configs/train/base-smoke.yaml"
    base = ["train", "base", "--config", config, "--out", tmp_path / "o", "--device"]
    assert "--device: 'tpu'" in refused(capsys, *base, "tpu")
