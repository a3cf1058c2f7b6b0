"""Turns the events of a source into calls of a session, and collects what was decoded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from megacontext.core.runtime.asking import answer_turn
from megacontext.core.runtime.controller import Stop
from megacontext.core.runtime.judge import is_right
from megacontext.core.runtime.session import Session
from megacontext.core.sources import AwaitTurn, Decode, Event, Ingest, Mark, Plant, Question
from megacontext.traces.facts import Answered, Planted, QuestionAbout
from megacontext.traces.schema import Trigger

__all__ = ["Outcome", "ScriptAnswer", "ScriptRunner"]


@dataclass(frozen=True)
class ScriptAnswer:
    """A decoded answer to a question of a script."""

    about: str
    expected: str
    text: str

    @property
    def right(self) -> bool | None:
        """Whether the text starts with the expected answer; None if none is expected."""
        return is_right(self.text, self.expected) if self.expected.strip() else None


@dataclass
class Outcome:
    """The answers, the decoded text and the errors of a session; the trace has the rest."""

    answers: list[ScriptAnswer] = field(default_factory=list)
    decoded: list[str] = field(default_factory=list)
    bad_scores: int = 0
    stopped: bool = False


class ScriptRunner:
    """Runs events on a session; ``outcome`` grows from run to run."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.outcome = Outcome()

    def run(self, events: Iterable[Event]) -> Outcome:
        """Run the events in order; returns early, and cleanly, when the session is stopped.

        Raises:
            SourceError: the source cannot be read, or gives other tokens than a resumed history.
        """
        try:
            for event in events:
                self._run_event(event)
        except Stop:
            self.outcome.stopped = True
        self.session.flush()
        self.outcome.bad_scores = self.session.bad_scores
        return self.outcome

    def _run_event(self, event: Event) -> None:
        session = self.session
        match event:
            case Ingest(tokens=tokens):
                session.append(tokens)
            case Plant():
                self._plant(event)
            case Mark(text=text):
                session.sink.marker(text)
            case Question():
                self._ask(event)
            case Decode():
                self._decode(event)
            case AwaitTurn(limit=limit, stop=stop):
                self._converse(limit, stop)

    def _plant(self, event: Plant) -> None:
        """Append a fact, and register where it lies."""
        session, start = self.session, self.session.context.n_tokens
        stop = start + len(event.tokens)
        session.register_fact(event.name, start, stop)
        session.sink.marker(str(Planted(start, stop, event.name)))
        session.append(event.tokens)

    def _ask(self, question: Question) -> None:
        """Append a question, refocus on it and decode the answer."""
        session = self.session
        marker = str(QuestionAbout(question.about or ""))
        session.append_question(question.tokens, Trigger.QUESTION, question.about, marker)

        start, session.answering = session.context.n_tokens, True
        about = question.about or "?"
        self._decode(Decode(question.limit, question.stop, about, question.answer))
        session.answering = False
        session.sink.marker(str(Answered(start, session.context.n_tokens)))

    def _decode(self, event: Decode) -> None:
        session = self.session
        session.set_target(event.about or None)
        text = session.decode(event.limit, event.stop, event.prefix)
        session.set_target(None)

        if event.about:
            self.outcome.answers.append(ScriptAnswer(event.about, event.answer, text))
        else:
            self.outcome.decoded.append(text)

    def _converse(self, limit: int, stop: str) -> None:
        """Wait for a person's turn and reply to it."""
        session = self.session
        session.awaits_turn = True
        text = session.controller.next_turn(session)
        session.awaits_turn = False

        response = answer_turn(session, text, limit, stop)
        if response:
            self.outcome.decoded.append(response)
        session.controller.on_reply(response)
