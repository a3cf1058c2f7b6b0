"""Whether a long session stays healthy: swap rate, residency, violations of the budget."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from megacontext.core.config import Config
from megacontext.core.config.sources import PythonSource
from megacontext.core.runtime.run import run
from megacontext.core.runtime.summary import summarize

__all__ = ["Health", "measure_session"]

_DECODED_TOKENS = 64


@dataclass(frozen=True)
class Health:
    """Metrics of one session; None for what it did not measure."""

    tokens: int
    refocuses: int
    swap_rate: float | None
    residency: float | None
    violations: int


def measure_session(config: Config, tokens: int) -> Health:
    """Run a session over ``tokens`` tokens of library code and read its metrics from the trace."""
    source = PythonSource(max_tokens=tokens, decode_tokens=_DECODED_TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "suite.arrow"
        result = run(replace(config, source=source), trace, control=False, read_stdin=False)
        summary = summarize(trace, result.outcome, result.seconds)
    metrics = summary.metrics
    return Health(
        tokens,
        metrics["refocuses"],
        metrics["swap_rate"],
        metrics["residency"],
        summary.violations,
    )
