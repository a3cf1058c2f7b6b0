"""Checks the documentation: links lead somewhere, commands and their options exist.

Run by ``make docs``. Every fenced block marked ``sh`` in README.md, ARCHITECTURE.md and docs/ is
read: a ``megacontext`` or ``mc-tui`` command must answer ``--help`` and know each option used, a
``make`` target must exist.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)


def documents() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("core/**/CARD.md")])


def broken_links(path: Path) -> list[str]:
    found = []
    for target in _LINK.findall(_FENCE.sub("", path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        goal = (path.parent / name).resolve() if name else path
        if not goal.exists():
            found.append(f"link to {target}")
        elif anchor and goal.suffix == ".md" and anchor not in anchors(goal):
            found.append(f"link to missing heading {target}")
    return found


@cache
def anchors(path: Path) -> frozenset[str]:
    heads = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return frozenset(re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in heads)


def commands(path: Path) -> list[list[str]]:
    """Argument lists of the commands in ``sh`` blocks; continued lines are joined."""
    lines = []
    for language, body in _FENCE.findall(path.read_text()):
        if language == "sh":
            lines += re.sub(r"\\\n\s*", " ", body).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


@cache
def help_of(words: tuple[str, ...]) -> str | None:
    """The help text of a command, or None if it fails."""
    done = subprocess.run(
        [str(BIN / words[0]), *words[1:], "--help"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
    )
    return done.stdout if done.returncode == 0 else None


def wrong_command(words: list[str]) -> str | None:
    while words and re.match(r"\w+=", words[0]):
        words = words[1:]
    if not words:
        return None
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        missing = [w for w in words[1:] if w not in targets and "=" not in w]
        return f"make has no target {missing[0]}" if missing else None
    if words[0] not in ("megacontext", "mc-tui"):
        return None
    path = [words[0]]
    for word in words[1:3]:
        if not re.fullmatch(r"[a-z][a-z-]*", word) or help_of((*path, word)) is None:
            break
        path.append(word)
    if len(path) == 1 and len(words) > 1 and not words[1].startswith("-"):
        return f"{words[0]} has no command {words[1]}"
    text = help_of(tuple(path)) or ""
    for word in words[len(path) :]:
        option = word.partition("=")[0]
        if option.startswith("--") and option not in ("--help", "--debug") and option not in text:
            return f"{' '.join(path)} has no option {option}"
    return None


def main() -> int:
    problems, checked = [], 0
    for path in documents():
        name = path.relative_to(ROOT)
        problems += [f"{name}: {p}" for p in broken_links(path)]
        for words in commands(path):
            checked += 1
            wrong = wrong_command(words)
            if wrong:
                problems.append(f"{name}: {wrong} ({shlex.join(words)})")
    for problem in problems:
        print(problem)
    print(f"{len(documents())} documents, {checked} commands, {len(problems)} problems")
    return 1 if problems or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
