"""Whether a working context gives a model's own logits: a plain forward beside the window.

Any architecture either passes or is refused with what it has that a working context cannot hold.
The check runs over a short text, all raw: appended in blocks and token by token, after a collapse
and after an expansion, in ``exact`` and in ``splice``, and past the reach of local layers where
the budget is larger than that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megacontext.core.model.base import BaseModel
from megacontext.core.model.layout import Layout
from megacontext.core.model.traits import unusual
from megacontext.core.model.window import KVWindow
from megacontext.traces.errors import ModelError
from megacontext.traces.schema import KVMode

__all__ = ["FOREIGN", "KL_LIMIT", "Verdict", "check_parity", "checked_rows", "divergence"]

# What a foreign forward raises for inputs that it does not take.
FOREIGN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
_BLOCK = 16
_BLOCKS = 8
_SINGLE = 4
# Mean KL in nats from the plain forward. Rounding alone stays far below, also in bfloat16.
KL_LIMIT = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class Verdict:
    """``refusal``: why the model cannot run at all; ``splice``: why cached keys must not be moved.

    Each is one clause about the model, or None where nothing stands against it.
    """

    refusal: str | None
    splice: str | None


class _Different(Exception):  # noqa: N818 - a result, not an error
    """The window's logits are not the model's."""


def checked_rows(base: BaseModel, w_max: int | None) -> int:
    """Rows of the text that the check reads."""
    rows = _BLOCK * _BLOCKS
    if base.local is not None and (w_max or 0) > base.local.size:
        rows = max(rows, base.local.size + 2 * _BLOCK)
    return min(rows, base.window - _BLOCK) // _BLOCK * _BLOCK


@torch.no_grad()
def check_parity(base: BaseModel, w_max: int | None = None) -> Verdict:
    """Compare the window with a plain forward.

    Args:
        w_max: the largest budget that the verdict shall hold for; None: up to the reach of local
            layers.
    """
    known = unusual(base.module)
    rows = checked_rows(base, w_max)
    if base.window <= 0:
        return Verdict("its configuration names no window of positions", None)
    if rows < 4 * _BLOCK:
        return Verdict(f"its window of {base.window} positions is too short to check", None)

    # In exact mode the window must give the plain forward: else the model is refused.
    rng = np.random.default_rng(0)
    ids = rng.integers(base.vocab_size // 8, base.vocab_size, rows + 1).astype(np.int64)
    try:
        plain = _plain(base, ids)
        _check_inputs(base, ids, plain)
        _Walk(base, ids, plain, "exact").run()
    except _Different as different:
        return Verdict(known or str(different), None)
    except ModelError as error:
        return Verdict(known or _clause(base, error), None)
    except FOREIGN as error:
        return Verdict(
            known or f"its forward does not take a working context ({_line(error)})", None
        )

    # In splice mode it must give it too, else this model runs in exact mode.
    try:
        _Walk(base, ids, plain, "splice").run()
    except _Different as different:
        return Verdict(None, str(different))
    except FOREIGN as error:
        return Verdict(None, f"its keys cannot be moved ({_line(error)})")
    return Verdict(None, None)


def _plain(base: BaseModel, ids: NDArray[np.int64]) -> Tensor:
    """Logits [t, V] of the model's own forward over token ids."""
    logits: Tensor = base.module(input_ids=_ids(base, ids), use_cache=False).logits[0].float()
    if not bool(torch.isfinite(logits[:, : base.vocab_size]).any(-1).all()) or bool(
        logits.isnan().any()
    ):
        raise _Different("its logits are not finite (NaN): weights of it are damaged")
    return logits


def _check_inputs(base: BaseModel, ids: NDArray[np.int64], plain: Tensor) -> None:
    """A row must depend on nothing but what stands before it, and on one embedding a token."""
    half = len(ids) // 2
    if _far(base, _plain(base, ids[:half]), plain[:half]):
        raise _Different("its rows see what stands behind them (bidirectional attention)")
    embeddings = base.module(inputs_embeds=base.embed(ids)[None], use_cache=False).logits[0]
    if _far(base, embeddings.float(), plain):
        raise _Different("its input is more than one embedding of each token")


