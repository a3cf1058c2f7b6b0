"""The Textual app: one layout, one tick, one command table; live and replay are the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.events import DeliveryComplete, DeliveryFailed
from textual.screen import ModalScreen, Screen
from textual.widget import Widget

from megacontext.tui.commands import BY_ID, COMMANDS, FOOTER, Command, key_label
from megacontext.tui.engine_app import EngineApp
from megacontext.tui.live.redraw_budget import Pace
from megacontext.tui.screens import HelpScreen, HintScreen, PromptScreen
from megacontext.tui.sources.source import Source
from megacontext.tui.state.frame import Frame
from megacontext.tui.state.goto import GOTO_HELP, go_to
from megacontext.tui.state.viewer import ViewerState
from megacontext.tui.themes import PALETTES, THEMES
from megacontext.tui.widgets import (
    ActionsPane,
    BudgetPane,
    ConversationPane,
    HeatPane,
    InspectorPane,
    KeyBar,
    MapPane,
    OverviewPane,
    Pane,
    Scrubber,
    StoryLine,
    TextPane,
    TitleLine,
    WaterfallPane,
)
from megacontext.tui.widgets.scrubber import TimePane
from megacontext.tui.widgets.shared import HistoryPane

__all__ = ["InspectorApp"]

TICKS_PER_S = 10
READING_REDRAW_S = 0.3
"""Between pictures of an overview whose lanes are still being read."""


class BaseScreen(Screen[None]):
    """The panes' screen. No pane has the focus until one is asked for: arrows are time then."""

    AUTO_FOCUS = ""


def _footer_rank(command: Command) -> int:
    return list(FOOTER).index(command.id) if command.id in FOOTER else len(FOOTER)


