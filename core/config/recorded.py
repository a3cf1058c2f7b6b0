"""What held before a key existed: configs that an older version recorded lack it.

A recorded config is complete for the version that wrote it. Today's default for a key that came
later would decide its rows another way than they were, so each such key has the value here that
acts as the version before it did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["as_recorded", "focus_as_recorded", "lens_as_overridden"]


def as_recorded(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded config with the keys that are younger than it."""
    return dict(raw) | {
        "focus": focus_as_recorded(raw.get("focus", {})),
        "model": _model_as_recorded(raw.get("model", {})),
        "alarms": raw.get("alarms", {"enabled": False}),
    }


def _model_as_recorded(raw: object) -> object:
    if not isinstance(raw, Mapping):
        return raw
    return {"chat": "off", "bos": "off", "special_tokens": True} | dict(raw)


def focus_as_recorded(raw: object) -> object:
    """The same for a ``focus`` section alone, as a ``knobs`` column holds it."""
    question = raw.get("question", {}) if isinstance(raw, Mapping) else None
    if not isinstance(raw, Mapping) or not isinstance(question, Mapping):
        return raw  # no section: refused where it is built
    return dict(raw) | {"question": {"reopen": False} | dict(question)}


def lens_as_overridden(raw: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A recorded config whose gists were overridden and whose lens was not.

    A trace names the kinds that ``auto`` came to. A bundled LensNet reads the keys of its own
    GistNet alone, so with other gists the lens is chosen anew.
    """
    keys = [setting.partition("=")[0] for setting in overrides]
    lens, gist = raw.get("lens"), raw.get("gist")
    changed = any(key in ("gist.kind", "gist.path", "model.path") for key in keys)
    if not changed or any(key.startswith("lens.") for key in keys):
        return raw
    if not isinstance(lens, Mapping) or not isinstance(gist, Mapping):
        return raw
    if lens.get("kind") == "lensnet" and not lens.get("path"):
        raw = raw | {"lens": dict(lens) | {"kind": "auto"}}
    bundled_gists = gist.get("kind") == "gistnet" and not gist.get("path")
    if bundled_gists and "gist.kind" not in keys:
        raw = raw | {"gist": dict(gist) | {"kind": "auto"}}
    return raw
