"""Averages of base models or LensNets: weights of runs that started from the same ones.

An interpolation of two such runs is often better than both (Wortsman et al., "Model soups", 2022):
it forgets less than the later one and has learned more than the earlier one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from megacontext.core.gistnet.checkpoint import load_folder, save_folder
from megacontext.core.training.base.task import export_base, load_weights, read_shape
from megacontext.core.training.common.llama import Llama
from megacontext.traces.errors import ConfigError, ModelError

__all__ = ["average", "average_bases", "average_lensnets"]

_LENSNET = "lensnet"


def average(folders: Sequence[Path], weights: Sequence[float], out: Path) -> None:
    """Average LensNets if the first folder holds one, base models otherwise; errors as theirs.

    Raises:
        ModelError: the first folder has no readable ``config.json``.
    """
    path = folders[0] / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"--model: {path} cannot be read ({error}); name the folder of an exported model."
        ) from error
    if isinstance(config, dict) and config.get("kind") == _LENSNET:
        average_lensnets(folders, weights, out)
    else:
        average_bases(folders, weights, out)


def _normalized_weights(folders: Sequence[Path], weights: Sequence[float]) -> list[float]:
    """One weight per folder; they sum to 1."""
    fractions = list(weights) or [1.0] * len(folders)
    if len(folders) < 2 or len(fractions) != len(folders):
        raise ConfigError(
            f"--weight: {len(weights)} weights do not go with {len(folders)} models; give two or "
            "more models and a weight for each, or none."
        )
    if min(fractions) < 0 or not sum(fractions):
        raise ConfigError(f"--weight: {fractions} holds no share of some model; use values from 0.")
    return [fraction / sum(fractions) for fraction in fractions]


def average_lensnets(folders: Sequence[Path], weights: Sequence[float], out: Path) -> None:
    """Write the weighted mean of exported LensNets to ``out``.

    Args:
        weights: one per folder, scaled to add up to 1; empty for equal ones.

    Raises:
        ConfigError: too few folders, another number of weights, or LensNets of unequal shape or
            of different GistNets.
        ModelError: a folder holds no readable LensNet.
    """
    fractions = _normalized_weights(folders, weights)
    first, state = load_folder(folders[0], _LENSNET)
    sums = {name: value.double() * fractions[0] for name, value in state.items()}
    for folder, fraction in zip(folders[1:], fractions[1:], strict=True):
        facts, other = load_folder(folder, _LENSNET)
        for field in ("config", "gist_checkpoint"):
            if facts[field] != first[field]:
                raise ConfigError(
                    f"--model: {folder} has the {field} {facts[field]} and {folders[0]} has "
                    f"{first[field]}; average LensNets of one shape and one GistNet."
                )
        for name, value in other.items():
            sums[name] += value.double() * fraction
    mean = {name: value.to(state[name].dtype) for name, value in sums.items()}
    facts = {"gist_checkpoint": first["gist_checkpoint"]}
    save_folder(out, _LENSNET, mean, first["config"], facts)


def average_bases(folders: Sequence[Path], weights: Sequence[float], out: Path) -> None:
    """Write the weighted mean of exported models to ``out``, with the tokenizer of the first.

    Args:
        weights: one per folder, scaled to add up to 1; empty for equal ones.

    Raises:
        ConfigError: too few folders, another number of weights, or models of unequal shape.
        ModelError: a folder holds no exported model.
    """
    fractions = _normalized_weights(folders, weights)
    shape = read_shape(folders[0])
    total, part = Llama(shape), Llama(shape)
    sums = {name: value.double() * 0 for name, value in total.named_parameters()}
    for folder, fraction in zip(folders, fractions, strict=True):
        other_shape = read_shape(folder)
        if other_shape != shape:
            raise ConfigError(
                f"--model: {folder} is {other_shape} and {folders[0]} is {shape}; average models "
                "of one shape."
            )
        load_weights(part, folder)
        for name, value in part.named_parameters():
            sums[name] += value.detach().double() * fraction
    for name, value in total.named_parameters():
        value.data.copy_(sums[name])
    export_base(total, folders[0], out)
