"""The part of the app that talks to a running engine: pause, knobs, questions, leaving."""

from __future__ import annotations

from collections.abc import Callable

from megacontext.tui.screens import ChoiceScreen, ConversationScreen, KnobsScreen, PromptScreen
from megacontext.tui.sources.source import Control, Source
from megacontext.tui.tools_app import ToolsApp
from megacontext.tui.widgets import ConversationPane

__all__ = ["EngineApp"]


class EngineApp(ToolsApp):
    """Commands that need an engine that listens; the app proper adds panes and time."""

    source: Source

    # -- the conversation ---------------------------------------------------------------------
    def ask_question(self) -> None:
        """The conversation so far, and a line to type the next question into."""
        asking = self.source.status().controllable
        self.push_screen(ConversationScreen(self.session.talk.turns(), asking=asking), self._asked)

    def _asked(self, answer: str | int | None) -> None:
        if isinstance(answer, int):
            self.session.show_turn(answer)
        elif answer:
            self.session.ask(answer)
        self.redraw()

    def on_conversation_pane_picked(self, message: ConversationPane.Picked) -> None:
        self.session.show_turn(message.row)
        self.redraw()

    def ask_text(self) -> None:
        hint = "The engine appends it to the history at its next block; nothing is answered."
        self._ask(
            PromptScreen("Type into the session", hint),
            lambda answer: self._engine(lambda c: c.inject(answer), self._sent(answer)),
        )

    def _sent(self, answer: str) -> str:
        paused = self.source.control is not None and self.source.control.paused
        when = "; the engine takes them in when it runs again" if paused else ""
        return f"Sent {len(answer)} characters{when}."

    # -- the engine ---------------------------------------------------------------------------
    def ask_knobs(self) -> None:
        row, info = self.session.row, self.session.info
        values = {
            "tau_expand": info.tau_expand,
            "tau_collapse": info.tau_collapse,
            "n_diff": float(info.n_diff),
            "w_max": float(row.w_max if row else info.w_max),
        }

        def answered(changed: dict[str, float] | None) -> None:
            for name, value in (changed or {}).items():
                sent = f"Sent {name} {values[name]:g} → {value:g}; a marker shows from where on."
                self._engine(_knob(name, value), sent)
            self.redraw()

        self.push_screen(KnobsScreen(values), answered)

    def _engine(self, command: Callable[[Control], None], answer: str) -> None:
        """Send a command; the story line says so, and later what the engine turned down."""
        control = self.source.control
        if control is not None:
            command(control)
            self.session.notice = answer

    def engine_pause(self) -> None:
        control = self.source.control
        if control is not None and control.paused:
            self._engine(lambda c: c.resume(), "The engine runs again.")
        else:
            self._engine(
                lambda c: c.pause(), "The engine is paused; p lets it run, o refocuses once."
            )

    def engine_refocus(self) -> None:
        self._engine(
            lambda c: c.refocus(), "One refocus asked for; then the engine waits, p lets it run."
        )

    def leave(self) -> None:
        """Quit; where an engine listens, ask whether it should stop."""
        if not self.source.status().controllable:
            self.exit("")
            return
        choices = (
            ("stop", "s", "Stop the engine: it finishes its trace"),
            ("detach", "d", "Detach: the engine runs on, --attach comes back to it"),
        )
        self.push_screen(ChoiceScreen("Leave this live session", choices), self._left)

    def _left(self, choice: str | None) -> None:
        if choice == "stop":
            self._engine(lambda c: c.stop(), "Stopping.")
        elif choice == "detach":
            self._engine(lambda c: c.detach(), "Detached.")
        if choice:
            self.exit(choice)


def _knob(name: str, value: float) -> Callable[[Control], None]:
    return lambda control: control.knob(name, value)
