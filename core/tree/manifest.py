"""``manifest.json``: what the folder holds.

Replacing it is the commit point of ``create`` and ``regist``.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacontext.core.tree.spec import TreeSpec
from megacontext.traces.errors import ConfigError, StorageError
from megacontext.traces.files import FileLayer

__all__ = ["MANIFEST", "Manifest", "read_manifest", "write_manifest"]

MANIFEST = "manifest.json"
_FORMAT = "megacontext-tree"
_VERSION = 1
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Manifest:
    """The tree's identity.

    Attributes:
        tree_id: 32 hex digits.
        created: UTC, ISO 8601.
        generation: raised by regist; gist files of another generation are not part of the tree.
    """

    tree_id: str
    created: str
    generation: int
    spec: TreeSpec

    @property
    def files(self) -> list[str]:
        """LOD0, then the gists and the keys of each level."""
        levels = range(1, self.spec.max_levels + 1)
        derived = [name for n in levels for name in (f"LOD{n}.ctx", f"KEY{n}.ctx")]
        return ["LOD0.ctx", *derived]


def write_manifest(files: FileLayer, folder: Path, manifest: Manifest) -> None:
    """Replace the manifest: temporary file, sync, rename, sync of the folder."""
    spec = manifest.spec.as_dict()
    tokenizer = spec.pop("tokenizer")
    body: dict[str, Any] = {
        "format": _FORMAT,
        "version": _VERSION,
        "tree": manifest.tree_id,
        "created": manifest.created,
        "generation": manifest.generation,
        "gist_checkpoint": manifest.spec.gist_checkpoint,
        "spec": spec,
        "files": manifest.files,
    }
    if tokenizer:  # beside the spec, where a reader that does not know it passes over it
        body["tokenizer"] = tokenizer

    body["crc"] = _crc(body)

    # A crash leaves either the old manifest or the new one, never a part.
    new = folder / f"{MANIFEST}.new"
    handle = files.open(new, write=True, create=True)
    try:
        handle.truncate(0)
        handle.pwrite(0, (json.dumps(body, indent=2, ensure_ascii=False) + "\n").encode())
        handle.datasync()
    finally:
        handle.close()
    files.rename(new, folder / MANIFEST)
    files.sync_folder(folder)


def read_manifest(files: FileLayer, folder: Path) -> Manifest:
    """The manifest of ``folder``.

    Raises:
        StorageError: it is missing, damaged, foreign or of a newer version.
    """
    path = folder / MANIFEST
    if not files.exists(path):
        raise StorageError(
            f"{folder} has no {MANIFEST}; name the folder of a tree, or create one there first."
        )

    handle = files.open(path)
    try:
        raw = handle.pread(0, _MAX_BYTES)
    finally:
        handle.close()
    damaged = f"{path} is damaged; restore it from a backup of this folder."

    # Format and version come first: the checksum of another format says nothing.
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise StorageError(damaged) from error
    if not isinstance(body, dict) or body.get("format") != _FORMAT:
        raise StorageError(f"{path} does not describe a tree; name the folder of a tree.")
    version = body.get("version")
    if isinstance(version, int) and version > _VERSION:
        raise StorageError(
            f"{path} has format version {version} but this program reads up to {_VERSION}; use a "
            f"newer megacontext."
        )
    if body.pop("crc", None) != _crc(body):
        raise StorageError(damaged)

    try:
        spec = TreeSpec(**body["spec"], tokenizer=str(body.get("tokenizer", "")))
        return Manifest(body["tree"], body["created"], body["generation"], spec)
    except (KeyError, TypeError, ConfigError) as error:
        raise StorageError(damaged) from error


def _crc(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
