"""The one table of commands: id, key, help, action. Keys, footer, palette and help come from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from megacontext.tui.state.playback import Playback
from megacontext.tui.state.view import ViewState
from megacontext.tui.state.viewer import ViewerState

__all__ = ["BY_ID", "COMMANDS", "FOOTER", "Command", "Viewer", "key_label"]


class Viewer(Protocol):
    """What commands act on: the app."""

    @property
    def session(self) -> ViewerState: ...

    def ask_search(self) -> None: ...

    def search_again(self, direction: int) -> None: ...

    def ask_find(self) -> None: ...

    def find_again(self, direction: int) -> None: ...

    def ask_filter(self) -> None: ...

    def ask_goto(self) -> None: ...

    def ask_question(self) -> None: ...

    def ask_text(self) -> None: ...

    def ask_knobs(self) -> None: ...

    def back_out(self) -> None: ...

    def engine_pause(self) -> None: ...

    def engine_refocus(self) -> None: ...

    def to_difference(self, direction: int) -> None: ...

    def swap_leader(self) -> None: ...

    def ask_mark(self) -> None: ...

    def ask_copy(self) -> None: ...

    def copy(self, what: str) -> None: ...

    def ask_export(self) -> None: ...

    def next_theme(self) -> None: ...

    def show_help(self) -> None: ...

    def leave(self) -> None: ...


@dataclass(frozen=True)
class Command:
    """One thing a person can do.

    Attributes:
        id: stable name, also for keymaps.
        key: Textual key names, comma-separated.
        help: what it does, in a few words.
        group: heading in the help screen.
        action: what runs.
        live: needs an engine that listens.
        diff: needs two runs.
        growing: needs a run that still grows.
    """

    id: str
    key: str
    help: str
    group: str
    action: Callable[[Viewer], None]
    live: bool = False
    diff: bool = False
    growing: bool = False


_KEY_LABELS = {
    "up": "↑",
    "down": "↓",
    "left": "←",
    "right": "→",
    "shift+left": "⇧←",
    "shift+right": "⇧→",
    "comma": ",",
    "full_stop": ".",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "left_curly_bracket": "{",
    "right_curly_bracket": "}",
    "backslash": "\\",
    "less_than_sign": "<",
    "greater_than_sign": ">",
    "slash": "/",
    "semicolon": ";",
    "colon": ":",
    "question_mark": "?",
    "escape": "esc",
}


def key_label(key: str) -> str:
    """How a key is written for people."""
    return " ".join(_KEY_LABELS.get(part, part) for part in key.split(","))


def _play(change: Callable[[Playback], Playback]) -> Callable[[Viewer], None]:
    return lambda app: app.session.play(change)


def _look(change: Callable[[ViewState], ViewState]) -> Callable[[Viewer], None]:
    return lambda app: app.session.look(change)


def _maximize(number: int) -> Callable[[Viewer], None]:
    return _look(lambda v: replace(v, maximized=0 if v.maximized == number else number))


TIME, FIND, LOOK, PANES, LIVE, DIFF, APP = (
    "Time",
    "Find",
    "Look",
    "Panes",
    "Live engine",
    "Two runs (mc-tui diff)",
    "App",
)

COMMANDS: tuple[Command, ...] = (
    Command("play", "space", "play or pause (live: freeze the view)", TIME,
            lambda app: app.session.toggle_play()),
    Command("back", "left", "one step back", TIME, _play(lambda p: p.step(-1))),
    Command("forward", "right", "one step forward", TIME, _play(lambda p: p.step(1))),
    Command("back10", "shift+left", "ten steps back", TIME, _play(lambda p: p.step(-10))),
    Command("forward10", "shift+right", "ten steps forward", TIME, _play(lambda p: p.step(10))),
    Command("home", "home", "first step", TIME, _play(Playback.home)),
    Command("end", "end", "newest step, and follow it", TIME, _play(Playback.end)),
    Command("follow", "t", "follow the newest step, or let go", TIME,
            _play(Playback.toggle_follow), growing=True),
    Command("slower", "less_than_sign", "slower", TIME, _play(Playback.slower)),
    Command("faster", "greater_than_sign", "faster", TIME, _play(Playback.faster)),
    Command("previous_action", "comma", "previous action (on the selection, if any)", FIND,
            lambda app: app.session.to_action(-1)),
    Command("next_action", "full_stop", "next action (on the selection, if any)", FIND,
            lambda app: app.session.to_action(1)),
    Command("previous_marker", "left_square_bracket", "previous marker", FIND,
            lambda app: app.session.to_marker(-1)),
    Command("next_marker", "right_square_bracket", "next marker", FIND,
            lambda app: app.session.to_marker(1)),
    Command("mark", "m", "mark this step, with a name or a note", FIND,
            lambda app: app.ask_mark()),
    Command("unmark", "M", "remove your mark on this step", FIND,
            lambda app: app.session.remove_marker()),
    Command("focus", "f", "centre on the latest action", FIND,
            lambda app: app.session.focus_latest()),
    Command("search", "slash", "find text in the history", FIND,
            lambda app: app.ask_search()),
    Command("search_next", "n", "next hit", FIND, lambda app: app.search_again(1)),
    Command("search_previous", "N", "previous hit", FIND, lambda app: app.search_again(-1)),
    Command("extremes", "e", "worst moments and next events: highest NLL, swap rate, …", FIND,
            lambda app: app.ask_find()),
    Command("find_next", "semicolon", "the next of those", FIND, lambda app: app.find_again(1)),
    Command("find_previous", "colon", "the previous of those", FIND,
            lambda app: app.find_again(-1)),
    Command("filter", "F", "filter the action list: kind, reason, node, text", FIND,
            lambda app: app.ask_filter()),
    Command("goto", "g", "go to a step, token, time or node", FIND,
            lambda app: app.ask_goto()),
    Command("conversation", "j", "questions and answers so far; enter goes to one", FIND,
            lambda app: app.ask_question()),
    Command("zoom_in", "w", "zoom in", LOOK, lambda app: app.session.zoom(0.5)),
    Command("zoom_out", "s", "zoom out", LOOK, lambda app: app.session.zoom(2.0)),
    Command("pan_left", "a", "pan to older tokens", LOOK, lambda app: app.session.pan(-0.25)),
    Command("pan_right", "d", "pan to newer tokens", LOOK, lambda app: app.session.pan(0.25)),
    Command("select_previous", "h", "select the node to the left", LOOK,
            lambda app: app.session.select_neighbour(-1)),
    Command("select_next", "l", "select the node to the right", LOOK,
            lambda app: app.session.select_neighbour(1)),
    Command("parent", "up", "select the gist above the selected node", LOOK,
            lambda app: app.session.select_parent()),
    Command("child", "down", "select the node below the selected gist", LOOK,
            lambda app: app.session.select_child()),
    Command("drill", "enter", "drill in: onto the node, then its life", LOOK,
            lambda app: app.session.drill()),
    Command("back_out", "escape", "back out", LOOK, lambda app: app.back_out()),
    Command("scale", "y", "score colours: fixed or this step's range", LOOK,
            _look(lambda v: replace(v, scale_per_step=not v.scale_per_step))),
    Command("detail", "v", "waterfall: scores or level of detail", LOOK,
            _look(lambda v: replace(v, show_detail=not v.show_detail))),
    Command("breaks", "b", "text: line breaks as written, or run together", LOOK,
            _look(lambda v: replace(v, as_written=not v.as_written))),
    Command("text_down", "pagedown", "scroll the text down", LOOK,
            lambda app: app.session.scroll_text(3)),
    Command("text_up", "pageup", "scroll the text up", LOOK,
            lambda app: app.session.scroll_text(-3)),
    Command("pane_map", "1", "only the map", PANES, _maximize(1)),
    Command("pane_heat", "2", "only the heat strip", PANES, _maximize(2)),
    Command("pane_waterfall", "3", "only the waterfall", PANES, _maximize(3)),
    Command("pane_text", "4", "only the text", PANES, _maximize(4)),
    Command("pane_actions", "5", "only the action log", PANES, _maximize(5)),
    Command("pane_inspector", "6", "only the inspector", PANES, _maximize(6)),
    Command("pane_conversation", "8", "only the conversation", PANES, _maximize(8)),
    Command("pane_overview", "7", "only the run's overview", PANES, _maximize(7)),
    Command("reset", "0", "all panes, whole history", PANES,
            _look(ViewState.reset)),
    Command("pause_engine", "p", "pause or resume the engine", LIVE,
            lambda app: app.engine_pause(), live=True),
    Command("refocus", "o", "let the engine do one refocus, then wait", LIVE,
            lambda app: app.engine_refocus(), live=True),
    Command("knobs", "k", "change thresholds, n_diff, w_max", LIVE,
            lambda app: app.ask_knobs(), live=True),
    Command("ask", "i", "ask the session: it refocuses and answers", LIVE,
            lambda app: app.ask_question(), live=True),
    Command("type", "I", "type text into the session, without an answer", LIVE,
            lambda app: app.ask_text(), live=True),
    Command("next_difference", "right_curly_bracket", "next moment that the runs see otherwise",
            DIFF, lambda app: app.to_difference(1), diff=True),
    Command("previous_difference", "left_curly_bracket", "previous one", DIFF,
            lambda app: app.to_difference(-1), diff=True),
    Command("leader", "backslash", "let keys be about the other run", DIFF,
            lambda app: app.swap_leader(), diff=True),
    Command("copy", "c", "copy the sentence, text, node, action list or command", APP,
            lambda app: app.ask_copy()),
    Command("link", "L", "copy the command that opens the inspector here", APP,
            lambda app: app.copy("l")),
    Command("export", "x", "save the screen (SVG) or the run (PNG, CSV, Parquet)", APP,
            lambda app: app.ask_export()),
    Command("theme", "T", "next theme: dark, light, ANSI", APP, lambda app: app.next_theme()),
    Command("help", "question_mark", "what everything means, and all keys", APP,
            lambda app: app.show_help()),
    Command("quit", "q", "quit (live: stop or detach)", APP, lambda app: app.leave()),
)  # fmt: skip

BY_ID: dict[str, Command] = {command.id: command for command in COMMANDS}

FOOTER: dict[str, str] = {
    "help": "help",
    "quit": "quit",
    "next_difference": "difference",
    "leader": "swap",
    "ask": "ask",
    "pause_engine": "pause",
    "knobs": "knobs",
    "play": "play",
    "forward": "step",
    "next_marker": "marker",
    "focus": "focus",
    "drill": "drill",
    "back_out": "back",
    "extremes": "worst",
    "search": "find",
    "copy": "copy",
    "refocus": "refocus",
    "next_action": "event",
    "goto": "go to",
    "follow": "follow",
}
"""What the footer shows, most wanted first: on a narrow terminal the rest is cut off."""