class InspectorApp(EngineApp):
    """The inspector on one source. Returns "stop", "detach" or "" when it ends.

    Args:
        source: where rows come from; the app closes it.
        clock: seconds; tests inject their own.
        ticking: let a timer tick; tests call :meth:`tick` instead.
        theme: a name in ``PALETTES``.
        notice: what the story line says first.
        hint: explain the picture once, before anything else.
    """

    CSS_PATH = "app.tcss"
    TITLE = "mc-tui"
    ENABLE_COMMAND_PALETTE = True
    COMPARES: ClassVar[bool] = False
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012 (declared without ClassVar in the base)
        (0, "-tiny"),
        (60, "-narrow"),
        (105, "-medium"),
        (165, "-wide"),
    ]
    VERTICAL_BREAKPOINTS = [  # noqa: RUF012
        (0, "-slit"),
        (11, "-low"),
        (18, "-short"),
        (34, "-high"),
        (50, "-tall"),
    ]
    BOXES: ClassVar[dict[str, tuple[int, ...]]] = {"left": (1, 2, 3, 4), "right": (5, 6, 8)}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(c.key, f"run('{c.id}')", FOOTER.get(c.id, c.help), show=c.id in FOOTER, id=c.id,
                key_display=key_label(c.key))
        for c in sorted(COMMANDS, key=_footer_rank)
    ]  # fmt: skip

    def __init__(
        self,
        source: Source,
        *,
        clock: Callable[[], float] = time.monotonic,
        ticking: bool = True,
        theme: str = "mc-dark",
        unhurried: bool = False,
        notice: str = "",
        hint: bool = False,
    ) -> None:
        super().__init__()
        for known in THEMES:
            self.register_theme(known)
        self.theme = theme
        self.source = source
        self._session = ViewerState(source, clock, unhurried=unhurried)
        self.session.notice = notice
        self._hint = hint
        self._ticking = ticking
        self._pace = Pace()
        self._frame: Frame | None = None
        self._drawn = 0.0

    def get_default_screen(self) -> Screen[None]:
        return BaseScreen(id="_default")

    @property
    def session(self) -> ViewerState:
        """The viewer's state."""
        return self._session

    # -- layout -------------------------------------------------------------------------------
    def compose(self) -> ComposeResult:
        yield TitleLine()
        with Horizontal(id="body"):
            with Vertical(id="left"):
                yield MapPane()
                yield HeatPane()
                yield WaterfallPane()
                yield TextPane()
            with Vertical(id="right"):
                yield BudgetPane()
                yield ActionsPane()
                yield InspectorPane()
                yield ConversationPane()
        yield StoryLine()
        yield OverviewPane()
        yield Scrubber()
        yield KeyBar(compact=True)

    def on_mount(self) -> None:
        self.redraw()
        if self._hint:
            self.push_screen(HintScreen(live=self.source.status().mode == "LIVE"))
        if self._ticking:
            self.set_interval(1 / TICKS_PER_S, self._timer)
            if not self.source.status().growing and not self.COMPARES:
                self.session.reads_ahead = True
                self._read_ahead()

    def on_resize(self) -> None:
        self.call_after_refresh(self.redraw)

    # -- drawing ------------------------------------------------------------------------------
    @property
    def shown(self) -> Frame:
        """The frame on screen."""
        return self._frame or self.session.frame()

    @property
    def laid_out(self) -> bool:
        """Whether there are panes to draw on: not before the first layout, nor while leaving."""
        return bool(self.screen_stack) and bool(self.screen_stack[0].query("#right Pane"))

    @property
    def panes(self) -> list[Pane]:
        """Every pane, hidden ones included."""
        return list(self.screen_stack[0].query(Pane))

    def _timer(self) -> None:
        if not self.session.only_follows or self._pace.due():
            self.tick()

    def tick(self) -> None:
        """Let time pass; redraw when something changed or the last frame was unfinished."""
        if not self.laid_out:
            return
        changed = self.session.tick()
        status = self.source.status()
        if status.problem and status.mode == "LIVE" and not self.source.num_rows and self._ticking:
            self.exit("died")  # it never had anything to show; the terminal says why
            return
        unfinished = not (self.shown.trail.complete and self.shown.log.complete)
        if unfinished and self.session.reads_ahead:  # the whole run comes first
            unfinished = time.monotonic() - self._drawn > READING_REDRAW_S
        if changed or unfinished:
            self.redraw()

    def _read_ahead(self) -> None:
        """Read the lanes of a finished run in short slices; keys are handled between them."""
        if not self.laid_out:
            return
        if self.session.read_ahead():
            self.session.reads_ahead = False
            self.redraw()
            return
        if time.monotonic() - self._drawn > READING_REDRAW_S:
            self._show_reading()
        self.set_timer(0.001, self._read_ahead)

    def _show_reading(self) -> None:
        """Draw the lanes as far as they were read; the other panes have nothing new."""
        if self._frame is not None:
            self._frame = replace(self._frame, run=self.session.run())
            for pane in self.screen_stack[0].query(OverviewPane):
                pane.show(self._frame)
            self._drawn = time.monotonic()

    def redraw(self) -> None:
        """Build the frame of this moment and hand it to every pane."""
        if not self.laid_out:
            return
        before = self._frame
        frame = self._frame = self.session.frame()
        self._arrange(frame, before)
        for pane in self.panes:
            pane.show(frame)
        self._drawn = time.monotonic()
        if before is None or before.status != frame.status:
            self.refresh_bindings()

    def _arrange(self, frame: Frame, before: Frame | None) -> None:
        """Which panes are on screen: all, or the maximized one; log, inspector or both."""
        base = self.screen_stack[0]
        base.set_class(18 <= self.size.height < 23, "-squat")
        chosen = frame.view.maximized
        both = self.session.explaining = self.size.height >= 50
        for pane in base.query("#body Pane").results(Pane):
            visible = pane.number == chosen if chosen else self._fits(pane, frame, both=both)
            pane.set_class(bool(chosen) and visible, "-max")
            _display(pane, visible)
        base.query(MapPane).set_class(not frame.view.window.whole, "-zoomed")
        for overview in base.query(OverviewPane):
            overview.set_class(chosen == overview.number, "-max")
        if before is not None and before.view.maximized != chosen:
            shown = [p for p in base.query(Pane) if p.number and p.number == chosen and p.can_focus]
            base.set_focus(shown[0] if shown else None)
        _display(base.query_one("#body"), chosen != OverviewPane.number)
        for name, numbers in self.BOXES.items():
            box = base.query_one(f"#{name}")
            _display(box, not chosen or chosen in numbers)
            box.set_class(chosen in numbers, "-max")

    def _fits(self, pane: Pane, frame: Frame, *, both: bool) -> bool:
        talking = frame.view.talking
        if pane.number == ConversationPane.number:
            return talking
        if talking and self.size.height < 34:  # no space for a third pane below each other
            return pane.number not in (5, 6)
        if pane.number == 5:
            return both or not frame.view.inspecting
        if pane.number == 6:
            return both or frame.view.inspecting
        return True

    # -- commands -----------------------------------------------------------------------------
    def action_run(self, name: str) -> None:
        """Run the command called ``name`` and show what it did."""
        self.session.notice = ""
        BY_ID[name].action(self)
        self.redraw()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "run" and isinstance(self.screen, ModalScreen):
            return False
        command = BY_ID.get(str(parameters[0])) if action == "run" and parameters else None
        return command is None or self._available(command)

    def _available(self, command: Command) -> bool:
        if command.diff and not self.COMPARES:
            return False
        status = self.source.status()
        if command.growing and not status.growing:
            return False
        return not command.live or status.controllable

    def to_difference(self, direction: int) -> None:
        """For the view of two runs."""

    def swap_leader(self) -> None:
        """For the view of two runs."""

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        for command in COMMANDS:
            if self._available(command):
                run = self._runner(command.id)
                title = f"{command.group}: {command.help}"
                yield SystemCommand(title, f"key {key_label(command.key)}", run)
        for name, run in self.get_find_commands():
            yield SystemCommand(f"Find: {name}", "also under the key e", run)
        yield SystemCommand("Theme", "choose a theme", self.action_change_theme)

    def _runner(self, name: str) -> Callable[[], None]:
        return lambda: self.action_run(name)

    async def action_quit(self) -> None:
        """ctrl+q leaves the way q does."""
        self.action_run("quit")

    def action_help_quit(self) -> None:
        """ctrl+c, too."""
        self.action_run("quit")

    def back_out(self) -> None:
        if self.screen.focused is not None and self.session.view.log_at is None:
            self.screen.set_focus(None)  # arrows are time again
            return
        self.session.look(lambda view: view.back())

    def show_help(self) -> None:
        self.push_screen(HelpScreen())

    def next_theme(self) -> None:
        names = tuple(PALETTES)
        index = names.index(self.theme) if self.theme in names else -1
        self.theme = names[(index + 1) % len(names)]

    @on(DeliveryComplete)
    def export_done(self, event: DeliveryComplete) -> None:
        name = event.path.name if event.path else "a download"
        self.session.notice = f"Screen saved as {name}."
        self.redraw()

    @on(DeliveryFailed)
    def export_failed(self, event: DeliveryFailed) -> None:
        why = getattr(event.exception, "strerror", None) or event.exception
        self.session.notice = f"The screen was not saved ({why}); start mc-tui in another folder."
        self.redraw()

    # -- prompts ------------------------------------------------------------------------------
    def ask_search(self) -> None:
        self._ask(
            PromptScreen(
                "Find text in the history", "n next · N previous", self.session.view.needle
            ),
            self.session.search,
        )

    @property
    def needle(self) -> str:
        """The text last searched for."""
        return self.session.view.needle

    def search_again(self, direction: int) -> None:
        if self.needle:
            self.session.search(self.needle, direction)
        else:
            self.ask_search()

    def ask_goto(self) -> None:
        self._ask(PromptScreen("Go to", GOTO_HELP), lambda text: go_to(self.session, text))

    # -- mouse --------------------------------------------------------------------------------
    def on_history_pane_picked(self, message: HistoryPane.Picked) -> None:
        if message.row is not None:
            self.session.seek(message.row)
        self.session.select_at(message.token)
        self.redraw()

    def on_history_pane_zoomed(self, message: HistoryPane.Zoomed) -> None:
        self.session.zoom(message.factor, message.token)
        self.redraw()

    def on_history_pane_panned(self, message: HistoryPane.Panned) -> None:
        self.session.pan(message.share)
        self.redraw()

    def on_text_pane_scrolled(self, message: TextPane.Scrolled) -> None:
        self.session.scroll_text(message.lines)
        self.redraw()

    def on_text_pane_word_picked(self, message: TextPane.WordPicked) -> None:
        self.session.search(message.word)
        self.redraw()

    def on_time_pane_sought(self, message: TimePane.Sought) -> None:
        self.session.play(lambda p: p.seek(message.row))
        self.redraw()


def _display(widget: Widget, visible: bool) -> None:
    """Hide with a class of its own, so that the style sheet's breakpoints keep their say."""
    widget.set_class(not visible, "-hidden")
