"""The ``python`` source: code and documentation that every Python has.

``stdlib`` is the source code of the running interpreter's standard library, ``pydoc`` the
documentation topics of ``pydoc_data``, anything else the source of an installed package. Several
names joined by ``+`` alternate document by document. Nothing is imported but ``pydoc_data``,
which holds only text.
"""

from __future__ import annotations

import importlib.util
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

from megacontext.core.config.sources import PythonSource
from megacontext.core.sources.plain import header
from megacontext.traces.errors import SourceError

__all__ = ["python_texts"]

_SKIPPED = {
    "__pycache__",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "turtledemo",
}


def python_texts(source: PythonSource) -> Iterator[str]:
    """Documents of ``source.package``, each after its header line, in a fixed order."""
    names = source.package.split("+")
    queues = [_documents(name) for name in names]
    while queues:
        for queue in list(queues):
            document = next(queue, None)
            if document is None:
                queues.remove(queue)
            else:
                yield document


def _documents(name: str) -> Iterator[str]:
    if name == "pydoc":
        return _topics()
    if name == "stdlib":
        return _modules(Path(sysconfig.get_paths()["stdlib"]), "")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    folders = list(spec.submodule_search_locations or []) if spec else []
    if folders:
        return _modules(Path(folders[0]), name + "/")
    if spec and spec.origin and spec.origin.endswith(".py"):
        return iter([_document(Path(spec.origin), Path(spec.origin).name)])
    raise SourceError(
        f"source.package is {name!r}, which is not installed with Python sources; use 'stdlib', "
        f"'pydoc' or the name of an installed package."
    )


def _topics() -> Iterator[str]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield header(f"doc/{name}") + topics[name].strip() + "\n\n"


def _modules(root: Path, prefix: str) -> Iterator[str]:
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root)
        if not _SKIPPED.intersection(parts.parts):
            yield _document(path, prefix + parts.as_posix())


def _document(path: Path, name: str) -> str:
    try:
        with tokenize.open(path) as file:  # honours the file's coding line
            text = file.read()
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise SourceError(f"Python source {path} cannot be read: {error}.") from error
    return header(name) + text.strip("\n") + "\n\n"
