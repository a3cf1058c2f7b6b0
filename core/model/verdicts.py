"""Verdicts of the parity check, kept by model and version in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
import transformers

from megacontext.core.model.base import BaseModel
from megacontext.core.model.files import ModelFiles
from megacontext.core.model.parity import Verdict, check_parity, checked_rows
from megacontext.traces.whole_file import write_whole

__all__ = ["parity_of", "user_cache"]

_CHECK = 1
"""Counts changes of the check itself: a verdict of another one is not used."""


def user_cache() -> Path:
    """The folder for what can be computed again: ``MEGACONTEXT_CACHE``, else the user's cache."""
    given = os.environ.get("MEGACONTEXT_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "megacontext"


def parity_of(base: BaseModel, files: ModelFiles, w_max: int | None) -> Verdict:
    """The verdict on a model that was just loaded; computed once per model and version."""
    path = user_cache() / "parity" / f"{_key(base, files, w_max)}.json"
    try:
        return Verdict(**json.loads(path.read_text(encoding="utf8")))
    except (OSError, ValueError, TypeError):
        pass  # not there, or of another form: check again
    verdict = check_parity(base, w_max)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(verdict)) + "\n")
    except OSError:
        pass  # a cache folder that cannot be written costs time, nothing else
    return verdict


def _key(base: BaseModel, files: ModelFiles, w_max: int | None) -> str:
    """24 hex digits over everything that the verdict depends on."""
    facts = [
        _CHECK,
        torch.__version__,
        transformers.__version__,
        base.module.config.to_json_string(use_diff=False),
        base.module.config._attn_implementation,
        str(base.dtype),
        base.device.type,
        checked_rows(base, w_max),
        getattr(base.module.config, "_commit_hash", None),
        *_stamps(files),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def _stamps(files: ModelFiles) -> list[str]:
    """Name, size and time of each local file: other weights are checked anew."""
    found = []
    for path in files.paths:
        within = sorted(path.iterdir()) if path.is_dir() else [path]
        for file in within:
            stat = file.stat()
            found.append(f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}")
    return found
