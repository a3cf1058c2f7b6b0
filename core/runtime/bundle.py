"""The bundled model: where it lies and which parts are there."""

from __future__ import annotations

from pathlib import Path

__all__ = ["DEMO", "bundle_folder", "bundle_parts"]

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
