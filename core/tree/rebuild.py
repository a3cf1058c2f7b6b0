"""Gists made again: those that lag LOD0 after a crash, or all of them by another gister."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from megacontext.core.tree.buffer import Rows
from megacontext.core.tree.checks import regist_spec
from megacontext.core.tree.disk_errors import disk_errors
from megacontext.core.tree.folder import TreeFolder
from megacontext.core.tree.level import Level, bring_up_to_date, missing_nodes
from megacontext.core.tree.recovery import recover
from megacontext.core.tree.spec import Gister, Progress, TreeSpec
from megacontext.traces.files import OS_FILES, FileLayer

__all__ = ["new_generation", "rebuild_missing", "regist"]

_LOG = logging.getLogger(__name__)
_COMMIT_EVERY = 4096


def rebuild_missing(
    tokens: Rows,
    levels: Sequence[Level],
    spec: TreeSpec,
    gister: Gister,
    progress: Progress | None,
) -> int:
    """Make and commit the gists that lag LOD0; returns how many.

    Commits every few thousand nodes, so that another crash does not start it all over.
    """
    n_missing = missing_nodes(levels, tokens.count, spec.block_size)
    if not n_missing:
        return 0

    def after_batch(level: Level) -> None:
        if level.count - level.committed >= _COMMIT_EVERY:
            level.commit()

    bring_up_to_date(tokens, levels, spec, gister, progress, after_batch)
    for level in levels:
        level.commit()
    return n_missing


def new_generation(
    folder: TreeFolder, tokens: Rows, spec: TreeSpec, gister: Gister, progress: Progress | None
) -> list[Level]:
    """Make all gists anew beside the old ones and publish them; returns the open levels.

    Where the gister fails, the attempt is removed and the old gists stay.
    """
    manifest = replace(folder.manifest, generation=folder.manifest.generation + 1, spec=spec)
    with ExitStack() as on_error:
        levels = folder.new_levels(manifest)
        for level in levels:
            on_error.callback(level.close)
        try:
            bring_up_to_date(tokens, levels, spec, gister, progress)
        except Exception:  # whatever a gister raises
            folder.discard_new()
            raise
        for level in levels:
            level.commit()
        folder.publish(manifest)
        on_error.pop_all()
    return levels


def regist(
    path: Path,
    gister: Gister,
    *,
    files: FileLayer = OS_FILES,
    progress: Progress | None = None,
) -> None:
    """Make all gists of the tree at ``path`` anew, whatever state its gist files are in.

    Raises:
        LockedError: another process writes the tree.
        StorageError: LOD0 or the manifest is damaged, or the disk failed.
        ModelError: the gister does not fit the tree.
    """
    with disk_errors(f"regist {path}"), ExitStack() as stack:
        folder = TreeFolder.find(files, path)
        folder.take_lock()
        stack.callback(folder.release_lock)
        folder.reload()
        spec = regist_spec(folder.manifest.spec, gister, str(path))
        tokens = folder.open_tokens(write=True)
        stack.callback(tokens.close)
        for note in recover(folder, tokens, [], write=True).notes:
            _LOG.warning("%s: %s", path, note)
        for level in new_generation(folder, tokens, spec, gister, progress):
            level.close()
