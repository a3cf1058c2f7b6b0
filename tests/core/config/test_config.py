import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext.core.config import (
    Config,
    dump_config,
    load_config,
    parse_config,
    recorded_focus,
    smallest_w_max,
)
from megacontext.traces.errors import BudgetError, ConfigError


def test_an_empty_config_is_the_default():
    assert parse_config("") == Config()


def test_a_dumped_config_loads_to_an_equal_one():
    text = (
        "seed: 7\nlens: {kind: random}\nfocus: {n_diff: 9, question: {rounds: 2}}\n"
        "source: {kind: script, segments: [{kind: ingest, tokens: 5}, "
        "{kind: plant, name: a, text: 'x: y'}]}\n"
    )
    config = parse_config(text)
    assert parse_config(dump_config(config)) == config
    assert config.focus.question.rounds == 2


def test_overrides_win_and_reach_nested_keys():
    config = parse_config("focus: {n_diff: 2}", ["focus.n_diff=8", "kv.mode=exact", "seed=5"])
    assert (config.focus.n_diff, config.kv.mode, config.seed) == (8, "exact", 5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sede: 3", "did you mean seed"),
        ("focus: {n_dif: 3}", "focus.n_dif"),
        ("focus: 3", "focus is a whole number"),
        ("block_size: 33", "power of two from 2 to 1024"),
        ("seed: x", "'x'"),
        ("seed: -1", "from 0"),
        ("seed: true", "whole number"),
        ("focus: {n_diff: 1.5}", "whole number"),
        ("focus: {tau_expand: 1.5}", "from 0 to 1"),
        ("focus: {tau_expand: .nan}", "from 0 to 1"),
        ("lens: {kind: foo}", "one of auto, lensnet"),
        ("source: {kind: foo}", "source.kind"),
        ("source: {kind: script, segments: [{kind: ingest, tokenz: 5}]}", r"segments\.0\.tokenz"),
        ("tree: {storage: disk}", "tree.path"),
        ("lens: {kind: bm25, path: x}", "lens.kind"),
        ("a: [", "not valid YAML"),
        ("- 1", "mapping"),
        ("seed: 1\nw_max: 900\nseed: 2", r"has the key seed twice.*line 3\); keep one"),
        ("focus:\n  n_diff: 1\n  n_diff: 1", r"key n_diff twice.*line 3"),
        ("source: {max_tokens: 3}", "source.kind is missing"),
        ('source: {kind: text, path: "a\\ud800b"}', r"source.path has half of a character, .ud800"),
        ("allocator: {path: x}", "allocator.kind to learned or transformer"),
    ],
)
def test_a_bad_config_is_one_sentence_with_its_key(text, says):
    with pytest.raises(ConfigError, match=says) as caught:
        parse_config(text)
    assert str(caught.value).count("\n") == 0


def test_a_merge_key_is_no_key_twice():
    merged = "focus:\n  question: {<<: {rounds: 3, n_diff: 5}, rounds: 4}"
    question = parse_config(merged).focus.question
    assert (question.rounds, question.n_diff) == (4, 5)


def test_the_smallest_budget_is_legal_and_one_less_is_not():
    least = smallest_w_max(Config())
    assert parse_config(f"w_max: {least}").w_max == least
    with pytest.raises(BudgetError, match=f"at least {least}"):
        parse_config(f"w_max: {least - 1}")


@pytest.mark.parametrize("setting", ["seed", "=3", "seed.x=3", "focus.n_diff=[", "nope=1"])
def test_a_bad_override_is_refused(setting):
    with pytest.raises(ConfigError):
        parse_config("seed: 1", [setting])


def test_a_recorded_config_without_a_younger_key_means_what_held_before_it():
    older = "focus: {n_diff: 2, question: {rounds: 5}}"
    assert parse_config(older).focus.question.reopen
    recorded = parse_config(older, recorded=True)
    assert (recorded.focus.question.reopen, recorded.focus.question.rounds) == (False, 5)
    assert recorded.focus == recorded_focus({"n_diff": 2, "question": {"rounds": 5}}, "focus")
    assert not parse_config("seed: 3", recorded=True).focus.question.reopen
    assert parse_config(dump_config(Config()), recorded=True) == Config()
    for bad in ("focus: 3", "focus: {question: 3}"):
        with pytest.raises(ConfigError, match="focus"):
            parse_config(bad, recorded=True)


def test_a_missing_file_names_its_path(tmp_path):
    with pytest.raises(ConfigError, match=r"nope\.yaml"):
        load_config(tmp_path / "nope.yaml")


def test_every_option_has_a_help_line():
    def walk(kind, path):
        for field in dataclasses.fields(kind):
            default = (
                field.default_factory()
                if field.default_factory is not dataclasses.MISSING
                else field.default
            )
            if dataclasses.is_dataclass(default):
                walk(type(default), f"{path}{field.name}.")
            elif field.name != "kind" or "spec" in field.metadata:
                assert field.metadata["spec"].help, path + field.name

    walk(Config, "")


@given(st.text(max_size=40))
def test_any_text_loads_or_is_refused(text):
    try:
        outcome = parse_config(text)
    except ConfigError as error:
        outcome = error
    assert isinstance(outcome, Config) or "\n" not in str(outcome)


def test_a_repeated_run_with_other_gists_chooses_its_lens_anew():
    recorded = dump_config(parse_config("gist: {kind: gistnet}\nlens: {kind: lensnet}"))

    def again(*overrides):
        return parse_config(recorded, overrides, recorded=True)

    assert again().lens.kind == again("seed=2").lens.kind == "lensnet"
    assert again("gist.kind=mean").lens.kind == "auto"
    assert again("gist.kind=mean", "lens.kind=bm25").lens.kind == "bm25"
    other = again("model.path=models/other")
    assert (other.gist.kind, other.lens.kind) == ("auto", "auto")
    trained = dump_config(parse_config("lens: {kind: lensnet, path: runs/lens}"))
    kept = parse_config(trained, ["gist.kind=gistnet"], recorded=True)
    assert kept.lens.kind == "lensnet"
