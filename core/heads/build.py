"""Puts the parts of the heads lens together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from megacontext.core.config.schema import LensConfig
from megacontext.core.heads.calibrate import calibration_for, model_fingerprint
from megacontext.core.heads.calibration import HeadsCalibration
from megacontext.core.heads.encoder import HeadEncoder, HeadReader
from megacontext.core.heads.history_keys import HistoryKeys
from megacontext.core.heads.store import KeyStore
from megacontext.core.model.base import BaseModel
from megacontext.core.tree import Tree
from megacontext.traces.errors import ModelError

__all__ = ["head_encoder", "keys_of_tree"]


def head_encoder(
    base: BaseModel,
    lens: LensConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> HeadEncoder:
    """What reads the model's heads as the calibration says.

    Args:
        lens: names a calibration file, or none for the shipped or cached one, which is made now
            if missing; its margin and hops go before the calibration's.
        progress: of a calibration: (passes done, passes in all).

    Raises:
        ConfigError: an unreadable calibration.
        ModelError: another model's calibration, or a model whose heads find nothing.
    """
    reader = HeadReader(base)
    if lens.path is not None:
        calibration: HeadsCalibration | None = HeadsCalibration.load(Path(lens.path))
    else:
        calibration = calibration_for(base, progress)
    if calibration is None:
        raise ModelError(
            f"lens.kind is heads but model '{base.name}' is too small to look anything up (below "
            "20M parameters); use lens.kind bm25."
        )

    # Heads of other weights would look up noise.
    fingerprint = model_fingerprint(base)
    if calibration.model != fingerprint:
        raise ModelError(
            f"lens.path {lens.path!r} was calibrated for model {calibration.model}, but model "
            f"'{base.name}' is {fingerprint}; run megacontext calibrate for it."
        )

    # A run's own settings go before the calibration's.
    if lens.margin is not None:
        calibration = replace(calibration, margin=lens.margin)
    if lens.hops is not None:
        calibration = replace(calibration, hops=lens.hops)
    return HeadEncoder(reader, calibration)


def keys_of_tree(encoder: HeadEncoder, tree: Tree) -> HistoryKeys:
    """The keys of a tree's history: beside it on disk, or in memory."""
    return HistoryKeys(encoder, KeyStore.beside(encoder, tree), lambda: tree.committed_tokens)
