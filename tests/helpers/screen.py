"""What a person sees of a Textual app: the characters on its screen, and clicks on words."""

from __future__ import annotations

from textual.app import App
from textual.pilot import Pilot
from textual.widget import Widget


def screen_lines(app: App[str]) -> list[str]:
    """The lines on the screen, as text."""
    return [strip.text for strip in app.screen._compositor.render_strips()]


def screen_text(app: App[str]) -> str:
    """All of the screen, as text."""
    return "\n".join(screen_lines(app))


async def click_on(pilot: Pilot[str], text: str, *, within: str = "", shift: int = 0) -> None:
    """Click on the first place on the screen where ``text`` stands, on a line with ``within``."""
    lines = screen_lines(pilot.app)
    for y, line in enumerate(lines):
        if text in line and within in line:
            await pilot.click(offset=(line.index(text) + shift, y))
            return
    raise AssertionError(f"{text!r} is not on the screen:\n" + "\n".join(lines))


def pane_lines(app: App[str], kind: type[Widget]) -> list[str]:
    """The lines of one pane, without its title."""
    region = app.query_one(kind).region
    return [
        line[region.x : region.right] for line in screen_lines(app)[region.y + 1 : region.bottom]
    ]
