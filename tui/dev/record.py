"""A conversation with a running engine as one animated SVG file, without scripts or fonts.

python -m megacontext.tui.dev.record runs/demo.arrow docs/images/tui-ask.svg --question "Who is …?"
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.style import Style
from textual.pilot import Pilot

from megacontext.traces.errors import ConfigError, MegaContextError
from megacontext.tui.app import InspectorApp
from megacontext.tui.live.connect import connector
from megacontext.tui.sources.live_source import LiveSource

__all__ = ["Frame", "Run", "animated", "record"]

CELL_W, CELL_H, MARGIN = 8.4, 18.0, 8.0
KEY_S, LOOK_S, WAIT_S, STILL_S = 0.05, 0.1, 0.6, 5.0
"""Between typed keys; between looks; longest wait between frames that is shown; the last frame."""
BLOCKS = {"█": (0.0, 1.0), "▀": (0.0, 0.5), "▄": (0.5, 0.5)}
"""Part of a cell from the top, and how much: drawn as rectangles, which no font displaces."""
BLOCKS |= {glyph: (1 - n / 8, n / 8) for n, glyph in enumerate("▁▂▃▄▅▆▇", 1)}


class Run(NamedTuple):
    """Neighbouring cells of one style; colours as "#rrggbb"."""

    text: str
    colour: str
    ground: str
    bold: bool


class Frame(NamedTuple):
    """The screen from ``at_s`` on: a tuple of runs per line."""

    at_s: float
    lines: tuple[tuple[Run, ...], ...]


def animated(frames: Sequence[Frame], *, title: str) -> str:
    """The SVG document that shows ``frames`` over and over; it ends on the last one.

    Each different line is drawn once, and shown while a frame has it: most lines of most frames
    are those of the frame before.
    """
    seconds = frames[-1].at_s + STILL_S
    starts = [frame.at_s / seconds for frame in frames] + [1.0]
    columns = max(sum(len(run.text) for run in line) for frame in frames for line in frame.lines)
    width = columns * CELL_W + 2 * MARGIN
    height = max(len(frame.lines) for frame in frames) * CELL_H + 2 * MARGIN

    # Which frames show which line at which height.
    shown: dict[tuple[int, tuple[Run, ...]], list[int]] = {}
    for number, frame in enumerate(frames):
        for y, line in enumerate(frame.lines):
            shown.setdefault((y, line), []).append(number)

    parts = []
    for (y, line), numbers in shown.items():
        body = _line(line, MARGIN + y * CELL_H)
        if len(numbers) == len(frames):
            parts.append(f"<g>{body}</g>")
            continue
        last = "visible" if numbers[-1] == len(frames) - 1 else "hidden"
        parts.append(f'<g visibility="{last}">{body}{_visible(numbers, starts, seconds)}</g>')
    ground = frames[-1].lines[0][0].ground
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}">'
        f"<title>{escape(title)}</title>"
        f'<rect width="100%" height="100%" rx="6" fill="{ground}"/>'
        "<g font-family=\"ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace\""
        f' font-size="14" xml:space="preserve">{"".join(parts)}</g></svg>\n'
    )


def _visible(numbers: Sequence[int], starts: Sequence[float], seconds: float) -> str:
    """The animation that shows a line during the frames ``numbers``."""
    times, values = [0.0], ["visible" if numbers[0] == 0 else "hidden"]
    for number in range(1, len(starts) - 1):
        now = "visible" if number in numbers else "hidden"
        if now != values[-1]:
            times.append(starts[number])
            values.append(now)
    return (
        f'<animate attributeName="visibility" calcMode="discrete" dur="{seconds:.2f}s"'
        f' repeatCount="indefinite" keyTimes="{";".join(f"{t:.4f}" for t in times)}"'
        f' values="{";".join(values)}"/>'
    )


def _line(line: Sequence[Run], y: float) -> str:
    """One line of cells: grounds, then blocks as rectangles, other characters as text."""
    grounds, parts, x = [], [], MARGIN
    for run in line:
        grounds.append(_rectangle(x, y, len(run.text) * CELL_W, CELL_H, run.ground))
        for glyph, cells in groupby(run.text, key=lambda ch: ch if ch in BLOCKS else ""):
            text = "".join(cells)
            if glyph:
                top, part = BLOCKS[glyph]
                wide = len(text) * CELL_W
                parts.append(_rectangle(x, y + top * CELL_H, wide, part * CELL_H, run.colour))
            elif text.strip():
                parts.append(_text(x, y, text, run))
            x += len(text) * CELL_W
    return "".join(grounds + parts)


def _rectangle(x: float, y: float, width: float, height: float, colour: str) -> str:
    attributes = f'x="{x:.1f}" y="{y:.1f}" width="{width + 0.2:.1f}" height="{height + 0.2:.1f}"'
    return f'<rect {attributes} fill="{colour}"/>'


def _text(x: float, y: float, text: str, run: Run) -> str:
    """Words at their cells, each pulled to its width so that any monospaced font keeps columns."""
    weight = ' font-weight="bold"' if run.bold else ""
    parts = []
    for word in re.finditer(r"\S+(?: \S+)*", text):
        attributes = f'x="{x + word.start() * CELL_W:.1f}" y="{y + 13.5:.1f}"'
        length = f'textLength="{len(word[0]) * CELL_W:.1f}" lengthAdjust="spacingAndGlyphs"'
        escaped = escape(word[0], quote=False)
        parts.append(f'<text {attributes} {length} fill="{run.colour}"{weight}>{escaped}</text>')
    return "".join(parts)


def _screen(app: InspectorApp, at_s: float) -> Frame:
    """What is on the screen now."""
    lines = []
    for strip in app.screen._compositor.render_strips():
        runs = [
            Run(segment.text, *_colors(segment.style or Style()), bool(_bold(segment.style)))
            for segment in strip
            if segment.text
        ]
        combined = groupby(runs, key=lambda run: run[1:])
        lines.append(tuple(Run("".join(r.text for r in same), *key) for key, same in combined))
    return Frame(at_s, tuple(lines))


def _bold(style: Style | None) -> bool | None:
    return style.bold if style is not None else None


def _colors(style: Style) -> tuple[str, str]:
    front, back = (
        color.get_truecolor().hex if color is not None and not color.is_default else other
        for color, other in ((style.color, "#d5dce4"), (style.bgcolor, "#0c1016"))
    )
    return (back, front) if style.reverse else (front, back)


async def _converse(
    trace: Path, question: str, size: tuple[int, int], wait_s: float
) -> list[Frame]:
    """Ask ``question`` and look at the screen until its answer is complete."""
    source = LiveSource(trace, connect=connector(trace))
    app = InspectorApp(source, theme="mc-dark")
    frames: list[Frame] = []
    now_s, looked = 0.0, time.monotonic()

    def look(max_length_s: float = WAIT_S) -> None:
        """Note the screen where it changed; long waits are cut short."""
        nonlocal now_s, looked
        frame = _screen(app, now_s)
        if frames and frame.lines == frames[-1].lines:
            return
        if frames:
            now_s += min(time.monotonic() - looked, max_length_s)
        looked = time.monotonic()
        frames.append(frame._replace(at_s=now_s))

    async def until(pilot: Pilot[str], done: str) -> None:
        deadline = time.monotonic() + wait_s
        while not _reached(app, done):
            if not source.status().growing:
                raise ConfigError(f"{trace}: its run has ended; record one that still runs.")
            if time.monotonic() > deadline:
                raise ConfigError(f"--wait {wait_s:g}: no {done} came in that time; give more.")
            await pilot.pause(LOOK_S)
            look()

    async with app.run_test(size=size) as pilot:
        await until(pilot, "engine")
        look()
        await pilot.press("i")
        for key in question:
            await pilot.press("space" if key == " " else key)
            await pilot.pause(KEY_S)
            look(2 * KEY_S)
        await pilot.press("enter")
        await until(pilot, "answer")
        await pilot.pause(LOOK_S)
        look()
        if source.control is not None:
            source.control.detach()
    source.close()
    return frames


def _reached(app: InspectorApp, what: str) -> bool:
    if what == "engine":
        return app.source.control is not None and app.source.num_rows > 0
    turns = app.session.talk.turns()
    return bool(turns) and turns[-1].complete and not app.session.playback.following


def record(
    trace: Annotated[Path, typer.Argument(help="The trace of a session that runs.")],
    target: Annotated[Path, typer.Argument(help="The SVG file to write.")],
    question: Annotated[str, typer.Option(help="What to ask.")],
    size: Annotated[str, typer.Option(help="The terminal: COLUMNSxLINES.")] = "80x24",
    wait: Annotated[float, typer.Option(help="Longest wait for the answer, seconds.")] = 300.0,
) -> None:
    """Ask a running session and write what the screen showed as an animated SVG.

    Example: python -m megacontext.tui.dev.record runs/demo.arrow ask.svg --question "Who is it?"
    """
    match = re.fullmatch(r"(\d+)x(\d+)", size)
    if match is None:
        raise ConfigError(f"--size {size!r} is no size; give COLUMNSxLINES, for example 80x24.")
    frames = asyncio.run(_converse(trace, question, (int(match[1]), int(match[2])), wait))
    target.write_text(animated(frames, title=f"mc-tui: {question}"), encoding="utf-8")
    typer.echo(f"{target}: {len(frames)} frames, {frames[-1].at_s:.0f} s")


def main() -> None:
    """Run the command line. An error is one sentence and exit code 2."""
    try:
        typer.run(record)
    except MegaContextError as error:
        typer.echo(f"record: {error}", err=True)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
