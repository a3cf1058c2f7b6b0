"""What a writer repairs when it opens a tree that was not closed cleanly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from megacontext.core.tree.ctxfile import CtxFile
from megacontext.core.tree.folder import TreeFolder
from megacontext.core.tree.level import Level

__all__ = ["Recovery", "ctx_files", "recover"]


@dataclass(frozen=True)
class Recovery:
    """What opening found.

    Attributes:
        slot: the header slot of LOD0 that served (0 or 1); -1 for a tree in memory.
        fell_back: files whose last commit failed its checksum, so that the one before serves.
        dropped_tokens: tokens of such a commit of LOD0; a copy lies in LOD0.ctx.lost<sequence>.
        damaged_slots: files with one unreadable header slot.
        rebuilt_nodes: gists made again because their level lagged LOD0.
        notes: one sentence for each finding.
    """

    slot: int = -1
    fell_back: tuple[str, ...] = ()
    dropped_tokens: int = 0
    damaged_slots: tuple[str, ...] = ()
    rebuilt_nodes: int = 0
    notes: tuple[str, ...] = ()

    def with_rebuilt(self, nodes: int) -> Recovery:
        if not nodes:
            return self
        note = f"{nodes} gists that lagged LOD0.ctx were made again."
        return replace(self, rebuilt_nodes=nodes, notes=(*self.notes, note))


def ctx_files(tokens: CtxFile, levels: Sequence[Level]) -> list[CtxFile]:
    """All files of a tree on disk, LOD0 first."""
    pairs = [rows for level in levels for rows in (level.gists, level.keys)]
    return [tokens, *(rows for rows in pairs if isinstance(rows, CtxFile))]


def recover(folder: TreeFolder, tokens: CtxFile, levels: Sequence[Level], write: bool) -> Recovery:
    """Report what opening found and, for the writer, make the files agree with it.

    The order matters for a crash in the middle: gists of tokens that LOD0 lost are cut off first,
    then the lost entries are copied, and only then is LOD0's damaged header overwritten.
    """
    files = ctx_files(tokens, levels)
    fell_back = [file for file in files if file.fell_back is not None]
    notes = [
        f"the last commit of {file.path.name} fails its checksum; the one before it serves."
        for file in fell_back
    ]
    damaged = [file.path.name for file in files if file.damaged_slots]
    notes += [f"one header of {name} is damaged; the other one serves." for name in damaged]
    newest = tokens.fell_back
    dropped = max(newest.count - tokens.count, 0) if newest else 0
    size = folder.manifest.spec.block_size
    for level in levels:
        nodes = tokens.count // size**level.number
        if max(level.gists.count, level.keys.count) > nodes:
            notes.append(
                f"level {level.number} held gists of tokens that LOD0.ctx lost; they were cut off."
            )
            if write:
                for rows in (level.gists, level.keys):
                    assert isinstance(rows, CtxFile)
                    rows.trim(nodes)
    if write and dropped:
        notes.append(f"{dropped} lost tokens were copied to {folder.keep_lost(tokens)}.")
    if write:
        for file in fell_back:
            file.settle()
    return Recovery(
        slot=tokens.header.sequence & 1,
        fell_back=tuple(file.path.name for file in fell_back),
        dropped_tokens=dropped,
        damaged_slots=tuple(damaged),
        notes=tuple(notes),
    )
