"""A person's part of a session: questions, turns and typed text, and the replies to them.

Markers say where each of them lies: ``typed @a-b`` (tokens that did not come from the source),
``asked @a-b`` on the row of the question's refocus, ``answered @a-b`` on the reply's last row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from megacontext.core.tree.spec import U32
from megacontext.traces.facts import Answered, Typed
from megacontext.traces.schema import Trigger

if TYPE_CHECKING:
    from megacontext.core.runtime.session import Session

__all__ = ["ANSWER_STOP", "ANSWER_TOKENS", "answer_turn", "inject", "question_text"]

TEMPLATE = "\nQuestion: {question}\nAnswer:"
"""How a question to a base model is written; what the bundled one was trained on."""
ANSWER_TOKENS, ANSWER_STOP = 64, "\n"
"""Longest answer to a question in the middle of a run, and the text that ends it."""


def question_text(text: str, chat: bool = False) -> str:
    """A typed line as the model reads it: a plain question in the form of one, another text as a
    line of its own, and what ends where its answer begins (``…:``) as it is.

    Args:
        text: what a person typed.
        chat: the model has a chat format, which frames the turn instead.
    """
    asked = text.strip()
    if chat:
        return asked
    if asked.endswith("?"):
        return TEMPLATE.format(question=asked)
    return text if text.endswith(("\n", ":")) else f"{text}\n"


def answer_turn(session: Session, text: str, limit: int, stop: str) -> str:
    """Append a person's turn, refocus on it, decode a reply and record it at once.

    Args:
        session: the running session.
        text: the turn as the model reads it.
        limit: longest reply, tokens.
        stop: text that ends the reply.

    Returns:
        The reply up to ``stop``; "" where the turn was empty.
    """
    tokens = _turn_tokens(session, text)
    if not len(tokens):
        return ""
    sink, context, controller = session.sink, session.context, session.controller
    phase, session.answering = session.phase, True
    controller.on_question(text)

    # The turn.
    start = context.n_tokens
    sink.marker(str(Typed(start, start + len(tokens))))
    session.append_question(tokens, Trigger.TURN_END if session.config.triggers.turn_end else None)

    # The reply, streamed. It gets a row at once: a viewer should not wait for the next block.
    start = context.n_tokens
    response = session.decode(limit, stop, on_token=controller.on_token)
    sink.marker(str(Typed(start, context.n_tokens)))
    sink.marker(str(Answered(start, context.n_tokens)))
    session.refocus(Trigger.REPLY)

    session.phase, session.answering, session.replied = phase, False, True
    controller.on_answer(response)
    return response


def _turn_tokens(session: Session, text: str) -> U32:
    """Token ids of a turn, in the model's chat format where it has one."""
    tokenizer, tree = session.parts.base.tokenizer, session.parts.tree
    if not text.strip():
        return tokenizer.encode(text)
    if tokenizer.chat is None:
        return tokenizer.encode(text)
    latest = tree.n_tokens - 1
    response_end = int(tree.tokens(latest, latest + 1)[0]) if session.replied else None
    return tokenizer.turn(text, response_end)


def inject(session: Session, text: str) -> None:
    """Append a person's text now, without a reply; a turn ends with it."""
    tokens = session.parts.base.tokenizer.encode(text)
    start = session.context.n_tokens
    session.sink.marker(str(Typed(start, start + len(tokens))))
    phase = session.phase
    session.append(tokens, is_question=True)
    session.phase = phase
    session.refocus(Trigger.TURN_END, len(tokens))
