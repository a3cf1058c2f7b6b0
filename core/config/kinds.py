"""Which keys belong to which kind: one that the chosen kind does not read is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from megacontext.core.config.schema import Config
from megacontext.traces.errors import ConfigError

__all__ = ["KEYS_OF_KINDS", "KindKey", "check_kinds", "unread_keys"]


@dataclass(frozen=True)
class KindKey:
    """A key that only some kinds of its section read.

    Attributes:
        key: of the section.
        kinds: those that read it.
        off: a value that says that it is not used, legal with every kind.
    """

    key: str
    kinds: tuple[str, ...]
    off: Any = None


_SPLICE = ("splice",)

KEYS_OF_KINDS: dict[tuple[str, str], tuple[KindKey, ...]] = {
    ("tree", "storage"): (KindKey("path", ("disk",)), KindKey("commit_blocks", ("disk",))),
    ("gist", "kind"): (KindKey("products", ("auto", "gistnet")),),
    ("lens", "kind"): (
        KindKey("query_tokens", ("auto", "similarity", "bm25", "attention")),
        KindKey("margin", ("auto", "heads")),
        KindKey("newest", ("auto", "heads")),
        KindKey("hops", ("auto", "heads")),
    ),
    ("allocator", "kind"): (
        KindKey("temperature", ("stochastic_greedy", "slot")),
        KindKey("top_k", ("stochastic_greedy",)),
    ),
    ("kv", "mode"): (
        KindKey("drift_every", _SPLICE, off=0),
        KindKey("drift_bound", _SPLICE),
        KindKey("refresh_every", _SPLICE, off=0),
        KindKey("refresh_chunk", _SPLICE),
    ),
}
"""By section and the key that names its kind."""


def check_kinds(config: Config) -> None:
    """Refuse a value that nothing reads.

    Raises:
        ConfigError: a key is set that belongs to another kind than the chosen one.
    """
    for sentence in unread_keys(config):
        raise ConfigError(sentence)


def unread_keys(config: Config) -> Iterator[str]:
    """A sentence for each key that is set, but that the chosen kind does not read."""
    for (name, kind_key), keys in KEYS_OF_KINDS.items():
        section = getattr(config, name)
        kind, defaults = getattr(section, kind_key), {f.name: f.default for f in fields(section)}
        for key in keys:
            value = getattr(section, key.key)
            if kind not in key.kinds and value != defaults[key.key] and value != key.off:
                yield (
                    f"{name}.{key.key} is {value}, but {name}.{kind_key} {kind} does not read it; "
                    f"leave it out or set {name}.{kind_key} to {' or '.join(key.kinds)}."
                )
