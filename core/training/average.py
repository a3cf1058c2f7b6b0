"""Averages of base models: weights of runs that started from the same ones.

Between two such runs lies a range of models that are often better than both (Wortsman et al.,
"Model soups", 2022): less forgotten than the later, more learned than the earlier.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megacontext.core.training.base import export_base, load_weights, read_shape
from megacontext.core.training.llama import Llama
from megacontext.traces.errors import ConfigError

__all__ = ["average_bases"]


def average_bases(folders: Sequence[Path], weights: Sequence[float], out: Path) -> None:
    """Write the weighted mean of exported models to ``out``, with the tokenizer of the first.

    Args:
        weights: one per folder, scaled to add up to 1; empty for equal ones.

    Raises:
        ConfigError: too few folders, another number of weights, or models of unequal shape.
        ModelError: a folder holds no exported model.
    """
    shares = list(weights) or [1.0] * len(folders)
    if len(folders) < 2 or len(shares) != len(folders):
        raise ConfigError(
            f"--weight: {len(weights)} weights do not go with {len(folders)} models; give two or "
            "more models and a weight for each, or none."
        )
    if min(shares) < 0 or not sum(shares):
        raise ConfigError(f"--weight: {shares} holds no share of some model; use values from 0.")
    shape = read_shape(folders[0])
    total, part = Llama(shape), Llama(shape)
    sums = {name: value.double() * 0 for name, value in total.named_parameters()}
    for folder, share in zip(folders, shares, strict=True):
        found = read_shape(folder)
        if found != shape:
            raise ConfigError(
                f"--model: {folder} is {found} and {folders[0]} is {shape}; average models of one "
                "shape."
            )
        load_weights(part, folder)
        for name, value in part.named_parameters():
            sums[name] += value.detach().double() * (share / sum(shares))
    for name, value in total.named_parameters():
        value.data.copy_(sums[name])
    export_base(total, folders[0], out)
