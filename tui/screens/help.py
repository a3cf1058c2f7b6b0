"""Help: every key, then the idea, then what each pane shows."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from megacontext.tui.commands import COMMANDS, key_label
from megacontext.tui.screens.dialog import Dialog
from megacontext.tui.screens.legend import coloured

__all__ = ["HelpScreen", "help_text"]

CONCEPTS: tuple[tuple[str, str], ...] = (
    (
        "What you are looking at",
        "A language model reads a text that is far longer than its window. The whole history is"
        " kept in a tree: a block is K tokens in a row, and each block has a gist, one vector that"
        " stands for all of them. K gists have a gist of their own, and so on.",
    ),
    (
        "What the model sees",
        "At any moment the model sees all of the history, but at mixed detail: some blocks raw,"
        " token by token (raw, cyan ▀), most as gists (L1, violet ▄), far ones as gists of"
        " gists (L2 and up, slate █). The newest, incomplete block is the tail: always raw."
        " Together they may take w_max entries: a raw block takes K, a gist takes 1.",
    ),
    (
        "Why something moves",
        "Each time a block is full, the lens scores every span from −1 to 1: above 0 look closer,"
        " below 0 it may be coarser. The allocator then expands (+) the best gists and collapses"
        " (−) the least useful spans, never over the budget. That is one refocus, one step here;"
        " it may take several rounds. A swap collapses one span to pay for another; a forced"
        " collapse (headroom) makes room for the next block whatever the lens says.",
    ),
    (
        "Why something does not move",
        "Candidates that were turned down stand in the action log with ✗ and a reason: budget (no"
        " room), cooldown (changed too recently), n_diff (enough actions for one round), protected"
        " (newest blocks), illegal (its parts or siblings are not there), not re-armed (it was"
        " expanded before and nothing new spoke for it), no gain (nothing cheap enough to"
        " collapse). The inspector spells it out: select a block and press enter.",
    ),
    (
        "The panes",
        "1 Map: one track per level, + and − mark this step's actions. 2 Heat: this step's scores."
        " 3 Waterfall: earlier steps above, the present one at the bottom, so a bright column is a"
        " place the lens keeps looking at. The three share one x axis: position in the history."
        " 4 Text: the selected span on a lighter ground, words the model found surprising in warm"
        " colours. 5 Actions. 6 Inspector: one node's whole life, squeezed to the pane's width:"
        " its scores, how the model saw it, what happened to it. L1@47 is block 47; L2@3 is the"
        " gist of blocks 3·K to 4·K − 1. The line under the panes tells this step in a sentence.",
    ),
    (
        "Vital signs",
        "NLL: how surprised the model was by the new tokens, nats. Swap rate: voluntary actions"
        " per raw block, healthy 5–20 %. Residency: share of spans that stayed as they were,"
        " healthy above 90 %. Step time, with its stages below. KV drift: how far the spliced"
        " cache has moved from an exact one.",
    ),
    (
        "A question, in three keys",
        "] goes to the next marker, f to what it led to, enter closer: the block that expanded, and"
        " why. , and . walk along what else happened to it; esc leads back out.",
    ),
)


def help_text() -> Text:
    """The command table and the concepts as one text."""
    text, group = Text(), ""
    for command in COMMANDS:
        if command.group != group:
            group = command.group
            text.append(f"{group}\n", "bold")
        text.append(f"  {key_label(command.key):<9}", "bold")
        text.append(f"{command.help}\n")

    # What Textual binds by itself, and the mouse.
    text.append("  tab      ", "bold")
    text.append("to the next pane: arrows walk in it, esc lets go\n")
    text.append("  ctrl+p   ", "bold")
    text.append("command palette: every command, and the themes\n")
    text.append("Mouse\n", "bold")
    text.append(
        "  click a span or a name to select it, the waterfall, the overview or the scrubber for a"
        " time; twice on a word of the text to find it elsewhere; drag to pan, wheel to zoom or"
        " scroll; the palette at the lower right has every command\n\n"
    )
    for title, body in CONCEPTS:
        text.append(f"{title}\n", "bold")
        text.append(f"{body}\n\n")
    return text


class HelpScreen(Dialog[None]):
    """Scrollable help; any of its keys closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape", "dismiss", "close"),
        ("question_mark", "dismiss", "close"),
        ("q", "dismiss", "close"),
    ]

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help"):
            yield Static(coloured(help_text(), self.app.theme), markup=False)

    def on_mount(self) -> None:
        box = self.query_one("#help")
        box.border_title = "Help"
        box.border_subtitle = "↑↓ scroll, keys, then what it all means · esc close"
        box.focus()
