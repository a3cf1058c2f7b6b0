"""What a model's chat template puts around a user's turn, as text.

A history is plain text; only questions and turns are rendered. So what is wanted of a template is
the text right before a user's words, the text between them and the reply, and the text that ends
a reply, all without a system prompt. They are taken from renderings of marker words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["ChatFormat", "chat_format"]

_FIRST, _RESPONSE, _SECOND = "AlphaMarker", "BetaMarker", "GammaMarker"


@dataclass(frozen=True)
class ChatFormat:
    """``before`` and ``after`` a user's words, and ``close`` behind a reply."""

    before: str
    after: str
    close: str

    def around(self, text: str) -> tuple[str, str, str]:
        """(control text, ordinary text, control text) of a user's turn.

        White space at the seams goes with the ordinary text, so that it is encoded as it is in
        one string.
        """
        before, after = self.before.rstrip(), self.after.lstrip()
        lead = self.before[len(before) :]
        trail = self.after[: len(self.after) - len(after)]
        return before, lead + text.strip() + trail, after


def chat_format(hf: Any) -> ChatFormat | None:
    """The format of a Hugging Face tokenizer's chat template; None without a usable one."""
    if not getattr(hf, "chat_template", None):
        return None
    asked = _rendered(hf, [_FIRST], reply_follows=True)
    answered = _rendered(hf, [_FIRST, _RESPONSE], reply_follows=False)
    again = _rendered(hf, [_FIRST, _RESPONSE, _SECOND], reply_follows=True)
    if (
        asked is None
        or answered is None
        or again is None
        or any(text.count(_FIRST) != 1 for text in (asked, answered, again))
        or any(text.count(_RESPONSE) != 1 for text in (answered, again))
        or again.count(_SECOND) != 1
    ):
        return None
    close = answered.partition(_RESPONSE)[2]
    between = again.partition(_RESPONSE)[2].partition(_SECOND)[0]
    if not between.startswith(close):
        close = ""
    return ChatFormat(between[len(close) :], again.partition(_SECOND)[2], close)


def _rendered(hf: Any, texts: list[str], *, reply_follows: bool) -> str | None:
    """A conversation that begins with a user's turn; None where the template refuses it."""
    from jinja2 import TemplateError

    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    try:
        text = hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply_follows)
    except (TemplateError, ValueError, TypeError, KeyError, ImportError):
        return None
    return str(text)
