"""A failure of a world: found, saved, repeated, shrunk, and printed as a test."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from megacontext.simulator.checks.invariant import InvariantError
from megacontext.simulator.config import WorldConfig
from megacontext.simulator.operations import Operation, check_operations, simpler
from megacontext.simulator.shrink import shrink
from megacontext.simulator.world import World
from megacontext.traces.errors import ConfigError

__all__ = [
    "Failure",
    "attempt",
    "failure_of",
    "load_failure",
    "muted_warnings",
    "run_operations",
    "shrink_failure",
]

VERSION = 1


@dataclass(frozen=True)
class Failure:
    """An operation list that breaks a world.

    Args:
        kind: the invariant, or the type of the exception.
        message: what was seen.
        commit: of the product when it was found; ``+changes`` where the checkout had any.
        trace: the traceback, as Python prints it.
    """

    config: WorldConfig
    operations: list[Operation]
    kind: str
    message: str
    commit: str = ""
    trace: str = ""

    def to_json(self) -> str:
        """What ``sim replay`` reads: one JSON object, one operation a line."""
        head = {
            "version": VERSION,
            "kind": self.kind,
            "message": self.message,
            "commit": self.commit,
            "trace": self.trace.splitlines(),
            "config": self.config.to_json(),
        }
        text = json.dumps(head, indent=1)[:-2]
        lines = ",\n  ".join(json.dumps(operation) for operation in self.operations)
        return f'{text},\n "operations": [\n  {lines}\n ]\n}}\n'

    def save(self, folder: Path) -> Path:
        """Write it to ``folder`` under a name made of kind and seed; returns the path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.kind.lower()}-{self.config.seed}.json"
        path.write_text(self.to_json())
        return path

    def snippet(self) -> str:
        """The failure as a test that runs as pasted, with the settings that are no defaults."""
        plain = {k: v for k, v in self.config.to_json().items() if v != _DEFAULTS[k]}
        arguments = "".join(f"        {name}={_literal(value)},\n" for name, value in plain.items())
        lines = "".join(f"        {json.dumps(operation)},\n" for operation in self.operations)
        return (
            "from megacontext.simulator.config import WorldConfig\n"
            "from megacontext.simulator.world import World\n\n\n"
            f"def test_{self.kind.lower()}_seed_{self.config.seed}() -> None:\n"
            f"    # {self.message.splitlines()[0][:88]}\n"
            + (
                f"    config = WorldConfig(\n{arguments}    )\n"
                if arguments
                else "    config = WorldConfig()\n"
            )
            + "    world = World(config)\n"
            f"    for operation in [\n{lines}    ]:\n"
            "        world.do(operation)\n"
            "    world.finish()\n"
        )


def _literal(value: object) -> str:
    return repr(tuple(value) if isinstance(value, list) else value)


_DEFAULTS = WorldConfig().to_json()


@contextmanager
def muted_warnings() -> Iterator[None]:
    """Mute the product's warnings: damaged trees are the normal case here."""
    logger = logging.getLogger("megacontext")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def attempt(config: WorldConfig, operations: Sequence[Operation]) -> Failure | None:
    """Run the operations in a new world; the failure with the operations up to it, or None."""
    done: list[Operation] = []
    try:
        world = World(config)
        for operation in operations:
            done.append(operation)
            world.do(operation)
        world.finish()
    except Exception as error:  # whatever it is, it is what this program looks for
        return failure_of(config, done, error)
    return None


def run_operations(config: WorldConfig, operations: Sequence[Operation]) -> World:
    """A new world after ``operations`` and its last checks; raises where one of them fails."""
    world = World(config)
    for operation in operations:
        world.do(operation)
    world.finish()
    return world


def failure_of(config: WorldConfig, done: list[Operation], error: Exception) -> Failure:
    """The record of ``error`` after ``done``."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, InvariantError):
        kind, message = error.invariant, error.message
    else:
        kind, message = type(error).__name__, str(error) or repr(error)
    return Failure(config, done, kind, message, commit_id(), trace)


def shrink_failure(
    failure: Failure,
    max_tries: int = 3000,
    progress: Callable[[int, int], None] = lambda tries, operations: None,
    cpu_seconds: float = math.inf,
) -> Failure:
    """The shortest list of the simplest operations that fails in the same way.

    Args:
        progress: called after each try with their number and the length of the list so far.
        cpu_seconds: when they are used up, what is shortest by then is the answer.
    """
    tries, length = 0, len(failure.operations)
    deadline = time.process_time() + cpu_seconds

    def fails(config: WorldConfig, operations: list[Operation]) -> bool:
        nonlocal tries, length
        if time.process_time() > deadline:
            return False
        again = attempt(config, operations)
        same = again is not None and again.kind == failure.kind
        tries += 1
        length = len(operations) if same else length
        progress(tries, length)
        return same

    config = failure.config
    with muted_warnings():
        if not fails(config, failure.operations):
            return failure
        for change in (*_PLAINER, *({name: value} for name, value in _PLAIN.items())):
            if all(getattr(config, name) == value for name, value in change.items()):
                continue
            try:
                plainer = replace(config, **change)
            except ConfigError:  # the default does not fit the other settings
                continue
            if fails(plainer, failure.operations):
                config = plainer
        short = shrink(failure.operations, partial(fails, config), simpler, max_tries)
        last = attempt(config, short)
    if last is None:  # it comes and goes, as what is not deterministic does
        return failure
    return replace(last, commit=failure.commit)


_PLAINER: tuple[dict[str, Any], ...] = (
    {"storage": "ram", "record": False},
    {"record": False},
    {"stream": "uniform"},
    {"lens": "static"},
    {"allocator": "greedy"},
)
"""Configurations that are quicker to run and easier to read, tried before the operations."""


_PLAIN: dict[str, Any] = {
    entry.name: getattr(WorldConfig(), entry.name)
    for entry in fields(WorldConfig)
    if entry.name not in ("storage", "record", "stream", "lens", "allocator")
}
"""Settings that do not matter go back to their defaults, one by one."""


def load_failure(path: Path) -> Failure:
    """The failure saved at ``path``.

    Raises:
        ConfigError: no file, no JSON, or not what :meth:`Failure.save` writes.
    """
    try:
        raw = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}; name a saved failure."
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON ({error}); name a file saved by sim fuzz.") from error

    # An older version may name operations that mean something else now.
    if not isinstance(raw, dict) or raw.get("version") != VERSION:
        raise ConfigError(f"{path} is no saved failure of version {VERSION}; save it again.")
    missing = [key for key in ("config", "operations") if key not in raw]
    if missing:
        raise ConfigError(f"{path} has no field {missing[0]!r}; save the failure again.")

    try:
        return Failure(
            WorldConfig.from_json(raw["config"]),
            check_operations(raw["operations"]),
            str(raw.get("kind", "")),
            str(raw.get("message", "")),
            str(raw.get("commit", "")),
            "\n".join(map(str, raw.get("trace", []))),
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


@cache
def commit_id() -> str:
    """The product's git commit, with ``+changes`` in a checkout that has any; empty outside one."""
    commit = _git("rev-parse", "--short", "HEAD")
    return commit + ("+changes" if commit and _git("status", "--porcelain", "-uno") else "")


def _git(*arguments: str) -> str:
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
