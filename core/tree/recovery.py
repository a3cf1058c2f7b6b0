"""What a writer repairs when it opens a tree that was not closed cleanly."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from megacontext.core.geometry import node_count, span
from megacontext.core.tree.buffer import Rows
from megacontext.core.tree.ctxfile import CtxFile
from megacontext.core.tree.folder import TreeFolder
from megacontext.core.tree.level import Level

__all__ = ["Recovery", "ctx_files", "recover", "shrink_files"]


@dataclass(frozen=True)
class Recovery:
    """What opening found.

    Attributes:
        slot: the header slot of LOD0 that served (0 or 1); -1 for a tree in memory.
        fell_back: files whose last commit failed its checksum, so that the one before serves.
        dropped_tokens: committed tokens that LOD0 lost to damage; what is left of them was
            copied to LOD0.ctx.lost<sequence>.
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

    The order matters for a crash in the middle: first every serving header is made durable, then
    lost entries are copied, then gists of tokens that LOD0 lost are cut off, and only then are
    damaged headers overwritten.
    """
    files = ctx_files(tokens, levels)
    fell_back = [file.path.name for file in files if file.fell_back is not None]
    damaged = [file.path.name for file in files if file.damaged_slots]
    notes = [
        f"the last commit of {name} fails its checksum, the one before serves."
        for name in fell_back
    ]
    notes += [f"one header of {name} is damaged, the other one serves." for name in damaged]

    slot = tokens.header.sequence & 1
    dropped = _dropped_tokens(tokens, levels, folder.manifest.spec.block_size)
    if dropped:
        notes.append(f"{dropped} tokens of commits that LOD0.ctx lost were dropped.")

    # A reader changes nothing; it only reports.
    if write:
        for file in files:
            file.make_durable()
        if dropped:
            notes.append(f"a copy of them is in {folder.keep_lost(tokens, dropped)}.")
        for level in levels:
            nodes = node_count(level.number, tokens.count, folder.manifest.spec.block_size)
            for rows in (level.gists, level.keys):
                assert isinstance(rows, CtxFile)
                rows.trim(nodes)
        for file in files:
            file.settle()

    return Recovery(
        slot=slot,
        fell_back=tuple(fell_back),
        dropped_tokens=dropped,
        damaged_slots=tuple(damaged),
        notes=tuple(notes),
    )


def shrink_files(tokens: Rows, levels: Sequence[Level]) -> None:
    """Cut off the space that a tree's files were extended by in advance, if it is on disk.

    Everything is committed by then, so a file that cannot be cut does no harm.
    """
    if isinstance(tokens, CtxFile):
        with suppress(OSError):
            for file in ctx_files(tokens, levels):
                file.shrink()


def _dropped_tokens(tokens: CtxFile, levels: Sequence[Level], block_size: int) -> int:
    """Tokens known to have been committed beyond what LOD0 still vouches for.

    Levels commit after LOD0, so their nodes are proof even where LOD0's own header is gone.
    """
    ends = [span(level.number, level.count, block_size)[0] for level in levels]
    if tokens.fell_back is not None:
        ends.append(tokens.fell_back.count)
    return max([tokens.count, *ends]) - tokens.count
