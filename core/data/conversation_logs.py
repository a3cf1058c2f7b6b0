"""Conversations and the logs of code agents as turns, whatever of three shapes they have.

Every line of a log is one JSON object: a whole conversation (``{"messages": [...]}``), one message
(``{"role": ..., "content": ...}``), or an event of an agent (``{"type": ..., "message": {...}}``).
Content is a string or a list of parts; calls of tools and what they returned become text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megacontext.traces.errors import SourceError

__all__ = ["Turn", "read_log"]

_REPLIES = ("assistant", "model", "gpt")


@dataclass(frozen=True)
class Turn:
    """What one side spoken; ``is_reply`` where the model spoken it."""

    role: str
    text: str

    @property
    def is_reply(self) -> bool:
        """Whether a model wrote this turn."""
        return self.role in _REPLIES


def read_log(path: Path) -> Iterator[Turn]:
    """The turns of all conversations of a log, in order; turns without text are left out.

    Raises:
        SourceError: the file is missing, not UTF-8, no JSON Lines, or holds no turn.
    """
    if not path.is_file():
        raise SourceError(f"--log: {path} does not exist; name a file of JSON Lines.")

    # Lines that are no turn are passed over: logs hold summaries and snapshots as well.
    count = 0
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise SourceError(
                f"--log: line {number} of {path} is no JSON ({error}); write one JSON object per "
                "line, such as a conversation with its messages."
            ) from error
        for message in _messages(record):
            text = _text_of(message)
            if text.strip():
                count += 1
                yield Turn(str(message.get("role", "user")), text)

    # A file of which nothing was understood is refused, not read as empty.
    if not count:
        raise SourceError(
            f"--log: {path} holds no turn; each line should be a conversation with `messages`, or "
            "a message with `role` and `content`."
        )


def _messages(record: Any) -> list[dict[str, Any]]:
    """The messages of one line, none where it is something else (a summary, a snapshot)."""
    if not isinstance(record, dict):
        return []
    spoken = record.get("messages", record.get("message", record))
    messages = spoken if isinstance(spoken, list) else [spoken]
    return [m for m in messages if isinstance(m, dict) and ("content" in m or "tool_calls" in m)]


def _text_of(message: dict[str, Any]) -> str:
    """All that a message says, calls of tools and their results included."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    texts = [_part(part) for part in parts]
    for call in message.get("tool_calls") or ():
        function = call.get("function", call) if isinstance(call, dict) else {}
        texts.append(f"{function.get('name', '')} {function.get('arguments', '')}")
    return "\n".join(text for text in texts if text.strip())


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return ""
    if part.get("type") == "tool_use":
        return f"{part.get('name', '')} {json.dumps(part.get('input', {}), ensure_ascii=False)}"
    inner = part.get("text", part.get("content", ""))
    if isinstance(inner, list):
        return "\n".join(text for text in map(_part, inner) if text)
    return inner if isinstance(inner, str) else ""
