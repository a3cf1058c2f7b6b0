"""The base model, its slotted KV window and decoding."""

from megacontext.core.model.base import BaseModel, Forward
from megacontext.core.model.layout import Layout
from megacontext.core.model.sampling import Sampler
from megacontext.core.model.window import KVWindow, SyncStats

__all__ = ["BaseModel", "Forward", "KVWindow", "Layout", "Sampler", "SyncStats"]
