"""Files are read in, then edits refer back to functions and to the imports of their files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from megacontext.simulator.streams.base import Stream, Truth, truth

__all__ = ["CodeSession"]


@dataclass
class CodeSession(Stream):
    """The first ``files`` spans of ``file`` blocks are files; every later edit of ``edit`` blocks
    needs two neighbouring blocks of one file and, less, that file's head."""

    name: ClassVar[str] = "code_session"
    files: int = 8
    file: int = 8
    edit: int = 12

    def targets(self, n_blocks: int) -> Truth:
        draws = self.draw(n_blocks // self.edit)
        known = max(1, min(self.files, n_blocks // self.file))
        head = int(draws[0] * known) * self.file
        block = head + int(draws[1] * (self.file - 1))
        return truth(np.array([head, block, block + 1]), np.array([0.5, 1.0, 1.0]), n_blocks)

    def markers(self, n_blocks: int) -> tuple[str, ...]:
        if n_blocks % self.file == 1 and n_blocks < self.files * self.file:
            return (f"file {n_blocks // self.file} begins",)
        return ("edit begins",) if n_blocks % self.edit == 0 else ()
