"""Every key of a kind changes what that kind does, or is refused."""

from dataclasses import fields

import pytest

from megacontext.core.config import Config, allocator_options, dump_config, parse_config
from megacontext.core.config.fields import value_spec
from megacontext.core.config.kinds import KEYS_OF_KINDS, unread_keys
from megacontext.core.runtime.pretrained import resolve_kinds
from megacontext.traces.errors import ConfigError

CASES = [
    (section, kind_key, key, kind)
    for (section, kind_key), keys in KEYS_OF_KINDS.items()
    for key in keys
    for kind in value_spec(
        {f.name: f for f in fields(getattr(Config(), section))}[kind_key]
    ).choices
]


def other_value(section, key):
    """A legal value that is not the default."""
    default = getattr(getattr(Config(), section), key)
    if default is None:
        return {"path": "runs/some.tree", "margin": 0.5, "hops": 2}[key]
    return "auto" if default == "float32" else default * 2


@pytest.mark.parametrize(("section", "kind_key", "key", "kind"), CASES)
def test_a_key_is_taken_by_its_kinds_and_refused_by_the_others(section, kind_key, key, kind):
    value = other_value(section, key.key)
    text = f"{section}: {{{kind_key}: {kind}, {key.key}: {value}}}"
    if kind == "disk" and key.key != "path":
        text = text.replace("}", ", path: runs/some.tree}")
    if kind in key.kinds:
        assert getattr(getattr(parse_config(text), section), key.key) == value
    else:
        with pytest.raises(ConfigError, match=f"{section}.{key.key} is {value}, but .* {kind} "):
            parse_config(text)
        parse_config(text, recorded=True)  # a trace of an older version opens as it did


def test_off_and_the_default_are_legal_with_every_kind():
    parse_config("kv: {mode: exact, drift_every: 0, refresh_every: 0}")
    parse_config(dump_config(parse_config("kv: {mode: exact}")))


def test_the_allocators_options_are_in_the_table():
    names = {key.key: key.kinds for key in KEYS_OF_KINDS["allocator", "kind"]}
    for kind in ("greedy", "simple", "stochastic_greedy", "slot", "optimal"):
        read = set(allocator_options(parse_config(f"allocator: {{kind: {kind}}}").allocator))
        assert read == {name for name, kinds in names.items() if kind in kinds}


def test_a_calibration_may_be_named_with_the_lens_that_reads_it():
    assert parse_config("lens: {kind: heads, path: heads.json}").lens.path == "heads.json"


def test_a_key_that_auto_does_not_come_to_is_noted():
    config = resolve_kinds(parse_config("lens: {query_tokens: 20}"))
    assert config.lens.kind == "lensnet"
    (note,) = unread_keys(config)
    assert note.startswith("lens.query_tokens is 20, but lens.kind lensnet does not read it")
