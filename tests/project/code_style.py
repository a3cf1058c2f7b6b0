"""Counts what makes code hard to read at first sight; run it to see every case of a package.

python tests/project/code_style.py core/focus    # what is counted there, with file and line
python tests/project/code_style.py --lower       # write lower ceilings where counts fell
python tests/project/code_style.py --words       # words of names that the field does not use
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
CEILINGS = Path(__file__).with_name("style_ceilings.toml")
FIELD_WORDS = Path(__file__).with_name("field_words.txt")

WALL_LINES = 20
"""A body of this many lines needs a blank line or a comment."""

# fmt: off
DENIED = frozenset((
    "alone", "apart", "behind", "beside", "chance", "figures", "found", "given",
    "glimpse", "hear", "heard", "held", "kept", "lift", "lifted", "made", "meant", "mine",
    "outing", "own", "payers", "place", "places", "quiet", "room", "said", "theirs",
    "told", "walk", "wanted", "want", "wishes", "worth",
))
# fmt: on
"""Words of daily life in the place of the field's terms.

Use the noun itself (`config`, `other`), or: found -> matches, results; made -> built, output;
kept, held -> keep_mask, cached; said, told -> message, callback; given -> inputs; wanted -> target;
place -> index, position; chance -> prob; figures -> metrics; room -> free_slots; walk -> rollout;
behind, apart, beside -> after, distance, neighbour; worth -> score, utility; alone -> exclusive.
"""

Case = tuple[str, str]
"""(where, what): ``core/a.py:12`` and the function or identifier."""


def package_of(path: Path) -> str:
    """The package that a source file is counted under: ``core/focus``, ``tui``, …"""
    parts = path.relative_to(ROOT).parts
    return "/".join(parts[:2]) if parts[0] == "core" and len(parts) > 2 else parts[0]


def source_files() -> Iterator[Path]:
    """Every module of the distribution."""
    for top in ("core", "simulator", "traces", "tui"):
        yield from sorted((ROOT / top).rglob("*.py"))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions and methods of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> list[str]:
    """The source lines of a function's body without its docstring."""
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    if not body:
        return []
    return lines[body[0].lineno - 1 : function.end_lineno]


def long_functions(text: str) -> Iterator[tuple[int, str, bool]]:
    """(line, name, is a wall) of each function with at least ``WALL_LINES`` body lines.

    A wall has neither a blank line nor a line that is a comment.
    """
    lines = text.splitlines()
    for function in functions(ast.parse(text)):
        body = body_lines(function, lines)
        if len(body) >= WALL_LINES:
            stripped = [line.strip() for line in body]
            wall = not any(not line or line.startswith("#") for line in stripped)
            yield function.lineno, function.name, wall


def words_of(identifier: str) -> list[str]:
    """The words of an identifier in snake_case or CamelCase."""
    return [w.lower() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", identifier)]


def bindings(text: str) -> Iterator[tuple[str, int]]:
    """(name, line) wherever a module binds a name: def, class, parameter, assignment."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, node.lineno
            case ast.ClassDef(name=name) | ast.arg(arg=name):
                yield name, node.lineno
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno


def identifiers(text: str) -> dict[str, int]:
    """Every name that a module binds, with the line of its first binding."""
    names: dict[str, int] = {}
    for name, line in bindings(text):
        names.setdefault(name, line)
    return names


def unknown_words() -> tuple[Counter[str], int]:
    """Words of bound names that no code base of ``FIELD_WORDS`` uses, and the number of all words.

    A word counts as often as a name with it is bound; words of one or two letters do not count.
    """
    lines = FIELD_WORDS.read_text().splitlines()
    known = {word for line in lines if not line.startswith("#") for word in line.split()}
    words: Counter[str] = Counter()
    for path in source_files():
        for name, _ in bindings(path.read_text()):
            words.update(w for w in words_of(name) if len(w) > 2 and not w.isdigit())
    return Counter({w: n for w, n in words.items() if w not in known}), words.total()


@cache
def cases() -> tuple[dict[str, list[Case]], dict[str, list[Case]], int]:
    """Walls and denied identifiers by package, and the number of long functions."""
    walls: dict[str, list[Case]] = {}
    denied: dict[str, list[Case]] = {}
    n_long = 0
    for path in source_files():
        text, package = path.read_text(), package_of(path)
        where = path.relative_to(ROOT).as_posix()
        walls.setdefault(package, [])
        denied.setdefault(package, [])

        for line, name, wall in long_functions(text):
            n_long += 1
            if wall:
                walls[package].append((f"{where}:{line}", name))
        for name, line in identifiers(text).items():
            if DENIED.intersection(words_of(name)):
                denied[package].append((f"{where}:{line}", name))
    return walls, denied, n_long


def table(rows: dict[str, tuple[int, int]]) -> str:
    """The text of the ceilings' file: (walls, words) by package."""
    lines = [
        "# The most cases that a package may have; a number here may only go down.",
        "# walls: functions of 20 or more body lines with neither a blank line nor a comment.",
        "# words: identifiers with a word of the deny list (tests/project/code_style.py).",
        "# `python tests/project/code_style.py PACKAGE` lists them; `--lower` writes this file.",
        "",
    ]
    width = max(len(name) for name in rows) + 2
    for name, (walls, words) in sorted(rows.items()):
        quoted = f'"{name}"'
        lines += [f"{quoted:<{width}} = {{ walls = {walls:>3}, words = {words:>3} }}", ""]
    return "\n".join(lines)


def ceilings() -> dict[str, dict[str, int]]:
    """The committed ceilings by package."""
    import tomllib

    return tomllib.loads(CEILINGS.read_text()) if CEILINGS.exists() else {}


def main(arguments: list[str]) -> None:
    """See the module's docstring."""
    walls, denied, n_long = cases()
    if arguments == ["--lower"]:
        known = ceilings()
        rows = {
            name: (
                min(len(walls[name]), known.get(name, {}).get("walls", 10**6)),
                min(len(denied[name]), known.get(name, {}).get("words", 10**6)),
            )
            for name in walls
        }
        CEILINGS.write_text(table(rows))
        return

    if arguments == ["--words"]:
        unknown, total = unknown_words()
        print(" ".join(f"{word}:{count}" for word, count in unknown.most_common()))
        print(f"{unknown.total()} of {total} words ({unknown.total() / total:.1%})")
        return

    for name in arguments or sorted(walls):
        for kind, result in (("wall", walls[name]), ("word", denied[name])):
            for where, what in result:
                print(f"{where}: {kind}: {what}")
    n_walls = sum(map(len, walls.values()))
    print(f"all packages: {n_walls} of {n_long} long functions are walls ({n_walls / n_long:.1%})")


if __name__ == "__main__":
    main(sys.argv[1:])
