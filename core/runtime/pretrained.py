"""The bundled model: where it lies, which parts are there, and what ``auto`` comes to with them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from megacontext.core.config import Config
from megacontext.traces.errors import ModelError

__all__ = ["DEMO", "bundle_folder", "bundle_parts", "resolve_kinds", "weights_id"]

DEMO = "demo"
"""The name of the bundled model in ``model.path``."""

_FILES = {"base": "config.json", "gistnet": "config.json", "lensnet": "config.json"}


def bundle_folder() -> Path:
    """The folder of the bundled base model, GistNet, LensNet and CARD.md."""
    return Path(__file__).resolve().parent.parent / "pretrained" / DEMO


def bundle_parts() -> list[str]:
    """Which of base, gistnet and lensnet the bundle holds."""
    folder = bundle_folder()
    return [part for part, file in _FILES.items() if (folder / part / file).is_file()]


def resolve_kinds(config: Config) -> Config:
    """``auto`` kinds made plain: trained parts where a path names them or the bundle has them, else
    controls. The bundle's LensNet belongs to the bundle's GistNet alone.

    Raises:
        ModelError: the bundled model is asked for and not there.
    """
    bundled = bundle_parts() if config.model.path == DEMO else []
    if config.model.path == DEMO and "base" not in bundled:
        raise ModelError(
            f"model.path is 'demo' but {bundle_folder()} holds no model; reinstall megacontext or "
            "set model.path to a model folder."
        )
    gist, lens = config.gist, config.lens
    if gist.kind == "auto":
        untrained = "token" if lens.kind == "similarity" else "none"  # which reads its keys
        gist = replace(gist, kind="gistnet" if gist.path or "gistnet" in bundled else untrained)
    if lens.kind == "auto":
        if lens.path:
            lens = replace(lens, kind="heads" if lens.path.endswith(".json") else "lensnet")
        elif gist.kind != "gistnet":
            lens = replace(lens, kind="bm25" if config.model.path == DEMO else "heads")
        else:  # its keys are trained to be found
            fits = "lensnet" in bundled and not gist.path
            lens = replace(lens, kind="lensnet" if fits else "similarity")
    return replace(config, gist=gist, lens=lens)


def weights_id(config: Config) -> str:
    """16 hex digits over the bundled files that a run of ``config`` reads; empty if it reads none.

    A bundle of a later version has the same name and other weights.
    """
    config = resolve_kinds(config)
    if config.model.path != DEMO:
        return ""
    used = ["base"]
    used += ["gistnet"] if config.gist.kind == "gistnet" and not config.gist.path else []
    used += ["lensnet"] if config.lens.kind == "lensnet" and not config.lens.path else []
    digest = hashlib.sha256()
    for file in sorted(f for part in used for f in (bundle_folder() / part).iterdir()):
        digest.update(f"{file.parent.name}/{file.name} {file.stat().st_size}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
