"""Real text to hide facts in: the running Python's library, or a file of texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megacontext.core.config.sources import PythonSource
from megacontext.core.evaluation.tasks.recall_tasks import Text, load_texts
from megacontext.core.rng import generator
from megacontext.core.sources.python import python_texts
from megacontext.traces.errors import SourceError

__all__ = ["boundaries", "documents_from", "haystack", "library_texts", "texts_from"]


def library_texts() -> list[Text]:
    """Code (``stdlib``) and documentation (``pydoc``) that every Python has, joined by domain."""
    return [
        Text(name, domain, "".join(python_texts(PythonSource(package=name, max_tokens=0))))
        for name, domain in (("stdlib", "code"), ("pydoc", "docs"))
    ]


def documents_from(texts: Sequence[Text], parts: int) -> list[Text]:
    """Every text in ``parts`` equal parts: so many documents for a bootstrap."""
    if parts == 1:
        return list(texts)
    return [
        Text(f"{text.name}/{part}", text.domain, text.text[part * width : (part + 1) * width])
        for text in texts
        for width in (len(text.text) // parts,)
        for part in range(parts)
    ]


def texts_from(paths: Sequence[Path]) -> list[Text]:
    """The texts of JSON-lines files, or the library's."""
    return [text for path in paths for text in load_texts(path)] if paths else library_texts()


def haystack(texts: Sequence[Text], chars: int, seed: int, number: int) -> str:
    """A piece of ``chars`` characters, whole lines at its start; texts take turns by ``number``.

    Raises:
        SourceError: the texts together are shorter.
    """
    rng = generator(seed, "eval.haystack", number)
    order = [(number + i) % len(texts) for i in range(len(texts))]
    for at in order:
        text = texts[at].text
        if len(text) >= chars:
            start = int(rng.integers(len(text) - chars + 1))
            start = text.rfind("\n", 0, start) + 1
            return text[start : start + chars]
    text = "\n\n".join(texts[at].text for at in order)
    if len(text) < chars:
        raise SourceError(
            f"--text holds {len(text):,} characters but a haystack needs {chars:,}; give longer "
            "texts or a smaller --times."
        )
    at = int(rng.integers(len(text) - chars + 1))
    return text[at : at + chars]


def boundaries(text: str) -> np.ndarray:
    """Places of ``text`` behind a line or sentence end, where a fact can stand, I64[n]."""
    raw = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    line = raw == ord("\n")
    ends = np.isin(raw, [ord(c) for c in ".!?"])
    sentence = np.zeros_like(line)
    sentence[:-1] = ends[:-1] & (raw[1:] == ord(" "))
    return np.flatnonzero(line | sentence) + 1
