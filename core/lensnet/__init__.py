"""LensNet: a learned, query-aware, non-causal score for every frontier entry."""

from __future__ import annotations

from megacontext.core.lensnet.lens import NetLens, load_lensnet, save_lensnet
from megacontext.core.lensnet.module import LensNet, LensNetConfig, TailQueries

__all__ = ["LensNet", "LensNetConfig", "NetLens", "TailQueries", "load_lensnet", "save_lensnet"]
