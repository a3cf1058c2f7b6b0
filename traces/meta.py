"""What a trace says about its run: the ``mc.*`` metadata of its schema, typed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from megacontext.traces.errors import TraceError, printable
from megacontext.traces.schema import VERSION

__all__ = ["SCORE_MODES", "TraceMeta"]

SCORE_MODES = ("f16", "u8", "topk", "none")
_TEXT = ("config", "model", "tokenizer", "created", "git")
_NUMBERS = ("block_size", "w_max", "levels", "seed")
_KNOWN = {f"mc.{key}" for key in (*_TEXT, *_NUMBERS, "scores", "enums", "trace.version")}


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceMeta:
    """Metadata of one trace. ``created`` is ISO 8601; ``config`` is the resolved YAML."""

    block_size: int
    w_max: int
    levels: int
    seed: int = 0
    config: str = ""
    model: str = ""
    tokenizer: str = ""
    created: str = ""
    git: str = ""
    version: str = VERSION
    scores: str = "f16"
    enums: dict[str, dict[str, int]] = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, str]:
        """The ``mc.*`` pairs for :class:`TraceWriter`, which adds version, enums and scores."""
        fields = {
            "mc.block_size": str(self.block_size),
            "mc.w_max": str(self.w_max),
            "mc.levels": str(self.levels),
            "mc.seed": str(self.seed),
            "mc.config": self.config,
            "mc.model": self.model,
            "mc.tokenizer": self.tokenizer,
            "mc.created": self.created,
            "mc.git": self.git,
        }
        return fields | self.extra

    @classmethod
    def from_metadata(cls, raw: dict[str, str], name: str) -> TraceMeta:
        """Parse the metadata of the trace called ``name`` in messages.

        Raises:
            TraceError: no trace, a newer major version, or a value that is not a number.
        """
        version = raw.get("mc.trace.version")
        if version is None:
            raise TraceError(
                f"{name} is an Arrow file but no MegaContext trace: it has no mc.trace.version."
            )

        # Only the major number says whether this reader can read it.
        major = version.split(".")[0]
        if not major.isdigit() or int(major) > int(VERSION):
            raise TraceError(
                f"{name} has trace version {printable(version)}, newer than this reader's "
                f"{VERSION}; update megacontext."
            )

        # Free text may be missing; the numbers may not, except the seed.
        text = {key: raw.get(f"mc.{key}", "") for key in _TEXT}
        return cls(
            block_size=_number(raw, "block_size", name),
            w_max=_number(raw, "w_max", name),
            levels=_number(raw, "levels", name),
            seed=_number(raw, "seed", name, default=0),
            config=text["config"],
            model=text["model"],
            tokenizer=text["tokenizer"],
            created=text["created"],
            git=text["git"],
            version=version,
            scores=raw.get("mc.scores", "f16"),
            enums=_enums(raw.get("mc.enums", "{}"), name),
            extra={key: value for key, value in raw.items() if key not in _KNOWN},
        )


def _number(raw: dict[str, str], key: str, name: str, default: int | None = None) -> int:
    text = raw.get(f"mc.{key}")
    if text is None and default is not None:
        return default
    try:
        value = int(text or "")
    except ValueError:
        raise TraceError(f"{name} has mc.{key} = {text!r}, which is not a number.") from None
    if value < 0 or (key == "block_size" and value < 2):
        raise TraceError(f"{name} has mc.{key} = {value}, which is out of range.")
    return value


def _enums(text: str, name: str) -> dict[str, dict[str, int]]:
    try:
        parsed = json.loads(text)
        return {
            str(enum): {str(label): int(code) for label, code in table.items()}
            for enum, table in parsed.items()
        }
    except (ValueError, AttributeError, TypeError):
        raise TraceError(f"{name} has an mc.enums that is not the JSON of its enums.") from None
