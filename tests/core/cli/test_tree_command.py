"""``megacontext tree``: facts, damage, and gists made anew."""

import json
import shutil

import numpy as np
import pytest

from megacontext.core.cli.app import app, guard


@pytest.fixture
def config(tmp_path, model_folder):
    """A run of the tiny model over a tree on disk."""
    rng = np.random.default_rng(3)
    words = ["".join(rng.choice(list("abcdefgh"), 4)) for _ in range(120)]
    (tmp_path / "a.txt").write_text(" ".join(words))
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"""
w_max: 128
block_size: 8
model: {{path: {model_folder}, dtype: float32}}
gist: {{kind: mean}}
lens: {{kind: recency}}
tree: {{storage: disk, path: {tmp_path}/tree, max_levels: 3}}
source: {{kind: text, path: {tmp_path}/a.txt, max_tokens: 300}}
"""
    )
    return path


def call(capsys, *arguments):
    code = guard(app, [str(a) for a in arguments])
    return code, capsys.readouterr()


@pytest.fixture
def tree(config, capsys, tmp_path):
    assert call(capsys, "run", "--config", config, "--out", tmp_path / "t.arrow")[0] == 0
    return tmp_path / "tree"


def test_info_names_the_model_the_gists_and_what_is_there(tree, capsys):
    code, said = call(capsys, "tree", "info", tree, "--json")
    facts = json.loads(said.out)
    assert (code, facts["tokens"], facts["nodes"][:2]) == (0, 300, [37, 4])
    assert facts["gist_checkpoint"].startswith("mean")
    assert "37" in call(capsys, "tree", "info", tree)[1].out


def test_another_gister_is_refused_until_a_regist(tree, config, capsys, tmp_path):
    token = ["--config", config, "--set", "gist.kind=token"]
    again = ["run", *token, "--out", tmp_path / "u.arrow"]
    code, said = call(capsys, *again)
    assert (code, "regist" in said.err) == (2, True)
    code, said = call(
        capsys, "tree", "regist", tree, "--config", config, "--set", "gist.kind=token"
    )
    assert (code, "replaced" in said.out) == (0, True)
    facts = json.loads(call(capsys, "tree", "info", tree, "--json")[1].out)
    assert facts["gist_checkpoint"].startswith("token")
    assert facts["tokens"] == 300
    assert call(capsys, *again)[0] == 0


def test_verify_finds_damage_and_a_regist_repairs_gists(tree, config, capsys):
    assert call(capsys, "tree", "verify", tree)[0] == 0
    gists = tree / "LOD1.ctx"
    whole = bytearray(gists.read_bytes())
    whole[8192 + 5] ^= 0xFF
    gists.write_bytes(whole)
    code, said = call(capsys, "tree", "verify", tree, "--json")
    assert (code, json.loads(said.out)["ok"]) == (1, False)
    assert call(capsys, "tree", "regist", tree, "--config", config)[0] == 0
    assert call(capsys, "tree", "verify", tree)[0] == 0


def test_a_tree_of_another_model_is_no_tree_to_regist(tree, config, capsys):
    other = config.read_text().replace("path: ", "path: other", 1)
    config.write_text(other)
    code, said = call(capsys, "tree", "regist", tree, "--config", config)
    assert (code, said.err.count("\n")) == (2, 1)
    assert "start a new tree" in said.err


def test_another_tokenizer_of_equal_size_behind_the_same_path_is_refused(
    tree, config, capsys, model_folder, tmp_path
):
    whole = config.read_text()
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    config.write_text(whole.replace(str(model_folder), str(folder)))
    named = ["--config", config, "--tree", tmp_path / "named", "--out", tmp_path / "n.arrow"]
    assert call(capsys, "run", *named)[0] == 0
    file = folder / "tokenizer.json"
    raw = json.loads(file.read_text())
    raw["model"]["vocab"] |= {"a": raw["model"]["vocab"]["b"], "b": raw["model"]["vocab"]["a"]}
    file.write_text(json.dumps(raw))
    code, said = call(capsys, "run", *named, "--overwrite")
    assert (code, "its ids mean other text" in said.err) == (2, True)
    code, said = call(capsys, "tree", "regist", tmp_path / "named", "--config", config)
    assert (code, "holds ids of tokenizer" in said.err) == (2, True)


@pytest.mark.parametrize("command", ["info", "verify"])
def test_a_folder_without_a_tree_is_one_sentence(command, capsys, tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        code, said = call(capsys, "tree", command, folder)
        assert (code, said.out, said.err.count("\n")) == (2, "", 1)
