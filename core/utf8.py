"""Texts that can be written as UTF-8."""

from __future__ import annotations

from megacontext.traces.errors import MegaContextError, SourceError

__all__ = ["check_utf8"]


def check_utf8(text: str, where: str, kind: type[MegaContextError] = SourceError) -> str:
    """``text`` itself; JSON and YAML escapes can spell half of a character, which no text has.

    Args:
        where: what an error calls the text.
        kind: of the error.

    Raises:
        MegaContextError: of that kind; a lone surrogate; tokenizers and files cannot take it.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise kind(
            f"{where} has half of a character, \\u{ord(text[error.start]):04x}, at character "
            f"{error.start}; write the whole one or leave it out."
        ) from None
    return text
