"""The configs that the package brings along, by name: ``demo``, ``text``, ``train/lora``.

In a checkout they are the folder ``configs/``, in an installed package ``megacontext/configs``;
both lie next to this package's folder.
"""

from __future__ import annotations

import difflib
from pathlib import Path

__all__ = ["config_folder", "config_hint", "config_names", "find_config"]

_SUFFIX = ".yaml"


def config_folder() -> Path:
    """The folder of the packaged configs."""
    return Path(__file__).resolve().parent.parent / "configs"


def config_names() -> list[str]:
    """Names of all packaged configs, sorted; those in a subfolder as ``folder/name``."""
    folder = config_folder()
    paths = (path.relative_to(folder) for path in folder.rglob(f"*{_SUFFIX}"))
    return sorted(path.with_suffix("").as_posix() for path in paths)


def find_config(path: Path) -> Path:
    """The file that ``--config`` names.

    A file that exists wins. Otherwise ``demo``, ``demo.yaml`` and ``configs/demo.yaml`` mean the
    packaged config of that name, so that the commands of the documentation work in any folder.
    A path that is neither comes back as it is, for its reader to refuse.
    """
    if path.is_file() or path.is_absolute():
        return path
    name = _name_of(path)
    return config_folder() / f"{name}{_SUFFIX}" if name in config_names() else path


def config_hint(path: Path) -> str:
    """How an error about a missing config ends: a packaged config of nearly that name, or how
    to list them."""
    close = difflib.get_close_matches(_name_of(path), config_names(), n=1)
    if close:
        return f"did you mean the packaged config {close[0]}? `megacontext configs` lists them all."
    return "check the path, or name a packaged config (`megacontext configs` lists them)."


def _name_of(path: Path) -> str:
    parts = path.parts[1:] if path.parts[:1] == ("configs",) else path.parts
    return Path(*parts).as_posix().removesuffix(_SUFFIX)
