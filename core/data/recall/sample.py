"""Recall samples and the options of their composition; ``writer.py`` generates them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megacontext.core.data.recall.window_sampling import CoarseEntries

__all__ = ["AskedSpan", "RecallOptions", "RecallSample"]


@dataclass(frozen=True)
class AskedSpan:
    """Token positions within a sample: the question starts at ``start``, the answer fills
    [``answer_start``, ``answer_stop``); ``gold`` indexes the sample's ``facts``."""

    kind: str
    start: int
    answer_start: int
    answer_stop: int
    gold: tuple[int, ...]
    question: str
    answer: str


@dataclass(frozen=True)
class RecallSample:
    """One window.

    ``tokens`` [length] in the shards' type; ``answer`` uint8 [length]:

    * 2 on answer tokens that have to be looked up: up to the first one that is no space, every
      token of a list of values, and tokens whose bigram does not occur earlier (a value may be
      tokenized differently in its statement);
    * 1 on the answer's other tokens and on the token that ends it;
    * 3 on tokens that cannot be predicted: coarse entries, and answers whose fact did not fit;
    * 0 elsewhere.

    ``facts``: token spans [start, stop) of inserted statements, clipped to the window; (-1, -1) for
    those outside it. ``coarse``: the text that the entries of a coarse window replace.
    """

    tokens: np.ndarray
    answer: np.ndarray
    facts: tuple[tuple[int, int], ...]
    asked: tuple[AskedSpan, ...]
    coarse: CoarseEntries | None = None


@dataclass(frozen=True)
class RecallOptions:
    """How samples are composed.

    Attributes:
        kind: a scene kind or ``mixed``.
        facts_max: most facts in one scene.
        scenes_max: most scenes in one sample.
        asked_max: most questions in one sample.
        interleaved: probability that a question is in the middle instead of at the end.
        canonical: one question in the canonical format, at the end.
        gappy: keep only some blocks of a longer history.
        coarse: as ``gappy``, with the other blocks as one token each, or one for many.
        stretch_max: a gappy history is up to this many times the window.
        fill: share of the window that statements and questions may take.
        narrow: probability that the words and wording of a sample come from a small pool, so that
            its scenes have many in common.
        recent: maximum fraction of a gappy or coarse window that is its newest text.
    """

    kind: str = "mixed"
    facts_max: int = 12
    scenes_max: int = 4
    asked_max: int = 10
    interleaved: float = 0.4
    canonical: bool = False
    gappy: bool = False
    coarse: bool = False
    stretch_max: int = 6
    fill: float = 0.5
    narrow: float = 0.0
    recent: float = 0.25
