"""The panes: thin Textual widgets around the pure renderers."""

from megacontext.tui.widgets.actions import ActionsPane
from megacontext.tui.widgets.budget import BudgetPane
from megacontext.tui.widgets.conversation import ConversationPane
from megacontext.tui.widgets.heat import HeatPane
from megacontext.tui.widgets.inspector import InspectorPane
from megacontext.tui.widgets.key_bar import KeyBar
from megacontext.tui.widgets.lines import StoryLine, TitleLine
from megacontext.tui.widgets.map import MapPane
from megacontext.tui.widgets.overview import OverviewPane, TwoRunsPane
from megacontext.tui.widgets.pane import Pane
from megacontext.tui.widgets.scrubber import Scrubber
from megacontext.tui.widgets.text import TextPane
from megacontext.tui.widgets.waterfall import WaterfallPane

__all__ = [
    "ActionsPane",
    "BudgetPane",
    "ConversationPane",
    "HeatPane",
    "InspectorPane",
    "KeyBar",
    "MapPane",
    "OverviewPane",
    "Pane",
    "Scrubber",
    "StoryLine",
    "TextPane",
    "TitleLine",
    "TwoRunsPane",
    "WaterfallPane",
]
