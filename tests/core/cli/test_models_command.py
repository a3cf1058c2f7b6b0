"""``megacontext models parity``."""

import json

import pytest
from typer.testing import CliRunner

from megacontext.core.cli.models import app
from megacontext.core.model.survey import survey
from megacontext.core.model.tiny import architectures
from megacontext.traces.errors import ConfigError

FEW = "llama,gpt2,mamba,bart"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["parity", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_each_model_type_has_one_result():
    rows = {row["model_type"]: row for row in json.loads(run("--only", FEW, "--json"))}
    assert [rows[name]["result"] for name in FEW.split(",")] == [
        "equal", "equal in exact only", "refused", "not checked",
    ]  # fmt: skip
    assert rows["llama"]["model_class"] == "LlamaForCausalLM"
    assert rows["llama"]["reason"] == ""
    assert all(row["reason"] for name, row in rows.items() if name != "llama")


def test_the_list_replaces_what_stands_behind_the_mark(tmp_path):
    page = tmp_path / "models.md"
    run("--only", "llama", "--out", str(page))
    first = page.read_text()
    page.write_text("Words.\n" + first)
    run("--only", "gpt2", "--out", str(page))
    again = page.read_text()
    assert again.startswith("Words.\n# Models")
    assert "`gpt2`" in again
    assert "`llama`" not in again


def test_a_page_without_the_mark_is_left_alone(tmp_path):
    page = tmp_path / "models.md"
    page.write_text("mine")
    with pytest.raises(ConfigError, match="has no line"):
        run("--only", "llama", "--out", str(page))
    assert page.read_text() == "mine"


def test_an_unknown_model_type_is_refused():
    with pytest.raises(ConfigError, match="--only names 'lama'"):
        run("--only", "lama")


@pytest.mark.slow
def test_the_whole_list_has_no_other_result():
    rows = survey()
    assert [row.model_type for row in rows] == architectures()
    count = {row.result: sum(r.result == row.result for r in rows) for row in rows}
    assert set(count) == {"equal", "equal in exact only", "refused", "not checked"}
    assert count["equal"] >= 60
