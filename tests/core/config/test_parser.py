"""One parser for every config file: what it accepts, and what it says of the rest."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from megacontext.core.batch import plan as batch_plan
from megacontext.core.config import Config, build, parse_config
from megacontext.core.config.fields import value_spec
from megacontext.core.config.parser import Count, apply_overrides, read_mapping
from megacontext.core.evaluation.runner.ablations import PlanFile
from megacontext.core.training.base.task import BaseConfig
from megacontext.core.training.gistnet.task import GistNetTraining
from megacontext.core.training.index_keys.task import KeyTraining
from megacontext.core.training.joint.config import JointTraining
from megacontext.core.training.lensnet.config import LensNetTraining
from megacontext.core.training.lora.task import LoraTraining
from megacontext.simulator.config import WorldConfig
from megacontext.traces.errors import ConfigError

ROOTS = (
    Config,
    BaseConfig,
    GistNetTraining,
    KeyTraining,
    LensNetTraining,
    LoraTraining,
    JointTraining,
    batch_plan.BatchFile,
    PlanFile,
    WorldConfig,
)
"""What the files of runs, trainers, batches, ablations and worlds are parsed into."""


def sections(hint: Any) -> Iterator[type]:
    """Every dataclass that a type hint leads to."""
    if dataclasses.is_dataclass(hint):
        yield typing.cast(type, hint)
        for below in typing.get_type_hints(hint, include_extras=True).values():
            yield from sections(below)
    for argument in typing.get_args(hint):
        if not isinstance(argument, str):
            yield from sections(argument)


def choices() -> Iterator[tuple[type, str, str]]:
    """(section, key, choice) of every key that names one of several words."""
    for section in {s for root in ROOTS for s in sections(root)}:
        hints = typing.get_type_hints(section)
        for field in dataclasses.fields(section):
            words: tuple[str, ...] = value_spec(field).choices or ()
            members = typing.get_args(hints[field.name])
            for hint in (hints[field.name], *members):
                if typing.get_origin(hint) is Literal:
                    words = (*words, *typing.get_args(hint))
            yield from ((section, field.name, word) for word in words if isinstance(word, str))


CHOICES = sorted(set(choices()), key=lambda case: (case[0].__name__, *case[1:]))


def test_there_are_choices_that_yaml_reads_as_yes_or_no() -> None:
    assert {word for _, _, word in CHOICES if yaml.safe_load(word) != word} == {"on", "off"}


@dataclasses.dataclass(frozen=True)
class Item:
    size: Count
    name: str = "a"


@dataclasses.dataclass(frozen=True)
class Sample:
    items: tuple[Item, ...] = ()
    mode: Literal["on", "off", "auto"] = "auto"
    counts: tuple[Count, ...] = (1,)
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    limit: float | None = None
    workers: int = 0


@pytest.mark.parametrize(("section", "key", "word"), CHOICES)
def test_every_choice_may_be_written_without_quotes(section: type, key: str, word: str) -> None:
    hint = typing.get_type_hints(section, include_extras=True)[key]
    (field,) = [f for f in dataclasses.fields(section) if f.name == key]
    one = dataclasses.make_dataclass(
        "One", [(key, hint, dataclasses.field(default=None, metadata=field.metadata))]
    )
    assert getattr(build(one, {key: yaml.safe_load(word)}), key) == word


@pytest.mark.parametrize("value", ["off", "on"])
def test_a_run_takes_off_and_on_from_a_file_and_from_set(value: str) -> None:
    assert parse_config(f"model:\n  chat: {value}\n").model.chat == value
    assert parse_config("", [f"model.chat={value}"]).model.chat == value


def test_a_yes_no_value_is_still_refused_where_no_choice_is_that_word() -> None:
    with pytest.raises(ConfigError, match=r"lens\.kind is True \(a yes/no value\)"):
        parse_config("", ["lens.kind=on"])


def test_a_mapping_is_built_all_the_way_down() -> None:
    raw = {"items": [{"size": 2}], "counts": [3, 4], "weights": {"x": 1}, "limit": 2}
    assert build(Sample, raw) == Sample((Item(2),), "auto", (3, 4), {"x": 1.0}, 2.0)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"itens": []}, r"Unknown key itens \(value \[\]\); did you mean items\?"),
        ({"items": [{}]}, r"items\.0\.size is missing"),
        ({"items": [{"size": 0}]}, r"items\.0\.size is 0; it must be a value of at least 1"),
        ({"items": 3}, r"items is a whole number; it must be a list"),
        ({"counts": []}, r"counts is an empty list"),
        ({"counts": [True]}, r"counts\.0 is True \(a yes/no value\); it must be a whole number"),
        ({"weights": {"x": "y"}}, r"weights\.x is 'y' \(a text\); it must be a number"),
        ({"weights": []}, r"weights is a list; it must be a mapping of names"),
        ({"limit": float("nan")}, r"limit is nan; it must be a value of at least 0"),
        ({"workers": -1}, r"workers is -1; it must be a value of at least 0"),
        ({"mode": "maybe"}, r"mode is 'maybe'; it must be one of on, off, auto"),
        ([], r"config is a list; it must be a section with keys"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(raw: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Sample, raw)


def test_settings_reach_sections_lists_and_empty_places() -> None:
    raw: dict[str, Any] = {"items": [{"size": 1}, {"size": 2}], "counts": [1], "empty": None}
    settings = ["items.1.size=5", "counts.0=7", "new.deep=[1, 2]", "empty.x=1"]
    assert apply_overrides(raw, settings) == {
        "items": [{"size": 1}, {"size": 5}],
        "counts": [7],
        "new": {"deep": [1, 2]},
        "empty": {"x": 1},
    }


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("counts", r"--set 'counts' has no '='"),
        ("=3", r"--set '=3' has no '='"),
        ("counts=[1", r"--set counts: '\[1' is not a YAML value"),
        ("counts.4=1", r"--set counts\.4: the list has no item 4; use a number from 0 to 0"),
        ("counts.x=1", r"--set counts\.x: the list has no item x"),
        ("counts.0.x=1", r"--set counts\.0\.x: 0 is not a section"),
    ],
)
def test_a_setting_without_a_place_is_refused(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_overrides({"counts": [1]}, [setting])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path, message in (
        (tmp_path / "none.yaml", "does not exist"),
        (tmp_path, "is a folder"),
        (tmp_path / "binary", "is not UTF-8 text"),
    ):
        with pytest.raises(ConfigError, match=f"Plan .*{message}"):
            read_mapping(path, "Plan")


def test_no_other_module_turns_plain_data_into_config_dataclasses() -> None:
    """``get_type_hints`` is how a parser reads field types; the reference only prints them."""
    core = Path(batch_plan.__file__).parents[1]
    folders = [core, core.parent / "simulator"]
    users = {
        path.relative_to(core.parent).as_posix()
        for folder in folders
        for path in folder.rglob("*.py")
        if "get_type_hints" in path.read_text()
    }
    assert users == {"core/config/parser.py", "core/config/reference.py"}
