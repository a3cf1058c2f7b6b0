"""A person's marks and notes of a run, in a file beside its trace."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from megacontext.traces.whole_file import write_whole
from megacontext.tui.state.frame import Marker

__all__ = ["MarkFile", "mark_path"]

VERSION = 1
MAX_BYTES = 4_000_000
MAX_ROWS = 1 << 32


def mark_path(trace: Path) -> Path:
    """``run.arrow`` → ``run.arrow.marks.json``."""
    return trace.with_name(trace.name + ".marks.json")


@dataclass
class MarkFile:
    """Marks by row. Without a trace on disk they live as long as the viewer.

    Attributes:
        trace: the trace that they belong to.
        problem: why they could not be read or written, "" where all is well.
    """

    trace: Path | None
    marks: list[Marker] = field(default_factory=list)
    problem: str = ""

    @classmethod
    def read(cls, trace: Path | None) -> MarkFile:
        """The marks beside ``trace``; none where there is no such file."""
        marks = cls(trace)
        if trace is None:
            return marks
        path = mark_path(trace)
        try:
            if not path.exists():
                return marks
            if path.stat().st_size > MAX_BYTES:
                raise ValueError("it is too large")
            entries = json.loads(path.read_text(encoding="utf-8"))["marks"]
            marks.marks = [Marker(int(e["row"]), str(e["name"]), personal=True) for e in entries]
            if any(not 0 <= mark.row < MAX_ROWS for mark in marks.marks):
                raise ValueError("a row lies outside of any trace")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            marks.marks = []
            marks.problem = (
                f"The marks in {path.name} cannot be read ({error}); repair or remove that file."
            )
        return marks

    def at(self, row: int) -> Marker | None:
        """The mark on ``row``."""
        return next((m for m in self.marks if m.row == row), None)

    def unused_name(self) -> str:
        """ "mark 1", "mark 2", …: the first that no mark has."""
        names = {m.label for m in self.marks}
        return next(n for i in range(1, len(names) + 2) if (n := f"mark {i}") not in names)

    def put(self, row: int, step: int, name: str) -> None:
        """Mark ``row``, or rename its mark; saved at once."""
        self.marks = sorted(
            [*(m for m in self.marks if m.row != row), Marker(row, name, personal=True)],
            key=lambda m: m.row,
        )
        self._steps[row] = step
        self._save()

    def remove(self, row: int) -> bool:
        """Take the mark on ``row`` away; False where there was none."""
        before = len(self.marks)
        self.marks = [m for m in self.marks if m.row != row]
        if len(self.marks) != before:
            self._save()
        return len(self.marks) != before

    _steps: dict[int, int] = field(default_factory=dict, repr=False)

    def _save(self) -> None:
        """Replace the file as a whole. A file that could not be read is left alone."""
        if self.trace is None or "cannot be read" in self.problem:
            return
        path = mark_path(self.trace)
        entries = [
            {"row": m.row, "step": self._steps.get(m.row), "name": m.label} for m in self.marks
        ]
        try:
            content = json.dumps(
                {"version": VERSION, "marks": entries}, ensure_ascii=False, indent=1
            )
            encoded = content.encode(errors="replace")  # a lone surrogate has no UTF-8
            write_whole(path, encoded.decode() + "\n")
            self.problem = ""
        except OSError as error:
            self.problem = (
                f"The mark was not saved ({error.strerror or error}); it lasts until you quit."
            )
