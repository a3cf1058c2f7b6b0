"""Small shared pieces of drawing: number formats, sparklines, bars, plain words for reasons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from megacontext.traces.schema import KVMode, Phase, Reason, Trigger
from megacontext.tui.palette import Role

__all__ = [
    "KIND_ROLE",
    "KIND_SIGN",
    "KV_WORDS",
    "PHASE_WORDS",
    "REASON_WORDS",
    "SHADES",
    "SHADE_FROM",
    "TRIGGER_WORDS",
    "compact",
    "micros",
    "shade_glyphs",
    "signed",
    "spark",
]

LEVELS = "▁▂▃▄▅▆▇█"
LOW_LEVELS = LEVELS[:-1]
"""Without the full block: lines of bars below each other stay apart."""

KIND_SIGN = {0: "+", 1: "−"}
KIND_ROLE = {0: int(Role.EXPAND), 1: int(Role.COLLAPSE)}

REASON_WORDS: dict[int, str] = {
    Reason.SCORE: "score",
    Reason.PAIR: "swap",
    Reason.HEADROOM: "headroom",
    Reason.BUDGET_CUT: "budget cut",
    Reason.FORCED_OVERRIDE: "override",
    Reason.SAMPLED: "sampled",
    Reason.COMPETITION: "competed",
    Reason.OPTIMUM: "optimum",
    Reason.POLICY: "policy",
    Reason.BUDGET: "budget",
    Reason.COOLDOWN: "cooldown",
    Reason.N_DIFF: "n_diff",
    Reason.PROTECTED: "protected",
    Reason.ILLEGAL: "illegal",
    Reason.NOT_REARMED: "not re-armed",
    Reason.GAIN: "no gain",
}
PHASE_WORDS: dict[int, str] = {phase: phase.name.lower() for phase in Phase}
TRIGGER_WORDS: dict[int, str] = {t: t.name.lower().replace("_", " ") for t in Trigger}
KV_WORDS: dict[int, str] = {mode: mode.name.lower() for mode in KVMode}


SHADES = np.array([ord(c) for c in " ░▒▓█"], np.int64)
SHADE_FROM = (0.55, 0.65, 0.78, 0.88)


def shade_glyphs(
    scores: np.ndarray[Any, Any], low: float = -1.0, high: float = 1.0
) -> np.ndarray[Any, Any]:
    """A glyph per score for terminals with few colours: the denser, the higher."""
    fraction = (np.nan_to_num(scores) - low) / max(high - low, 1e-9)
    glyphs: np.ndarray[Any, Any] = SHADES[np.digitize(fraction, SHADE_FROM)]
    return glyphs


def compact(number: float) -> str:
    """A count in at most five characters: 950, 12.3k, 582k, 1.05M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            value = number / size
            digits = 2 if value < 10 else 1 if value < 100 else 0
            return (
                f"{value:.{digits}f}".rstrip("0").rstrip(".") + unit
                if digits
                else f"{value:.0f}{unit}"
            )
    return f"{number:.0f}"


def signed(score: float, digits: int = 2) -> str:
    """A score in [-1, 1] as ``+.82`` / ``−.41``; NaN says so."""
    if math.isnan(score):
        return " nan"
    body = f"{abs(score):.{digits}f}"
    if not float(body):
        return body
    return ("−" if score < 0 else "+") + (body[1:] if body.startswith("0") else body[:-1])


def micros(us: float) -> str:
    """A time in at most five characters: 940µs, 12ms, 1.2s."""
    if not us > 0:
        return "0"
    if us < 1e3:
        return f"{us:.0f}µs"
    return f"{us / 1e3:.3g}ms" if us < 1e6 else f"{us / 1e6:.3g}s"


def spark(
    values: Sequence[float] | np.ndarray[Any, Any], width: int, high: float | None = None
) -> str:
    """The last ``width`` values as bars from 0 to their highest, or to ``high``; NaN is a blank."""
    shown = np.asarray(values, np.float64)[-width:] if width > 0 else np.empty(0)
    known = shown[np.isfinite(shown)]
    if not len(known):
        return " " * len(shown)
    low = min(float(known.min()), 0.0)
    top = max(float(known.max()), low) if high is None else high
    steps = (shown - low) / max(top - low, 1e-12) * (len(LOW_LEVELS) - 1)
    steps = np.clip(steps, 0, len(LOW_LEVELS) - 1) if top > low else shown * 0.0
    return "".join(LOW_LEVELS[round(float(s))] if math.isfinite(s) else " " for s in steps)
