"""The contenders by name: ours and the controls, all at the same budget."""

from __future__ import annotations

from collections.abc import Sequence

from megacontext.core.evaluation.contenders.base import Contender
from megacontext.core.evaluation.contenders.gists import ECHO, GISTS
from megacontext.core.evaluation.contenders.oracle import ORACLE, ORACLE_NEIGHBOURS
from megacontext.core.evaluation.contenders.ours import MEAN, OURS
from megacontext.core.evaluation.contenders.random_lens import RANDOM
from megacontext.core.evaluation.contenders.retrieval import BM25, DENSE
from megacontext.core.evaluation.contenders.sliding_window import DELETE, FULL, RECENCY
from megacontext.core.evaluation.sessions.workspace import EvalWorkspace
from megacontext.core.focus.actions import I64
from megacontext.traces.errors import ConfigError

__all__ = ["CONTENDERS", "check_names", "takes_part"]

CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in (
        OURS,
        RECENCY,
        RANDOM,
        BM25,
        DENSE,
        ORACLE,
        ORACLE_NEIGHBOURS,
        GISTS,
        ECHO,
        MEAN,
        DELETE,
        FULL,
    )
}


def check_names(names: Sequence[str]) -> list[str]:
    """``names`` without repeats.

    Raises:
        ConfigError: a name that no contender has.
    """
    for name in names:
        if name not in CONTENDERS:
            raise ConfigError(
                f"--contenders: {name!r} is unknown; use some of {', '.join(CONTENDERS)}."
            )
    return list(dict.fromkeys(names))


def takes_part(name: str, workspace: EvalWorkspace, gold: I64, n_tokens: int) -> bool:
    """Whether a contender can answer a question.

    Args:
        gold: token spans I64[m, 2] of the answer, may be empty.
        n_tokens: length of history, question and answer.
    """
    contender = CONTENDERS[name]
    return (len(gold) > 0 or not contender.needs_gold) and contender.fits(workspace, n_tokens)
