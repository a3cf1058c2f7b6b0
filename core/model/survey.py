"""The list of architectures: what the parity check says of a tiny model of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import transformers

from megacontext.core.model.base import BaseModel
from megacontext.core.model.parity import check_parity
from megacontext.core.model.rotary import probe_rotary
from megacontext.core.model.tiny import (
    architectures,
    parameter_count,
    tiny_config,
    tiny_module,
)
from megacontext.traces.errors import ModelError

__all__ = ["Row", "as_markdown", "survey"]

Result = Literal["equal", "equal in exact only", "refused", "not checked"]

_W_MAX = 128  # above the reach of the tiny models' local layers
_MAX_PARAMETERS = 12_000_000
_HEADINGS: dict[Result, str] = {
    "equal": "Equal in `splice` and in `exact`",
    "equal in exact only": "Equal in `exact` only",
    "refused": "Refused",
    "not checked": "Not in the list",
}


@dataclass(frozen=True)
class Row:
    """One model type: its class, the result and the reason, empty where equal."""

    model_type: str
    model_class: str
    result: Result
    reason: str


def survey(
    names: Sequence[str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """Check a tiny random model of every decoder-only class, or of the model types ``names``.

    Args:
        progress: told (done, of how many).
    """
    chosen = list(names) if names is not None else architectures()
    rows = []
    for done, name in enumerate(chosen):
        progress(done, len(chosen))
        rows.append(_checked(name))
    progress(len(chosen), len(chosen))
    return rows


def _checked(name: str) -> Row:
    try:
        config = tiny_config(name)
        kind = _class_of(config)
        if _is_part_of_more(config):
            reason = "it is not decoder-only: it also reads images, sound or an encoder's output"
            return Row(name, kind, "not checked", reason)
        if parameter_count(config) > _MAX_PARAMETERS:
            return Row(name, kind, "not checked", "no small configuration of it is known")
        module = tiny_module(config)
    except Exception as error:  # sizes that do not go together: each class has its own error
        text = " ".join(str(error).split())
        return Row(name, "", "not checked", f"no small configuration of it is known ({text[:80]})")
    return _result(name, kind, module)


def _result(name: str, kind: str, module: Any) -> Row:
    try:
        base = BaseModel.from_module(module, name=name)
        verdict = check_parity(base, _W_MAX)
    except ModelError as error:
        return Row(name, kind, "refused", str(error))
    if verdict.refusal is not None:
        return Row(name, kind, "refused", verdict.refusal)
    reason = probe_rotary(base).reason or verdict.splice
    if reason is not None:
        return Row(name, kind, "equal in exact only", reason)
    return Row(name, kind, "equal", "")


def _class_of(config: Any) -> str:
    kind = transformers.AutoModelForCausalLM._model_mapping[type(config)]
    return str((kind[0] if isinstance(kind, tuple) else kind).__name__)


def _is_part_of_more(config: Any) -> bool:
    parts = [name for name in getattr(config, "sub_configs", {}) if name != "text_config"]
    wide = any(word in name for name in parts for word in ("vision", "audio", "patcher"))
    return bool(config.is_encoder_decoder or wide or hasattr(config, "cross_attention_layers"))


def as_markdown(rows: Sequence[Row]) -> str:
    """The rows as tables, one a result."""
    lines = []
    for result, heading in _HEADINGS.items():
        own = [row for row in rows if row.result == result]
        if not own:
            continue
        lines += [f"## {heading} ({len(own)})", ""]
        if result == "equal":
            lines += [", ".join(f"`{row.model_type}`" for row in own) + ".", ""]
            continue
        reasons: dict[str, list[str]] = {}
        for row in own:
            reasons.setdefault(row.reason, []).append(f"`{row.model_type}`")
        lines += ["| reason | model types |", "|---|---|"]
        lines += [
            f"| {reason.replace('|', '/')} | {', '.join(types)} |"
            for reason, types in reasons.items()
        ]
        lines.append("")
    return "\n".join(lines)
