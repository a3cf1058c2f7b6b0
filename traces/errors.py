"""The one exception family of the project.

Every error a user can cause is a :class:`MegaContextError` whose message is one sentence that
names the field, the value and the fix. The command line prints that sentence and exits with
``exit_code``; anything else is a bug and may show a traceback.
"""

from __future__ import annotations

__all__ = [
    "BudgetError",
    "ConfigError",
    "LockedError",
    "MegaContextError",
    "ModelError",
    "PlanError",
    "SourceError",
    "StorageError",
    "TraceError",
    "printable",
]


_SHORT = 120


def printable(value: object) -> str:
    """``value`` as part of a sentence: one line, no control characters, not endless.

    For what was read from a file, which may be anything where it is damaged.
    """
    text = "".join(c if c.isprintable() else "?" for c in str(value)[: _SHORT + 1])
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}…"


class MegaContextError(Exception):
    """Base of all errors that a user or an embedding program can cause.

    ``exit_code`` follows the command-line contract: 2 for bad arguments or inputs, 1 for a check
    or a run that failed.
    """

    exit_code: int = 2


class ConfigError(MegaContextError):
    """A config key is unknown, has the wrong type or an impossible value."""


class BudgetError(ConfigError):
    """``w_max`` cannot hold the smallest legal frontier."""


class SourceError(MegaContextError):
    """A source of text is missing, empty or undecodable."""


class ModelError(MegaContextError):
    """A model folder, tokenizer or device cannot serve this run."""


class StorageError(MegaContextError):
    """A tree on disk is damaged, foreign, full or in use."""


class LockedError(StorageError):
    """Another process writes this tree or trace."""


class TraceError(MegaContextError):
    """A file is not a trace, is damaged, or has a newer version."""


class PlanError(MegaContextError):
    """A plan of edits breaks an invariant; nothing was applied."""

    exit_code = 1
