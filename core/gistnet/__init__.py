"""GistNet: one vector in the base model's input space for each node, plus an index key.

``MeanGister`` (numpy) is the untrained control; the trained encoder lives in ``module`` and
``gister`` and imports torch, so it is imported from there and not re-exported here.
"""

from __future__ import annotations

from megacontext.core.gistnet.mean import MeanGister

__all__ = ["MeanGister"]
