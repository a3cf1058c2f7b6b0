"""Dialogs over the panes."""

from megacontext.tui.screens.choice import ChoiceScreen
from megacontext.tui.screens.conversation import ConversationScreen
from megacontext.tui.screens.help import HelpScreen
from megacontext.tui.screens.hint import HintScreen
from megacontext.tui.screens.knobs import KnobsScreen
from megacontext.tui.screens.prompt import PromptScreen

__all__ = [
    "ChoiceScreen",
    "ConversationScreen",
    "HelpScreen",
    "HintScreen",
    "KnobsScreen",
    "PromptScreen",
]
