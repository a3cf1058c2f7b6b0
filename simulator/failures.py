"""A failure of a world: found, saved, repeated, shrunk, and printed as a test."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from megacontext.simulator.checks.invariant import InvariantError
from megacontext.simulator.config import WorldConfig
from megacontext.simulator.operations import Operation, check_operations, simpler
from megacontext.simulator.shrink import shrink
from megacontext.simulator.world import World
from megacontext.traces.errors import ConfigError

__all__ = ["Failure", "attempt", "failure_of", "load_failure", "quiet", "shrink_failure"]

VERSION = 1


@dataclass(frozen=True)
class Failure:
    """An operation list that breaks a world.

    Args:
        kind: the invariant, or the type of the exception.
        message: what was seen.
        commit: of the product when it was found.
    """

    config: WorldConfig
    operations: list[Operation]
    kind: str
    message: str
    commit: str = ""

    def to_json(self) -> str:
        """What ``sim replay`` reads: one JSON object, one operation a line."""
        head = {
            "version": VERSION,
            "kind": self.kind,
            "message": self.message,
            "commit": self.commit,
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
        """The failure as a test to paste."""
        plain = {k: v for k, v in self.config.to_json().items() if v != _DEFAULTS[k]}
        lines = "".join(f"        {json.dumps(operation)},\n" for operation in self.operations)
        return (
            f"def test_{self.kind.lower()}_seed_{self.config.seed}() -> None:\n"
            f"    # {self.message.splitlines()[0][:88]}\n"
            f"    config = WorldConfig.from_json({plain!r})\n"
            f"    world = World(config)\n"
            f"    for operation in [\n{lines}    ]:\n"
            f"        world.do(operation)\n"
            f"    world.finish()\n"
        )


_DEFAULTS = WorldConfig().to_json()


@contextmanager
def quiet() -> Iterator[None]:
    """Mute the product's warnings: damaged trees are the daily bread here."""
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


def failure_of(config: WorldConfig, done: list[Operation], error: Exception) -> Failure:
    """The record of ``error`` after ``done``."""
    if isinstance(error, InvariantError):
        return Failure(config, done, error.invariant, error.message, commit_id())
    return Failure(config, done, type(error).__name__, str(error) or repr(error), commit_id())


def shrink_failure(
    failure: Failure,
    max_tries: int = 3000,
    progress: Callable[[int, int], None] = lambda tries, operations: None,
) -> Failure:
    """The shortest list of the simplest operations that fails in the same way.

    Args:
        progress: called after each try with their number and the length of the list so far.
    """
    tries, length = 0, len(failure.operations)

    def fails(config: WorldConfig, operations: list[Operation]) -> bool:
        nonlocal tries, length
        again = attempt(config, operations)
        same = again is not None and again.kind == failure.kind
        tries += 1
        length = len(operations) if same else length
        progress(tries, length)
        return same

    config = failure.config
    with quiet():
        if not fails(config, failure.operations):
            return failure
        for change in _PLAINER:
            plainer = replace(config, **change)
            if fails(plainer, failure.operations):
                config = plainer
        short = shrink(failure.operations, partial(fails, config), simpler, max_tries)
        last = attempt(config, short)
    assert last is not None
    return replace(last, commit=failure.commit)


_PLAINER: tuple[dict[str, Any], ...] = (
    {"storage": "ram", "record": False},
    {"record": False},
    {"stream": "uniform"},
    {"lens": "static"},
    {"allocator": "greedy"},
)
"""Configurations that are quicker to run and easier to read, tried before the operations."""


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
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def commit_id() -> str:
    """The product's git commit, or an empty string outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
