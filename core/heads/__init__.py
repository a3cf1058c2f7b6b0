"""The model's own attention heads as a lens: calibrated once per model, nothing trained.

Some heads of a language model attend from a question to the tokens that answer it (retrieval
heads: Wu et al., arXiv 2404.15574; QRHead, arXiv 2506.09944). Their keys before rotation do not
depend on where a token stands, so a key that was read in a small local window can be matched with
a question at any distance. ``calibrate`` finds these heads; ``KeyStore`` keeps their keys, a few
hundred bytes a token; ``HeadsLens`` scores the working context with them at a question.
"""

from megacontext.core.heads.calibration import HeadsCalibration
from megacontext.core.heads.store import KeyStore

__all__ = ["HeadsCalibration", "KeyStore"]
