"""What a joint run has done so far: ``joint.json``, replaced whole after every phase."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megacontext.core.training.joint.config import JointTraining, PhaseKind
from megacontext.core.training.joint.evaluate import Components, Scores
from megacontext.core.training.loop.checkpoint import write_json
from megacontext.traces.errors import StorageError

__all__ = ["JointState", "PhaseRecord", "config_digest", "set_aside_run"]

_FILE = "joint.json"


@dataclass(frozen=True)
class PhaseRecord:
    """The outcome of one phase.

    Attributes:
        number: from 1 over all cycles; cycle: from 1.
        accepted: whether the run went on with what was trained; if not, it was rolled back.
        reason: one sentence, with figures and bound.
        change: of the phase's metric, negative is better; None where nothing could be measured.
        interval: 95 %, over held-out windows; None for a metric that is one number.
        after: the metrics of what was trained; empty where training failed.
        changes: of every metric that is measured by window: mean, and the ends of its 95 %
            interval over held-out windows. From what the phase started with, kept or not.
    """

    number: int
    cycle: int
    train: PhaseKind
    accepted: bool
    reason: str
    change: float | None
    interval: tuple[float, float] | None
    after: dict[str, float]
    changes: dict[str, tuple[float, float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class JointState:
    """``reference``: scores of the components at the start; ``scores``: of the current ones."""

    digest: str
    components: Components
    reference: Scores
    scores: Scores
    records: tuple[PhaseRecord, ...] = ()

    def write(self, out: Path) -> None:
        """Replace ``joint.json`` atomically."""
        out.mkdir(parents=True, exist_ok=True)
        write_json(
            out / _FILE,
            {
                "config": self.digest,
                "components": {k: _inside(v, out) for k, v in asdict(self.components).items()},
                "reference": self.reference.as_dict(),
                "scores": self.scores.as_dict(),
                "phases": [asdict(record) for record in self.records],
            },
        )

    @classmethod
    def read(cls, out: Path, digest: str) -> JointState | None:
        """The state in ``out``; None where no phase has begun.

        Raises:
            StorageError: the file is damaged, or the run had another configuration.
        """
        path = out / _FILE
        if not path.is_file():
            return None

        try:
            raw: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
            records = tuple(_record(part) for part in raw["phases"])
            state = cls(
                raw["config"],
                Components(**{k: str(out / v) if v else "" for k, v in raw["components"].items()}),
                Scores.from_dict(raw["reference"]),
                Scores.from_dict(raw["scores"]),
                records,
            )
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise StorageError(
                f"{path} is damaged ({error}); start again without --resume."
            ) from error

        if state.digest != digest:
            raise StorageError(
                f"--resume: {path} belongs to another configuration ({state.digest}) than this one "
                f"({digest}); repeat the command of that run, or choose another --out folder."
            )
        return state


def _inside(path: str, out: Path) -> str:
    """``path`` relative to ``out`` where it lies in there, so that the folder can be moved."""
    return str(Path(path).relative_to(out)) if path and Path(path).is_relative_to(out) else path


def _record(raw: dict[str, Any]) -> PhaseRecord:
    interval = raw["interval"]
    changes = {name: tuple(change) for name, change in raw.get("changes", {}).items()}
    known = {"interval": None if interval is None else tuple(interval), "changes": changes}
    return PhaseRecord(**{**raw, **known})


def config_digest(config: JointTraining, recipes: list[object]) -> str:
    """12 hex digits over the configuration and those of its phases, overrides included."""
    text = repr((config, recipes))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def set_aside_run(out: Path) -> Path | None:
    """Move a joint run in ``out`` to ``out/previous``; None where there is none.

    One earlier run is kept: a new run must never continue the phases of another.
    """
    if not (out / _FILE).is_file():
        return None
    target = out / "previous"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path in sorted(out.iterdir(), key=lambda p: p.name != _FILE):
        if path != target:
            path.rename(target / path.name)
    return target
