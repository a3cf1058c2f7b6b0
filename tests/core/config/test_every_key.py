"""Every config key is read by some run; a key that the chosen kind does not read is refused.

The config's classes are watched while small sessions run: a key counts as read when code outside
the config package gets its value.
"""

import dataclasses
import io
import sys

import pytest

from megacontext.core.config import Config, parse_config, schema, sources
from megacontext.core.config.fields import value_spec
from megacontext.core.config.kinds import KEYS_OF_KINDS
from megacontext.core.runtime.run import run
from megacontext.traces.errors import ConfigError

CLASSES = [
    value
    for module in (schema, sources)
    for value in vars(module).values()
    if dataclasses.is_dataclass(value) and value.__module__ == module.__name__
]
BASE = """
w_max: 96
block_size: 8
model: {{path: {model}}}
tree: {{max_levels: 2}}
sampling: {{temperature: 1}}
triggers: {{surprisal: 1, echo: {{match: 3}}}}
trace: {{delta_nll_every: 1}}
source:
  kind: script
  text: {{kind: text, path: {folder}/texts/a.py}}
  segments:
    - {{kind: ingest, tokens: 90}}
    - {{kind: plant, name: key, text: "the key is 4. "}}
    - {{kind: text, text: "more text. "}}
    - {{kind: question, text: "the key?", about: key, answer: "4", tokens: 3}}
    - {{kind: decode, tokens: 9}}
    - {{kind: marker, text: done}}
"""
RUNS = {
    "similarity": ["lens.kind=similarity", "gist.kind=token"],
    "bm25": ["lens.kind=bm25", "gist.kind=mean"],
    "attention": ["lens.kind=attention", "gist.kind=none"],
    "recency": ["lens.kind=recency", "kv.mode=exact"],
    "random": ["lens.kind=random", "allocator.kind=simple"],
    "oracle": ["lens.kind=oracle", "allocator.kind=stochastic_greedy"],
    "slot": ["lens.kind=bm25", "allocator.kind=slot"],
    "optimal": ["lens.kind=bm25", "allocator.kind=optimal"],
    "disk": ["lens.kind=bm25", "tree.storage=disk", "tree.path={folder}/tree"],
    "folder": ["source={{kind: folder, path: {folder}/texts, decode_tokens: 2}}"],
    "text": ["source={{kind: text, path: {folder}/texts/a.py, decode_tokens: 2}}"],
    "python": ["source={{kind: python, package: yaml, max_tokens: 80}}"],
    "corpus": ["source={{kind: corpus, path: {folder}/corpus.jsonl, decode_tokens: 2}}"],
    "stdin": ["source={{kind: stdin, max_tokens: 50, decode_tokens: 2}}"],
    "prompt": ["source={{kind: prompt, reply_tokens: 3, preload: {folder}/texts/a.py}}"],
    "prometheus": ["telemetry.sinks=[prometheus]"],
}
OPTIONS = "megacontext.core.config.options"
"""Gives an allocator what its kind takes."""
NOT_RUN = {
    "allocator.path": "a checkpoint of a learned policy",
    "gist.products": "a GistNet",
    "lens.path": "a LensNet or a calibration of heads",
    "lens.margin": "a model whose heads look things up",
    "lens.hops": "a model whose heads look things up",
    "lens.newest": "a model whose heads look things up",
}
"""Keys that only a trained part reads, and which."""


def watch(patch, reads):
    """Note every (class, key) that code outside the config package reads."""
    for kind in CLASSES:
        names = {field.name for field in dataclasses.fields(kind)}

        def get(self, name, kind=kind, names=names):
            caller = sys._getframe(1).f_globals["__name__"]
            inside = caller.startswith("megacontext.core.config") and caller != OPTIONS
            if name in names and caller.startswith("megacontext.") and not inside:
                reads.add((kind.__name__, name))
            return object.__getattribute__(self, name)

        patch.setattr(kind, "__getattribute__", get, raising=False)


@pytest.fixture(scope="module")
def reads(model_folder, tmp_path_factory):
    """The (class, key) that each run read, by the run's name."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "texts").mkdir()
    (folder / "texts" / "a.py").write_text("one two three four? " * 20)
    (folder / "corpus.jsonl").write_text('{"text": "one two three four five six seven"}\n')

    seen = {name: set() for name in RUNS}
    for name, settings in RUNS.items():
        changes = [setting.format(folder=folder) for setting in settings]
        if not any(setting.startswith("lens.kind") for setting in changes):
            changes.append("lens.kind=bm25")
        config = parse_config(BASE.format(model=model_folder, folder=folder), changes)
        with pytest.MonkeyPatch.context() as patch:
            watch(patch, seen[name])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one two three\nfour?\n")))
            run(config, folder / f"{name}.arrow", control=False)
    return seen


def keys_of(kind, path=""):
    """(path, class, field) of every key of a section and of those below it."""
    for field in dataclasses.fields(kind):
        default = getattr(kind(), field.name)
        name = f"{path}{field.name}"
        if dataclasses.is_dataclass(default) and name != "source":
            yield from keys_of(type(default), f"{name}.")
        elif name != "source":
            yield name, kind, field


def test_every_key_of_a_config_is_read_by_some_run(reads):
    read = set().union(*reads.values())
    unread = {
        path for path, kind, field in keys_of(Config) if (kind.__name__, field.name) not in read
    }
    assert unread == set(NOT_RUN)


def test_every_key_of_a_source_is_read_by_its_run(reads):
    read = set().union(*reads.values())
    unread = {
        (kind.__name__, field.name)
        for kind in CLASSES
        if kind.__module__ == sources.__name__
        for field in dataclasses.fields(kind)
        if field.name != "kind" and (kind.__name__, field.name) not in read
    }
    assert unread == set()


def other_value(field):
    """A legal value of a key that is not its default."""
    legal = value_spec(field)
    if legal.choices:
        return next(choice for choice in legal.choices if choice != field.default)
    if field.default is None and legal.high is not None:
        return legal.high
    return field.default * 2 if field.default else "other"


@pytest.mark.parametrize(
    ("name", "section", "kind_key"),
    [(name, *keys) for keys in KEYS_OF_KINDS for name in RUNS],
)
def test_a_key_that_the_chosen_kind_does_not_read_is_refused(reads, name, section, kind_key):
    settings = [setting for setting in RUNS[name] if setting.startswith(f"{section}.{kind_key}=")]
    owner = type(getattr(Config(), section))
    for field in dataclasses.fields(owner) if settings else ():
        if (owner.__name__, field.name) in reads[name] or field.name in (kind_key, "path"):
            continue
        value = other_value(field)
        with pytest.raises(ConfigError, match=rf"^{section}\.{field.name} is {value}, but"):
            parse_config("", [*settings, f"{section}.{field.name}={value}"])
