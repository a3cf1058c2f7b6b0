"""What figures were measured with: command, commit, weights, machine, time."""

from __future__ import annotations

import json
import os
import platform
import resource
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers

from megacontext.core.cpu import usable_cores
from megacontext.traces.errors import SourceError, StorageError

__all__ = ["About", "about_now"]

_FILE = "about.json"


@dataclass(frozen=True)
class About:
    """One evaluation; ``kind`` says what its rows are: ``suite`` or ``ablations``.

    ``seconds`` is its wall-clock time and ``cpu_seconds`` what all its processes computed, of the
    last stretch alone where it was resumed; ``load`` is the machine's load average at its end;
    beyond the number of processes it means that others had a share of the cores.
    """

    kind: str
    command: str
    commit: str
    weights: str
    machine: str
    workers: int
    date: str
    seconds: float
    notes: tuple[str, ...]
    cpu_seconds: float = 0.0
    load: float = 0.0

    def write(self, folder: Path) -> None:
        """Put it beside the figures.

        Raises:
            StorageError: the folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")
        except OSError as error:
            raise StorageError(f"{folder} cannot be written ({error.strerror}).") from error

    @classmethod
    def read(cls, folder: Path) -> About:
        """What lies beside the figures in ``folder``.

        Raises:
            SourceError: no evaluation left its figures there.
        """
        try:
            fields = json.loads((folder / _FILE).read_text("utf-8"))
            return cls(**{**fields, "notes": tuple(fields["notes"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise SourceError(
                f"{folder} holds no readable {_FILE}; name the --out folder of eval suite or eval "
                "ablate."
            ) from error


def about_now(
    kind: str,
    command: Sequence[str],
    weights: str,
    workers: int,
    seconds: float,
    notes: Sequence[str],
) -> About:
    """The evaluation that just ended."""
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return About(
        kind,
        shlex.join(command),
        _commit(),
        weights,
        _machine(),
        workers,
        date,
        round(seconds, 1),
        tuple(notes),
        round(_cpu_seconds(), 1),
        round(os.getloadavg()[0], 1),
    )


def _cpu_seconds() -> float:
    used = [
        resource.getrusage(target) for target in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _machine() -> str:
    parts = [f"{usable_cores()} CPU cores ({_processor()})"]
    if torch.cuda.is_available():
        parts.insert(0, torch.cuda.get_device_name(0))
    parts += [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    return ", ".join([*parts, f"transformers {transformers.__version__}"])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    """Short hash of the checkout, with a + where files differ from it.

    Where there is none, what the environment says in ``MEGACONTEXT_COMMIT``: a machine may be
    given the files alone.
    """
    named = os.environ.get("MEGACONTEXT_COMMIT", "")
    folder = str(Path(__file__).resolve().parent)
    outputs = []
    for arguments in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "-uno"]):
        try:
            done = subprocess.run(
                ["git", "-C", folder, *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return named
        if done.returncode:
            return named
        outputs.append(done.stdout.strip())
    return outputs[0] + ("+" if outputs[1] else "")
