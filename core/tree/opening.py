"""From a folder to open files: creation, recovery, and every reason to refuse."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from megacontext.core.tree.checks import check_gister, check_spec
from megacontext.core.tree.ctxfile import CtxFile
from megacontext.core.tree.folder import TreeFolder
from megacontext.core.tree.level import Level
from megacontext.core.tree.manifest import Manifest
from megacontext.core.tree.rebuild import rebuild_missing
from megacontext.core.tree.recovery import Recovery, recover
from megacontext.core.tree.spec import Gister, Progress, TreeSpec
from megacontext.traces.files import FileLayer

__all__ = ["Stored", "create_stored", "open_stored"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """The open parts of a tree on disk; the writer's folder is locked."""

    folder: TreeFolder
    tokens: CtxFile
    levels: list[Level]
    recovery: Recovery


def create_stored(files: FileLayer, path: Path, manifest: Manifest) -> Stored:
    """A new tree in a folder without one; see ``Tree.create``."""
    folder = TreeFolder.create(files, path, manifest)
    with ExitStack() as on_error:
        on_error.callback(folder.release_lock)
        tokens = folder.new_tokens()
        on_error.callback(tokens.close)
        levels = folder.new_levels(manifest)
        for level in levels:
            on_error.callback(level.close)
        folder.publish(manifest)
        on_error.pop_all()
    return Stored(folder, tokens, levels, Recovery())


def open_stored(
    files: FileLayer,
    path: Path,
    gister: Gister | None,
    write: bool,
    expect: TreeSpec | None,
    progress: Progress | None,
) -> Stored:
    """The tree at ``path``, recovered and brought up to date; see ``Tree.open``."""
    folder = TreeFolder.find(files, path)
    if write:
        folder.take_lock()
    with ExitStack() as on_error:
        on_error.callback(folder.release_lock)
        folder.reload()  # a regist may have ended between the first look and the lock
        tokens = folder.open_tokens(write)
        on_error.callback(tokens.close)
        levels = folder.open_levels(write)
        for level in levels:
            on_error.callback(level.close)
        spec = folder.manifest.spec
        if expect is not None:
            check_spec(spec, expect, str(path))
        if gister is not None:
            check_gister(spec, gister, str(path))
        # Nothing was refused; from here on the writer changes files.
        if write:
            folder.adopt_new()
        recovery = recover(folder, tokens, levels, write)
        if write and gister is not None:
            rebuilt = rebuild_missing(tokens, levels, spec, gister, progress)
            recovery = recovery.with_rebuilt(rebuilt)
        on_error.pop_all()
    for note in recovery.notes:
        _LOG.warning("%s: %s", path, note)
    return Stored(folder, tokens, levels, recovery)
