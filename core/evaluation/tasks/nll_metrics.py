"""Metrics of NLL pieces: by contender, budget, domain and document, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from megacontext.core.evaluation.tasks.intervals import Interval, bootstrap
from megacontext.core.evaluation.tasks.nll import Piece

__all__ = [
    "NLLGroup",
    "NLLMetrics",
    "NLLSummary",
    "PairedDifference",
    "paired_difference",
    "summarize_nll",
]

OURS, DELETE = "ours", "delete"


@dataclass(frozen=True)
class NLLMetrics:
    """One contender on some pieces, in nats per token.

    Attributes:
        delta_nll: mean over documents of NLL minus that of the full history.
        delta_nll_p95: its 95th percentile over pieces.
        recovered_gain: fraction of the cost of dropping distant history that is recovered. None
            without the contender ``delete``, or if the interval of that cost reaches 0.
        behind_ours: mean difference from ``ours`` over the same documents. Its interval is
            narrower than the difference of two separate intervals.
        nll, nll_full: means over documents.
        count, documents: how many pieces and documents.
    """

    delta_nll: float
    interval: Interval | None
    delta_nll_p95: float
    recovered_gain: float | None
    recovered_gain_interval: Interval | None
    behind_ours: float | None
    behind_ours_interval: Interval | None
    nll: float
    nll_full: float
    count: int
    documents: int


@dataclass(frozen=True)
class NLLGroup:
    """One contender at one budget: all pieces, each domain, and ΔNLL of each document."""

    overall: NLLMetrics
    by_domain: dict[str, NLLMetrics]
    by_document: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """The keys of ``eval nll --json``."""
        record = asdict(self.overall)
        if self.by_domain:
            record["by_domain"] = {name: asdict(m) for name, m in self.by_domain.items()}
        return record | {"by_document": self.by_document}


@dataclass(frozen=True)
class NLLSummary:
    """One contender at every budget, in the order of the pieces."""

    by_w_max: dict[int, NLLGroup]

    @property
    def first(self) -> NLLGroup:
        """At the first budget."""
        return next(iter(self.by_w_max.values()))

    def to_json(self) -> dict[str, Any]:
        """The keys of ``eval nll --json``: the first budget's, and all in ``by_w_max``."""
        budgets = {str(w_max): group.to_json() for w_max, group in self.by_w_max.items()}
        return self.first.to_json() | {"w_max": next(iter(self.by_w_max)), "by_w_max": budgets}


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of NLL over the same documents, with its interval, in nats per token."""

    value: float
    interval: Interval | None
    count: int


def summarize_nll(pieces: Sequence[Piece], seed: int) -> dict[str, NLLSummary]:
    """Metrics by contender, in order of appearance.

    Args:
        seed: of the bootstrap.
    """
    budgets: dict[int, list[Piece]] = {}
    for piece in pieces:
        budgets.setdefault(piece.w_max, []).append(piece)
    names = dict.fromkeys(name for piece in pieces for name in piece.nll)
    return {
        name: NLLSummary(
            {w_max: _group(at_budget, name, seed) for w_max, at_budget in budgets.items()}
        )
        for name in names
    }


def paired_difference(
    pieces: Sequence[Piece], reference: Sequence[Piece], name: str, seed: int
) -> PairedDifference | None:
    """NLL of contender ``name`` in ``pieces`` minus that in ``reference``, over common pieces.

    Returns None if no piece is in both.
    """
    known = {(p.document, p.start, p.w_max): p.nll[name] for p in reference}
    common = [p for p in pieces if (p.document, p.start, p.w_max) in known]
    if not common:
        return None
    ours = _by_document(common, lambda p: p.nll[name])
    other = _by_document(common, lambda p: known[p.document, p.start, p.w_max])
    return PairedDifference(*_difference(ours, other, seed), len(common))


def _group(parts: Sequence[Piece], name: str, seed: int) -> NLLGroup:
    domains = sorted({piece.domain for piece in parts if piece.domain})
    delta = {p.document: 0.0 for p in parts}
    for document in delta:
        of_document = [p for p in parts if p.document == document]
        delta[document] = float(np.mean([p.nll[name] - p.full for p in of_document]))
    return NLLGroup(
        _metrics(parts, name, seed),
        {d: _metrics([p for p in parts if p.domain == d], name, seed) for d in domains},
        delta,
    )


def _by_document(parts: Sequence[Piece], nll_of: Callable[[Piece], float]) -> np.ndarray:
    """F64[documents]: means of the pieces of each document."""
    documents: dict[str, list[float]] = {}
    for piece in parts:
        documents.setdefault(piece.document, []).append(nll_of(piece))
    return np.array([np.mean(values) for values in documents.values()])


def _difference(
    values: np.ndarray, reference: np.ndarray, seed: int
) -> tuple[float, Interval | None]:
    """Mean of F64[documents] minus a reference, with its interval."""

    def mean(choice: np.ndarray) -> float:
        return float((values[choice] - reference[choice]).mean())

    return mean(np.arange(len(values))), bootstrap(mean, len(values), seed, "behind")


def _metrics(parts: Sequence[Piece], name: str, seed: int) -> NLLMetrics:
    nll = _by_document(parts, lambda p: p.nll[name])
    full = _by_document(parts, lambda p: p.full)
    removed = _by_document(parts, lambda p: p.nll.get(DELETE, np.nan))
    ours = _by_document(parts, lambda p: p.nll.get(OURS, np.nan))
    documents = len(nll)

    def gain(choice: np.ndarray) -> float:
        cost = float(removed[choice].mean() - full[choice].mean())
        return float(removed[choice].mean() - nll[choice].mean()) / cost if cost > 0 else np.nan

    def delta(choice: np.ndarray) -> float:
        return float((nll[choice] - full[choice]).mean())

    def cost(choice: np.ndarray) -> float:
        return float((removed[choice] - full[choice]).mean())

    # A fraction of a cost that may be nothing has no meaning.
    every = np.arange(documents)
    recovered = gain(every)
    cost_interval = bootstrap(cost, documents, seed, "cost")
    has_gain = not np.isnan(recovered) and (cost_interval is None or cost_interval[0] > 0)

    compared = name != OURS and not np.isnan(ours).any()
    behind, behind_interval = _difference(nll, ours, seed) if compared else (None, None)
    return NLLMetrics(
        delta_nll=delta(every),
        interval=bootstrap(delta, documents, seed, "delta"),
        delta_nll_p95=float(np.quantile([p.nll[name] - p.full for p in parts], 0.95)),
        recovered_gain=recovered if has_gain else None,
        recovered_gain_interval=bootstrap(gain, documents, seed, "gain") if has_gain else None,
        behind_ours=behind,
        behind_ours_interval=behind_interval,
        nll=float(nll.mean()),
        nll_full=float(full.mean()),
        count=len(parts),
        documents=documents,
    )
