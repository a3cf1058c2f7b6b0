"""What can be taken out of the inspector: text for the clipboard, links, files."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np

from megacontext.traces.errors import ConfigError, TraceError
from megacontext.traces.export import export
from megacontext.traces.reader import TraceReader
from megacontext.tui.render.bars import story
from megacontext.tui.render.marks import KIND_SIGN, REASON_WORDS, signed
from megacontext.tui.render.run_picture import run_picture
from megacontext.tui.state.action_log import LINES
from megacontext.tui.state.frame import Frame
from megacontext.tui.state.goto import parse_location
from megacontext.tui.state.viewer import ViewerState

__all__ = ["COPIES", "command_of", "copy_text", "free_path", "open_at", "system_clipboard", "write"]

COPIES: dict[str, str] = {
    "s": "the sentence below the panes",
    "t": "the text of the selected span, or the newest",
    "n": "the selected node's name",
    "a": "the action list as a table",
    "l": "the command that opens the inspector here",
}
CLIPBOARDS = (("wl-copy",), ("pbcopy",), ("xclip", "-selection", "clipboard"), ("clip.exe",))


def copy_text(session: ViewerState, what: str) -> str:
    """The text that ``what``, a key of ``COPIES``, stands for; "" where there is none."""
    frame = session.frame()
    if what == "s":
        session.notice, notice = "", session.notice
        sentence = story(session.frame())[0]
        session.notice = notice
        return sentence
    if what == "t":
        return "".join(frame.text.pieces) if frame.text is not None else ""
    if what == "n":
        return str(frame.view.node) if frame.view.node is not None else ""
    return _table(frame) if what == "a" else command_of(session)


def _table(frame: Frame) -> str:
    """The lines on screen, tab-separated, with a head."""
    lines = ["step\taction\tnode\tscore\treason\tother half\ttext"]
    for line in frame.log.lines[:LINES]:
        sign = ("" if line.applied else "✗") + KIND_SIGN[line.kind]
        other = " ".join(map(str, line.partners))
        reason = REASON_WORDS.get(line.reason, "?")
        cells = (line.step, sign, line.node, signed(line.score), reason, other, line.words)
        lines.append("\t".join(str(cell) for cell in cells))
    return "\n".join(lines)


def command_of(session: ViewerState) -> str:
    """``mc-tui replay TRACE --at STEP[.ROUND][:NODE]`` of what is on screen."""
    row, path = session.row, session.source.path
    trace = shlex.quote(str(path)) if path is not None else session.info.name
    if row is None:
        return f"mc-tui replay {trace}"
    within = f".{row.round + 1}" if row.round else ""
    node = f":{session.view.node}" if session.view.node is not None else ""
    return f"mc-tui replay {trace} --at {row.step}{within}{node}"


def open_at(session: ViewerState, location: str) -> None:
    """Go to ``STEP[.ROUND][:NODE]``.

    Raises:
        ConfigError: it is no such place, or the run has no such step, round or node.
    """
    target = parse_location(location)
    steps = session.source.scalars.step
    if target is None:
        raise ConfigError(
            f"--at {location!r} is no place; give STEP[.ROUND][:NODE], for example 1773.3:L1@47."
        )

    # The row of that step and round.
    step, within, node = target
    rows = np.flatnonzero(steps == step)
    if not len(rows):
        known = f"{int(steps[0])} to {int(steps[-1])}" if len(steps) else "none"
        raise ConfigError(
            f"--at {location!r}: this trace has no step {step}; its steps are {known}."
        )
    if within > len(rows):
        raise ConfigError(
            f"--at {location!r}: step {step} has {len(rows)} round(s); give a round up to that."
        )

    # The node, if one is named.
    session.seek(int(rows[within - 1]))
    session.look(lambda view: view.select(None))
    if node is None:
        return
    row = session.row
    if row is None or node.level < 1 or node.span(row.block_size)[1] > row.history:
        raise ConfigError(f"--at {location!r}: {node} is not complete at step {step}.")
    session.look(lambda view: view.select(node))


def system_clipboard(text: str) -> bool:
    """Hand ``text`` to the desktop's clipboard where there is a tool for it.

    The terminal gets it by OSC 52 in any case, which also works over SSH.
    """
    for command in CLIPBOARDS:
        if shutil.which(command[0]):
            try:
                done = subprocess.run(
                    command, input=text.encode(), timeout=2, check=False,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
            except (OSError, subprocess.TimeoutExpired):
                continue
            if done.returncode == 0:
                return True
    return False


def free_path(folder: Path, stem: str, suffix: str) -> Path:
    """A path in ``folder`` that nothing has: ``stem.svg``, ``stem-2.svg``, …"""
    stem = re.sub(r"[^\w.+-]+", "-", stem)
    path, number = folder / f"{stem}{suffix}", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}{suffix}"
    return path


def write(session: ViewerState, kind: str, folder: Path) -> Path:
    """Write the run's figures ("csv"), its rows ("parquet") or its picture ("png").

    Raises:
        TraceError: the run has no rows, or the file cannot be written.
    """
    stem = Path(session.info.name).stem or "run"
    trace = session.source.path
    if not session.source.num_rows:
        raise TraceError("This trace has no rows yet; there is nothing to export.")

    # Under a name that nothing has; an error of the disk is a sentence.
    path = free_path(folder, f"{stem}-run" if kind == "png" else stem, f".{kind}")
    try:
        if kind == "csv":
            _csv(session, path)
        elif kind == "png":
            path.write_bytes(run_picture(session.run()))
        elif trace is None:
            raise TraceError("Only a trace on disk can be written as Parquet.")
        else:
            reader = TraceReader.open(trace)
            try:
                export(reader, path)
            finally:
                reader.close()
    except OSError as error:
        raise TraceError(
            f"{path.name} cannot be written ({error.strerror or error}); start mc-tui elsewhere."
        ) from error
    return path


def _csv(session: ViewerState, path: Path) -> None:
    """One line per row of the trace: what the overview's lanes show."""
    session.source.read_vitals(lambda: False)
    run = session.run()
    names = ("nll", "swap", "residency", "latency", "drift")
    head = ("row", "step", "history_tokens", "nll", "swap_rate", "residency", "us", "kv_drift")
    lanes = [run.lane(name) for name in names]
    counts = run.vitals
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow((*head, "voluntary", "refused", "marker"))
        labels = {m.row: m.label for m in session.markers}
        for n in range(run.num_rows):
            values = ["" if np.isnan(lane[n]) else f"{lane[n]:.6g}" for lane in lanes]
            done = (int(counts.voluntary[n]), int(counts.refused[n]), labels.get(n, ""))
            out.writerow((n, int(run.steps[n]), int(run.history[n]), *values, *done))
