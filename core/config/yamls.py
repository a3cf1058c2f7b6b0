"""YAML that a person wrote: a mapping in which no key stands twice."""

from __future__ import annotations

from typing import Any

import yaml

from megacontext.traces.errors import ConfigError

__all__ = ["parse_mapping"]

_MERGE = "tag:yaml.org,2002:merge"


class _DuplicateKeyError(yaml.YAMLError):
    def __init__(self, key: str, line: int) -> None:
        super().__init__(key, line)
        self.key, self.line = key, line


class _Loader(yaml.SafeLoader):
    """YAML's own rule, which PyYAML does not keep: the keys of a mapping differ."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if (key.tag, key.value) in seen:
                    raise _DuplicateKeyError(key.value, key.start_mark.line + 1)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def parse_mapping(text: str, where: str) -> dict[str, Any]:
    """The mapping that ``text`` is; an empty text is an empty one.

    Args:
        where: what an error calls the text.

    Raises:
        ConfigError: no YAML, no mapping, or a key that stands twice in one section.
    """
    try:
        raw = yaml.load(text, _Loader)
    except _DuplicateKeyError as error:
        raise ConfigError(
            f"{where} has the key {error.key} twice in one section (again at line {error.line}); "
            "keep one."
        ) from error
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        position = "" if line is None else f" at line {line + 1}"
        raise ConfigError(f"{where} is not valid YAML{position}; check its indentation.") from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        kind = "a list" if isinstance(raw, list) else "one value"
        raise ConfigError(f"{where} holds {kind}; it must be a mapping of keys to values.")
    return raw
