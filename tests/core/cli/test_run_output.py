"""What ``run`` shows of a session's text, and where."""

import io
import json
import sys

import pytest

from megacontext.core.cli.app import app, guard


@pytest.fixture
def config(model_folder, tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("abc def gha " * 20)
    path = tmp_path / "run.yaml"
    path.write_text(
        f"w_max: 128\nblock_size: 8\nmodel: {{path: '{model_folder}', dtype: float32}}\n"
        f"tree: {{max_levels: 3}}\nsource: {{kind: text, path: '{text}', decode_tokens: 8}}\n"
    )
    return path


def run(config, out, *words):
    return guard(app, ["run", "--config", str(config), "--out", str(out), *words])


def test_the_decoded_text_is_shown_and_in_the_object(config, tmp_path, capsys):
    assert run(config, tmp_path / "a.arrow") == 0
    shown = capsys.readouterr().out
    assert run(config, tmp_path / "b.arrow", "--json") == 0
    (decoded,) = json.loads(capsys.readouterr().out)["decoded"]
    assert decoded
    assert "Decoded" in shown


def test_with_json_a_conversation_leaves_stdout_to_the_object(
    config, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(sys, "stdin", io.StringIO("abc\n"))
    source = "source={kind: prompt, reply_tokens: 4, stop: ''}"
    assert run(config, tmp_path / "a.arrow", "--set", source, "--json", "--no-control") == 0
    said = capsys.readouterr()
    (reply,) = json.loads(said.out)["decoded"]
    assert reply.strip() in said.err
