"""The suite: recall, gold expansion, NLL, single gists and the health of one session, in one table.

Refocus overhead and cost by length of history are measured by ``megacontext bench decode``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megacontext.core.config import Config
from megacontext.core.config.sources import PythonSource
from megacontext.core.evaluation.kit import Kit
from megacontext.core.evaluation.making import MakeOptions, make_tasks
from megacontext.core.evaluation.nll import (
    NLL_CONTENDERS,
    NLLOptions,
    evaluate_nll,
    summarize_nll,
)
from megacontext.core.evaluation.recall import evaluate_recall, summarize_recall
from megacontext.core.evaluation.single import evaluate_single
from megacontext.core.evaluation.tables import Rows
from megacontext.core.evaluation.tasks import Text
from megacontext.core.runtime.run import run
from megacontext.core.runtime.session import Outcome
from megacontext.core.runtime.summary import summarize

__all__ = ["FULL", "QUICK", "Row", "SuiteOptions", "run_suite", "suite_table"]

Progress = Callable[[int, int, str], None]
_RECALL = ["ours", "recency", "random", "bm25", "gists", "oracle"]


@dataclass(frozen=True)
class SuiteOptions:
    """Sizes: tasks per length, lengths and budgets, windows per text, blocks of the session."""

    samples: int = 100
    times: tuple[int, ...] = (4, 16, 64)
    kinds: tuple[str, ...] = ()
    w_max: tuple[int, ...] = (512, 1024, 2048)
    pieces: int = 4
    session_times: int = 32


FULL = SuiteOptions()
QUICK = SuiteOptions(samples=20, w_max=(512, 1024), pieces=1, session_times=8)


@dataclass(frozen=True)
class Row:
    """One figure. ``met`` is None where there is no target."""

    measure: str
    cell: str
    contender: str
    value: float | None
    low: float | None
    high: float | None
    count: int
    target: str = ""
    met: bool | None = None


def run_suite(
    config: Config,
    haystacks: Sequence[Text],
    texts: Sequence[Text],
    options: SuiteOptions,
    progress: Progress = lambda done, total, what: None,
) -> list[Row]:
    """All rows; see the module.

    Args:
        haystacks: texts to hide facts in.
        texts: documents for NLL, with their domains.
    """
    kit = Kit.load(config)
    rows = _recall(kit, haystacks, options, progress)
    rows += _nll(kit, texts, options, progress)
    rows += _single(kit, texts, options, progress)
    return rows + _session(config, options, progress)


def _recall(
    kit: Kit, haystacks: Sequence[Text], options: SuiteOptions, progress: Progress
) -> list[Row]:
    made = MakeOptions(
        kit.config.w_max, options.times, options.samples, options.kinds, seed=kit.config.seed
    )
    backend = kit.base.tokenizer.hf.backend_tokenizer
    tasks = make_tasks(made, backend, haystacks, kit.config.block_size)
    results = evaluate_recall(
        kit, tasks, _RECALL, progress=lambda done, total: progress(done, total, "recall")
    )
    rows: list[Row] = []
    for name, own in summarize_recall(results).items():
        for times, cell in own["by_times"].items():
            where = f"{times}× W_max"
            rows.append(_share("recall", where, name, cell, "accuracy", "interval"))
            if cell["gold_expanded"] is not None:
                rows.append(
                    _share("gold expanded", where, name, cell, "gold_expanded", "gold_interval")
                )
            if cell["refocuses"] is not None:
                took = cell["refocuses"]
                row = Row("refocuses until expanded", where, name, took, None, None, cell["count"])
                rows.append(_judged(row, "<= 2", took <= 2))
        for kind, cell in own["by_kind"].items():
            rows.append(_share("recall", kind, name, cell, "accuracy", "interval", judged=False))
    return rows


def _share(
    measure: str,
    where: str,
    name: str,
    cell: Mapping[str, Any],
    value: str,
    interval: str,
    judged: bool = True,
) -> Row:
    low, high = cell[interval]
    row = Row(measure, where, name, cell[value], low, high, cell["count"])
    bars = {"16× W_max": 0.95, "64× W_max": 0.90} if measure == "recall" else {}
    bar = bars.get(where) if measure == "recall" else 0.95
    if not judged or bar is None:
        return row
    return _judged(row, f">= {bar:.0%}", cell[value] >= bar)


def _judged(row: Row, target: str, met: bool) -> Row:
    """Targets are ours alone."""
    return replace(row, target=target, met=met) if row.contender == "ours" else row


def _nll(kit: Kit, texts: Sequence[Text], options: SuiteOptions, progress: Progress) -> list[Row]:
    fits = tuple(w for w in options.w_max if w < kit.base.window - 64)
    budgets = fits or (kit.config.w_max,)
    pieces = evaluate_nll(
        kit,
        texts,
        NLL_CONTENDERS,
        NLLOptions(budgets, pieces=options.pieces),
        progress=lambda done, total: progress(done, total, "NLL"),
    )
    rows: list[Row] = []
    for name, own in summarize_nll(pieces, kit.config.seed).items():
        for w_max, cell in own["by_w_max"].items():
            for domain, figures in cell.get("by_domain", {"all": cell}).items():
                rows += _nll_rows(f"{domain}, W_max {w_max}", name, figures, kit, int(w_max))
    return rows


def _nll_rows(where: str, name: str, figures: Mapping[str, Any], kit: Kit, w_max: int) -> list[Row]:
    delta, count = figures["delta_nll"], figures["count"]
    low, high = figures["interval"] or (None, None)
    row = Row("ΔNLL@64", where, name, delta, low, high, count)
    if kit.base.window >= 4 * w_max:  # the target is for compression 4x to 16x
        row = _judged(row, "<= 0.10", delta <= 0.10)
    p95 = Row("ΔNLL@64 p95", where, name, figures["delta_nll_p95"], None, None, count)
    rows = [row, p95]
    gain = figures["recovered_gain"]
    if gain is not None and name != "delete":
        low, high = figures["recovered_gain_interval"] or (None, None)
        row = Row("recovered gain", where, name, gain, low, high, count)
        rows.append(_judged(row, ">= 0.6", gain >= 0.6) if where.startswith("code") else row)
    return rows


def _single(
    kit: Kit, texts: Sequence[Text], options: SuiteOptions, progress: Progress
) -> list[Row]:
    pieces = evaluate_single(
        kit,
        texts,
        4 * options.pieces,
        progress=lambda done, total: progress(done, total, "single gists"),
    )
    if not pieces:
        return []
    figures = summarize_nll(pieces, kit.config.seed)
    rows = []
    for name, own in figures.items():
        low, high = own["interval"] or (None, None)
        row = Row("ΔNLL@64, one block", "all", name, own["delta_nll"], low, high, own["count"])
        if name == "gist":
            bar = figures["delete"]["delta_nll"] / 2
            row = replace(row, target="<= half of delete", met=own["delta_nll"] <= bar)
        rows.append(row)
    return rows


def _session(config: Config, options: SuiteOptions, progress: Progress) -> list[Row]:
    """Health of a session over library code."""
    tokens = options.session_times * config.w_max
    source = PythonSource(max_tokens=tokens, decode_tokens=64)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "suite.arrow"
        result = run(
            replace(config, source=source, tree=replace(config.tree, storage="ram", path=None)),
            trace,
            control=False,
            read_stdin=False,
            progress=lambda read: progress(min(read, tokens), tokens, "session"),
        )
        outcome: Outcome = result.outcome
        summary = summarize(trace, outcome, result.seconds)
    metrics, where = summary.metrics, f"{tokens:,} tokens"
    count = metrics["refocuses"]
    swap, residency, bad = metrics["swap_rate"], metrics["residency"], summary.violations
    rows = [
        Row("swap rate", where, "ours", swap, None, None, count, "0.05 to 0.20"),
        Row("residency", where, "ours", residency, None, None, count, ">= 90%"),
        Row("budget violations", where, "ours", float(bad), None, None, count, "0", bad == 0),
    ]
    if swap is not None and residency is not None:
        rows[0] = replace(rows[0], met=0.05 <= swap <= 0.20)
        rows[1] = replace(rows[1], met=residency >= 0.9)
    return rows


def suite_table(rows: Sequence[Row]) -> Rows:
    """The rows as texts."""
    return [
        {
            "measure": row.measure,
            "cell": row.cell,
            "contender": row.contender,
            "value": "–" if row.value is None else f"{row.value:.3f}",
            "95 % interval": "–" if row.low is None else f"{row.low:.3f} to {row.high:.3f}",
            "n": str(row.count),
            "target": row.target,
            "": {True: "met", False: "missed", None: ""}[row.met],
        }
        for row in rows
    ]
