"""What names the bundled weights that a run reads."""

import pytest

from megacontext.core.config import parse_config
from megacontext.core.runtime.pretrained import resolve_kinds, weights_id


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    for part in ("base", "gistnet", "lensnet"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text("{}")
    monkeypatch.setattr("megacontext.core.runtime.pretrained.bundle_folder", lambda: tmp_path)
    return tmp_path


def test_a_run_is_named_by_the_bundled_parts_that_it_reads(bundle):
    configs = [
        parse_config(text)
        for text in ("", "lens: {kind: bm25}", "gist: {kind: token}\nlens: {kind: bm25}")
    ]
    before = [weights_id(config) for config in configs]
    assert len(set(before)) == 3
    (bundle / "lensnet" / "config.json").write_text("{ }")
    after = [weights_id(config) for config in configs]
    assert after[0] != before[0]
    assert after[1:] == before[1:]
    (bundle / "base" / "more").write_text("")
    assert not set(before + after) & {weights_id(config) for config in configs}


def test_another_model_has_no_bundled_weights(bundle):
    assert weights_id(parse_config("model: {path: some/model}")) == ""


@pytest.mark.parametrize(
    ("text", "gist", "lens"),
    [
        ("", "gistnet", "lensnet"),
        ("gist: {path: own}", "gistnet", "similarity"),  # the bundle's lens reads other keys
        ("gist: {path: own}\nlens: {path: own}", "gistnet", "lensnet"),
        ("model: {path: some/model}", "none", "heads"),
        ("model: {path: some/model}\nlens: {kind: similarity}", "token", "similarity"),
        ("model: {path: some/model}\ngist: {path: own}", "gistnet", "similarity"),
        ("model: {path: some/model}\ngist: {path: own}\nlens: {path: own}", "gistnet", "lensnet"),
    ],
)
def test_a_path_says_which_kind_is_meant(bundle, text, gist, lens):
    resolved = resolve_kinds(parse_config(text))
    assert (resolved.gist.kind, resolved.lens.kind) == (gist, lens)
