"""The title line and the story line."""

from __future__ import annotations

from megacontext.tui.render.bars import draw_story, draw_title
from megacontext.tui.widgets.inspector import NamesPane
from megacontext.tui.widgets.pane import Pane

__all__ = ["StoryLine", "TitleLine"]


class TitleLine(Pane):
    draw = staticmethod(draw_title)


class StoryLine(NamesPane):
    draw = staticmethod(draw_story)
