"""Pictures for the documentation: a recorded walk through the app on one trace, as SVG files.

python -m megacontext.tui.dev.capture runs/demo.arrow docs/images
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from textual.filter import Monochrome

from megacontext.tui.app import InspectorApp
from megacontext.tui.diff_app import DiffApp
from megacontext.tui.sources.file_source import FileSource

__all__ = ["SHOTS", "Shot", "capture"]

QUESTION = ("left_square_bracket",)
"""From the answer, where a run opens, back to the question."""
CLOSER = ("enter",)
FIRST_LEADS = ("backslash", "left_square_bracket", "left_square_bracket", "f")
"""Two runs open on what the longer one's question led to; then the same of the other one."""
SWAPS = ("5", "F", "s", "w", "a", "p", "enter", "down", "down", "down")


@dataclass(frozen=True)
class Shot:
    """One picture: where the walk stands, and on what terminal.

    Attributes:
        heads: it shows the run whose lens recorded what its heads matched.
    """

    name: str
    keys: tuple[str, ...]
    size: tuple[int, int] = (120, 40)
    theme: str = "mc-dark"
    diff: bool = False
    no_color: bool = False
    heads: bool = False


SHOTS: tuple[Shot, ...] = (
    Shot("tui-1-open", ()),
    Shot("tui-2-question", QUESTION),
    Shot("tui-3-worst", ("e", "s")),
    Shot("tui-4-inspect", CLOSER),
    Shot("tui-5-detail", ("v",)),
    Shot("tui-6-actions", SWAPS),
    Shot("tui-7-overview", ("7",)),
    Shot("tui-light", CLOSER, theme="mc-light"),
    Shot("tui-ansi-80x24", CLOSER, (80, 24), "mc-ansi"),
    Shot("tui-no-color", (), theme="mc-ansi", no_color=True),
    Shot("tui-80x24", CLOSER, (80, 24)),
    Shot("tui-200x60", CLOSER, (200, 60)),
    Shot("tui-diff", FIRST_LEADS, (160, 48), diff=True),
    Shot("tui-conversation", ("j", "enter"), (120, 40)),
    Shot("tui-why-smollm2", ("enter", "6"), (100, 30), heads=True),
)


async def _shoot(shot: Shot, trace: Path, other: Path | None) -> str:
    source, second = FileSource(trace), FileSource(other or trace)
    app: InspectorApp
    if shot.diff:
        app = DiffApp(source, second, ticking=False, unhurried=True, theme=shot.theme)
    else:
        app = InspectorApp(source, ticking=False, unhurried=True, theme=shot.theme)
    if shot.no_color:
        app.no_color = True
        app._filters.append(Monochrome())  # what Textual itself does where NO_COLOR is set
    async with app.run_test(size=shot.size) as pilot:
        await pilot.press(*shot.keys)
        app.session.tick()
        app.redraw()
        await pilot.pause()
        svg = app.export_screenshot(title=f"mc-tui {trace.name}")
    source.close()
    second.close()
    return svg


def capture(
    trace: Annotated[Path, typer.Argument(help="The trace to walk through.")],
    folder: Annotated[Path, typer.Argument(help="Where the SVG files go.")],
    other: Annotated[Path | None, typer.Option(help="Second trace for the diff view.")] = None,
    heads: Annotated[Path | None, typer.Option(help="Trace of a lens that records pairs.")] = None,
) -> None:
    """Write the documentation's pictures.

    Example: python -m megacontext.tui.dev.capture runs/demo.arrow docs/images
    """
    folder.mkdir(parents=True, exist_ok=True)
    for shot in SHOTS:
        shown = heads if shot.heads else trace
        if shown is None:
            typer.echo(f"{shot.name} is left as it is: it needs --heads.")
            continue
        target = folder / f"{shot.name}.svg"
        target.write_text(asyncio.run(_shoot(shot, shown, other)), encoding="utf-8")
        typer.echo(str(target))


if __name__ == "__main__":
    typer.run(capture)
