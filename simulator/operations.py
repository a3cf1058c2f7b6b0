"""What can happen in a world: operations as plain JSON lists, and how each can be made simpler.

An operation is ``[name, argument, ...]`` with integers, strings and nothing else. Its arguments
carry every choice it needs, so a list of operations stays meaningful when some are removed.
"""

from __future__ import annotations

from collections.abc import Iterator

from megacontext.traces.errors import ConfigError

__all__ = ["ARITY", "METHODS", "Operation", "check_operations", "simpler"]

Operation = list[int | str]

ARITY: dict[str, tuple[type, ...]] = {
    "append": (int,),  # tokens; clipped to what fits
    "refocus": (),
    "question": (int, int),  # n_diff, rounds of this refocus
    "budget": (int,),  # w_max in thousandths of the config's
    "limits": (int, int),  # n_diff, cooldown_steps from now on
    "settle": (int,),  # fixed scores drawn with this salt until nothing changes
    "restart": (),  # a cold start over the present tree
    "resume": (),  # rebuild the focus from what was recorded
    "commit": (),
    "reopen": (),
    "crash": (int, int),  # salt, chance in percent that an unsynced sector survives
    "kill": (),
    "regist": (int,),  # number of the new checkpoint
    "marker": (int,),
    "fault": (str, int, int),  # name, strikes at the n-th call, salt
}
"""Argument types by operation."""

METHODS = {name: f"_{name}" for name in ARITY} | {"limits": "_set_limits", "marker": "_set_marker"}
"""The world's method that carries an operation out."""


def check_operations(operations: object) -> list[Operation]:
    """``operations`` if they are well formed.

    Raises:
        ConfigError: an unknown operation, or arguments of the wrong number or type.
    """
    if not isinstance(operations, list):
        raise ConfigError("operations is no list; give a list of [name, argument, ...].")
    for number, operation in enumerate(operations):
        if not isinstance(operation, list) or not operation or operation[0] not in ARITY:
            raise ConfigError(
                f"operation {number} is {operation!r}; use one of {', '.join(ARITY)}."
            )
        kinds = ARITY[operation[0]]
        arguments = operation[1:]
        fits = len(arguments) == len(kinds) and all(
            isinstance(value, kind) and not isinstance(value, bool)
            for value, kind in zip(arguments, kinds, strict=True)
        )
        if not fits or any(isinstance(value, int) and value < 0 for value in arguments):
            expected = ", ".join(kind.__name__ for kind in kinds) or "nothing"
            raise ConfigError(f"operation {number} is {operation!r}; it takes {expected}, >= 0.")
    return operations


def simpler(operation: Operation) -> Iterator[Operation]:
    """Simpler forms of one operation, the simplest first; each is strictly simpler."""
    name = operation[0]
    if name in ("question", "resume", "restart"):
        yield ["refocus"]
    for at, value in enumerate(operation[1:], 1):
        if isinstance(value, int) and value > 1:
            for smaller in dict.fromkeys((1, value // 2, value - 1)):
                yield [*operation[:at], smaller, *operation[at + 1 :]]
