"""The config reference, made from the schema: every key with type, default, legal values, help."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from megacontext.core.config.fields import value_spec
from megacontext.core.config.schema import Config
from megacontext.traces.errors import ConfigError

__all__ = ["Entry", "entries", "explain", "reference"]

_TYPES = {int: "whole number", float: "number", bool: "true or false", str: "text"}
_INTRO = """# Config reference

One YAML file is one run. Every key has a default, so a file holds only what differs; `--set
key.path=value` overrides a key, and `megacontext configs explain KEY` prints its entry. An unknown
key, a wrong type or an illegal value is refused with the key, the value and the legal range.

This page is made from the schema by `megacontext configs explain --all`.
"""


@dataclass(frozen=True)
class Entry:
    """One key, or a section of keys.

    Attributes:
        path: as ``--set`` takes it; a kind of section stands in brackets: ``source[text].path``.
        type: in words; empty for a section.
        default: as YAML; empty for a section.
        legal: the legal values in words; empty where the type says it all.
        help: one line.
    """

    path: str
    type: str
    default: str
    legal: str
    help: str

    @property
    def plain(self) -> str:
        """The path without the kinds in brackets, as it is typed."""
        return "".join(part.split("]")[-1] for part in self.path.split("["))


def entries(kind: type = Config, path: str = "") -> Iterator[Entry]:
    """Every section and key of a config dataclass, in the order of the schema."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name = f"{path}.{field.name}" if path else field.name
        sections = _sections(hints[field.name])

        # One section, a section of several kinds, or a plain key.
        if len(sections) == 1 and dataclasses.is_dataclass(hints[field.name]):
            yield Entry(name, "", "", "", _summary(sections[0]))
            yield from entries(sections[0], name)
        elif sections:
            kinds = ", ".join(s.__dataclass_fields__["kind"].default for s in sections)
            about = value_spec(field).help or f"a section whose `kind` is one of {kinds}"
            yield Entry(name, "", "", "", about)
            for section in sections:
                with_kind = f"{name}[{section.__dataclass_fields__['kind'].default}]"
                yield Entry(with_kind, "", "", "", _summary(section))
                yield from entries(section, with_kind)
        elif field.name != "kind" or typing.get_origin(hints["kind"]) is not typing.Literal:
            legal = value_spec(field)
            words = legal.describe()
            yield Entry(
                name,
                _type_name(hints[field.name]),
                _yaml(_default(field)),
                "" if words == "a value" else words,
                legal.help,
            )


def explain(key: str) -> list[Entry]:
    """The entries of a key, or of a section and everything in it.

    Raises:
        ConfigError: no such key; the sentence names the nearest ones.
    """
    known = list(entries())
    matches = [e for e in known if e.plain == key or e.path == key]
    sections = [e for e in matches if not e.type]
    for section in sections:
        within = (f"{section.path}.", f"{section.path}[")
        matches += [e for e in known if e.path.startswith(within) and e not in matches]
    if not matches:
        # A last name alone will do where it is in only one place.
        matches = [e for e in known if e.plain.rpartition(".")[2] == key]
    if not matches:
        paths = sorted({e.plain for e in known})
        close = difflib.get_close_matches(key, paths, n=3) or paths[:0]
        hint = f"did you mean {', '.join(close)}?" if close else "`configs explain` lists all keys."
        raise ConfigError(f"{key!r} is no key of a config; {hint}")
    return matches


def reference() -> str:
    """The whole reference as a Markdown page."""
    lines = [_INTRO, "## Keys of the top level", ""]
    table_open = False
    for entry in entries():
        if not entry.type:
            lines += ["", f"## {entry.path}", "", entry.help, ""]
            table_open = False
            continue
        if not table_open:
            lines += ["| key | type | default | legal | what |", "|---|---|---|---|---|"]
            table_open = True
        cells = (f"`{entry.plain}`", entry.type, f"`{entry.default}`", entry.legal, entry.help)
        lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines) + "\n"


def _sections(hint: Any) -> list[Any]:
    """The dataclasses that a key's value may be: one, the kinds of a union, those in a list."""
    if typing.get_origin(hint) is list:
        return _sections(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return [m for m in typing.get_args(hint) if dataclasses.is_dataclass(m)]
    return [hint] if dataclasses.is_dataclass(hint) else []


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is list:
        return "list of " + _type_name(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        members = [m for m in typing.get_args(hint) if m is not type(None)]
        return f"{_type_name(members[0])} or none"
    return _TYPES[str if typing.get_origin(hint) is typing.Literal else hint]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _yaml(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value) if not value or "\n" in value else value
    return str(value)


def _summary(kind: type) -> str:
    return " ".join((kind.__doc__ or "").partition("\n\n")[0].split())
