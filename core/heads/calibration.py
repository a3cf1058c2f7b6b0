"""What ``megacontext calibrate`` found for one model: a small JSON file."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from megacontext.core.tree.spec import F32
from megacontext.traces.errors import ConfigError

__all__ = ["FORMAT", "HeadsCalibration", "cache_folder", "load_cached", "shipped_folder"]

FORMAT = 2
"""Since 2 the margin is of the root mean square of attention, before of its mean."""
_KEYS_FORMAT = 1
"""Of the stored keys, which have not changed."""


@dataclass(frozen=True)
class HeadsCalibration:
    """Heads that look things up, and how their attention is read.

    Attributes:
        model: fingerprint of the model's weights; another model's calibration is refused.
        heads: (layer, query head) of each head, best first.
        key_heads: (layer, key head), the distinct ones that ``heads`` read, in order.
        offset, scale: F32[key heads, D]; a key k is stored as round((k - offset) / scale).
        chunk, left: tokens encoded by one pass, and the context read before them.
        margin: blocks with at least this fraction of the best one's strength are expanded.
        min_mass: a best block with less attention than this stands out from nothing.
        max_blocks: most blocks that one question expands, neighbours and hops not counted.
        after: blocks behind a selected one that are read with it, see
            :func:`~megacontext.core.heads.neighbours.neighbour_runs`.
        hops: times that what a selected block says becomes a query of its own.
        metrics: recall on the calibration's own held-out tasks, by name.
    """

    model: str
    heads: tuple[tuple[int, int], ...]
    key_heads: tuple[tuple[int, int], ...]
    offset: F32
    scale: F32
    chunk: int = 512
    left: int = 256
    margin: float = 0.3
    min_mass: float = 0.0
    max_blocks: int = 8
    after: int = 1
    hops: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.heads or self.offset.shape != self.scale.shape:
            raise ConfigError("calibration: it names no head; run megacontext calibrate again.")

    @property
    def bytes_per_token(self) -> int:
        """Size of a token's stored keys."""
        return int(self.offset.size)

    @property
    def id(self) -> str:
        """Names the key store's content: equal ids mean equal stored keys."""
        pairs = ",".join(f"{layer}.{head}" for layer, head in self.key_heads)
        total = np.concatenate([self.offset.ravel(), self.scale.ravel()])
        digest = f"{np.abs(total).sum():.6g}"
        return f"heads-{_KEYS_FORMAT}:{self.model}:{self.chunk}+{self.left}:{pairs}:{digest}"

    def save(self, path: Path) -> None:
        """Write JSON; the file appears whole or not at all."""
        record = asdict(self) | {"format": FORMAT}
        for name in ("offset", "scale"):
            record[name] = [[float(f"{v:.5g}") for v in row] for row in getattr(self, name)]
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(record, indent=None) + "\n", encoding="utf-8")
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            ConfigError: no such file, or one that is no calibration of this version.
        """
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if record.pop("format") != FORMAT:
                raise ConfigError(
                    f"lens.path {str(path)!r} is a calibration of another version; run "
                    "megacontext calibrate again."
                )
            for name in ("offset", "scale"):
                record[name] = np.array(record[name], np.float32)
            for name in ("heads", "key_heads"):
                record[name] = tuple((int(layer), int(head)) for layer, head in record[name])
            return cls(**record)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"lens.path {str(path)!r} is no readable calibration ({error}); run megacontext "
                "calibrate and name the file that it writes."
            ) from error


def cache_folder() -> Path:
    """Where calibrations are kept: ``$MEGACONTEXT_CACHE``, else the user's cache folder."""
    named = os.environ.get("MEGACONTEXT_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "megacontext"
    return Path(named) if named else base


def shipped_folder() -> Path:
    """The calibrations that come with this package."""
    return Path(__file__).resolve().parent.parent / "pretrained" / "heads"


def load_cached(model: str) -> HeadsCalibration | None:
    """The cached or shipped calibration of the model with this fingerprint, or None.

    A cached one of another version counts as none.
    """
    for folder in (cache_folder() / "heads", shipped_folder()):
        path = folder / f"{model}.json"
        if path.is_file() and _format_of(path) == FORMAT:
            return HeadsCalibration.load(path)
    return None


def _format_of(path: Path) -> object:
    """Version of a calibration file; the present one where it is damaged, as loading then says."""
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("format", FORMAT)
    except (OSError, ValueError, AttributeError):
        return FORMAT