class _Walk:
    """One window over the text: appended, collapsed, expanded, each compared."""

    def __init__(self, base: BaseModel, ids: NDArray[np.int64], plain: Tensor, mode: str) -> None:
        self.base, self.ids, self.plain = base, ids[:-1], plain
        self.next = ids[-1:]
        self.count = len(self.ids) // _BLOCK
        self.window = KVWindow(base, len(ids), mode)

    def run(self) -> None:
        """Raises :class:`_Different`, or what the model's forward raises."""
        window = self.window
        self._same(self._appended(), self.plain[:-1], "in a working context")
        if self.window.mode is KVMode.SPLICE:
            self._check_moved_keys()
        folded = {1, 2, self.count - 3}
        self._sync(folded)
        rows = np.concatenate(
            [self.ids[i * _BLOCK : i * _BLOCK + (1 if i in folded else _BLOCK)] for i in self._all]
        )
        self._same_last(_plain(self.base, rows), "after a collapse")
        self._sync(set())
        self._same_last(self.plain[:-1], "after an expansion")
        self._same(window.append(self.next).logits, self.plain[-1:], "behind an expansion")

    @property
    def _all(self) -> range:
        return range(self.count)

    def _appended(self) -> Tensor:
        cut = len(self.ids) - _SINGLE
        parts = [self.ids[at : min(at + _BLOCK, cut)] for at in range(0, cut, _BLOCK)]
        parts += [self.ids[at : at + 1] for at in range(cut, len(self.ids))]
        return torch.cat([self.window.append(part).logits for part in parts])

    def _sync(self, folded: set[int]) -> None:
        """Collapse these blocks, each to a gist that equals its first token."""
        levels = np.array([int(i in folded) for i in self._all], dtype=np.int8)
        n = len(self.ids)
        self.window.sync(
            Layout(levels, np.arange(self.count), n, n, _BLOCK),
            lambda level, index: self.base.embed(self.ids[index * _BLOCK]),
            lambda start, stop: self.ids[start:stop],
        )
        self.window.refresh()

    def _check_moved_keys(self) -> None:
        """What the first layer caches depends on input and position alone: moved is computed."""
        window, cache = self.window, self.window.cache
        levels = np.array([int(i == 1) for i in self._all], dtype=np.int8)
        n = len(self.ids)
        window.sync(
            Layout(levels, np.arange(self.count), n, n, _BLOCK),
            lambda level, index: self.base.embed(self.ids[index * _BLOCK]),
            lambda start, stop: self.ids[start:stop],
        )
        slots = window.row_slots
        moved = torch.cat([cache.keys[0][:, slots], cache.values[0][:, slots]], -1).float()
        window.refresh()
        computed = torch.cat([cache.keys[0][:, slots], cache.values[0][:, slots]], -1).float()
        error = float((moved - computed).norm() / computed.norm().clamp_min(1e-30))
        if error > (1e-3 if self.base.dtype == torch.float32 else 5e-2):
            raise _Different("its keys do not move with their positions")

    def _same_last(self, plain: Tensor, where: str) -> None:
        assert self.window.last is not None
        self._same(self.window.last.logits[-1:], plain[-1:], where)

    def _same(self, got: Tensor, wanted: Tensor, where: str) -> None:
        if _far(self.base, got, wanted):
            far = divergence(got, wanted)
            raise _Different(f"its logits {where} are not its own ({far:.2g} nats apart)")


def _ids(base: BaseModel, ids: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(ids)[None].to(base.device)


def divergence(got: Tensor, wanted: Tensor) -> float:
    """Mean KL(wanted || got) over rows, in nats."""
    a, b = wanted.log_softmax(-1), got.to(wanted).log_softmax(-1)
    # Vocabulary entries that a model rules out are -inf in both.
    terms = torch.where(a.isinf(), torch.zeros_like(a), a.exp() * (a - b))
    return float(terms.sum(-1).mean())


def _far(base: BaseModel, got: Tensor, wanted: Tensor) -> bool:
    far = divergence(got, wanted)
    return not far < KL_LIMIT[base.dtype]


def _clause(base: BaseModel, error: ModelError) -> str:
    return str(error).removeprefix(f"model '{base.name}' is not supported: ").split("; ")[0]


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."
