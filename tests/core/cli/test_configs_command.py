"""Packaged configs by name, and the reference made from the schema."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from megacontext.core.cli.app import app, guard
from megacontext.core.config import Config, load_config, parse_config
from megacontext.core.config.reference import entries, explain, reference
from megacontext.core.config.settings import load as load_training
from megacontext.traces.errors import ConfigError
from megacontext.traces.packaged import config_folder, config_names, find_config

ROOT = Path(__file__).parents[3]


def call(capsys, *arguments):
    code = guard(app, [str(a) for a in arguments])
    return code, capsys.readouterr()


def test_a_packaged_config_is_named_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "demo.yaml", "configs/demo.yaml"):
        assert load_config(Path(name)).source.kind == "script"
    assert find_config(Path("train/lora")).samefile(ROOT / "configs/train/lora.yaml")


def test_a_file_wins_over_a_packaged_config_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert load_config(Path("demo")).source.kind == "script"
    (tmp_path / "text").write_text("seed: 7")
    assert load_config(Path("text")).seed == 7


def test_a_missing_config_names_the_nearest_packaged_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"demoo does not exist; did you mean .* demo\?"):
        load_config(Path("demoo"))


def test_every_packaged_run_config_loads_and_demo_means_the_bundle_in_any_folder(
    tmp_path, monkeypatch
):
    from megacontext.core.data.prepare import DataConfig
    from megacontext.core.training.lora.task import LoraTraining

    monkeypatch.chdir(tmp_path)
    assert {"demo", "text", "prompt", "batch/lenses", "data/smoke"} <= set(config_names())
    for name in (n for n in config_names() if "/" not in n):
        load_config(Path(name))
    smoke = load_training(DataConfig, Path("data/smoke"))
    assert (Path(smoke.tokenizer) / "tokenizer.json").is_file()
    lora = load_training(LoraTraining, Path("train/lora"))
    assert Path(lora.gistnet).name == "gistnet"
    assert (Path(lora.gistnet) / "config.json").is_file()


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_a_config_without_a_key_is_refused(tmp_path, text):
    path = tmp_path / "empty.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="is empty or holds only comments; set a key"):
        load_config(path)


def test_configs_lists_shows_and_copies(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = call(capsys, "configs", "--json")
    listed = json.loads(said.out)
    assert code == 0
    assert listed["configs"]["prompt"].startswith("An interactive conversation")
    assert call(capsys, "configs", "copy", "text")[0] == 0
    assert Path("text.yaml").read_bytes() == (config_folder() / "text.yaml").read_bytes()
    code, said = call(capsys, "configs", "copy", "text")
    assert code == 2
    assert "text.yaml exists" in said.err
    code, said = call(capsys, "configs", "show", "nothing")
    assert code == 2
    assert "no packaged config" in said.err


def test_explain_gives_type_default_range_and_help_of_a_key_a_section_and_a_last_name():
    (entry,) = explain("focus.tau_expand")
    assert (entry.type, entry.default, entry.legal) == ("number", "0.2", "a value from 0 to 1")
    assert {e.path for e in explain("focus.question")} >= {"focus.question.reopen"}
    assert [e.path for e in explain("refresh_every")] == ["kv.refresh_every"]
    assert {e.path for e in explain("source.path")} == {
        "source[text].path",
        "source[folder].path",
        "source[corpus].path",
    }
    with pytest.raises(ConfigError, match=r"did you mean focus\.tau_expand"):
        explain("tau_expnd")


def test_every_key_of_the_schema_has_a_help_line_and_stands_in_the_reference():
    page = (ROOT / "docs/config.md").read_text()
    assert page == reference(), "run: megacontext configs explain --all > docs/config.md"
    keys = [e for e in entries() if e.type]
    assert not [e.path for e in keys if not e.help]
    assert all(f"`{e.plain}`" in page for e in keys)
    assert len(keys) > 60


def test_the_defaults_that_the_reference_names_are_legal_and_the_schemas_own():
    plain = [e for e in entries() if e.type and "[" not in e.path and e.default != "none"]
    settings = [f"{e.path}={e.default}" for e in plain]
    assert parse_config("", settings) == Config()


def test_topk_takes_a_number_and_nothing_else_does():
    assert parse_config("trace: {scores: 'topk:4'}").trace.scores == "topk:4"
    for wrong in ("topk:0", "topk:x", "u8:4", "topk:"):
        with pytest.raises(ConfigError, match=r"topk, none; or topk:N"):
            parse_config(f"trace: {{scores: '{wrong}'}}")


@pytest.mark.parametrize("program", ["megacontext", "mc-tui"])
def test_each_program_prints_its_version(program, capsys, monkeypatch):
    from importlib.metadata import version

    import megacontext.tui.cli as tui

    if program == "megacontext":
        assert guard(app, ["--version"]) == 0
    else:
        monkeypatch.setattr("sys.argv", ["mc-tui", "--version"])
        with pytest.raises(SystemExit) as left:
            tui.main()
        assert left.value.code == 0
    assert capsys.readouterr().out == f"{program} {version('megacontext')}\n"


def _commands(command, path):
    if not hasattr(command, "list_commands"):
        yield path, command
        return
    for name in command.list_commands(None):
        yield from _commands(command.get_command(None, name), f"{path} {name}")


def test_every_command_has_an_example_and_every_option_a_help_line():
    import typer

    import megacontext.tui.cli as tui

    for name, program in (("megacontext", app), ("mc-tui", tui.app)):
        for path, command in _commands(typer.main.get_command(program), name):
            assert "Example" in command.help, path
            assert not [p.name for p in command.params if not getattr(p, "help", None)], path


@pytest.mark.parametrize(
    ("program", "typed", "offered"),
    [("megacontext", "megacontext co", "configs"), ("mc-tui", "mc-tui re", "replay")],
)
def test_each_program_completes_its_commands_in_a_shell(program, typed, offered):
    variable = f"_{program.upper().replace('-', '_')}_COMPLETE"
    done = subprocess.run(
        [str(Path(sys.executable).parent / program)],
        env=os.environ | {variable: "complete_zsh", "_TYPER_COMPLETE_ARGS": typed},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert offered in done.stdout
