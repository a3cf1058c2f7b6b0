"""Checks the documentation: links lead somewhere, commands and their options exist.

Run by ``make docs``. Every fenced block marked ``sh``, ``bash`` or nothing in README.md,
ARCHITECTURE.md and docs/ is read: a ``megacontext`` or ``mc-tui`` command must answer ``--help``
and know each option used, its ``--config`` file must be there and be accepted together with its
``--set`` options, a ``make`` target must exist. A config that an earlier command of the page wrote
is not looked for. The Python blocks of a page are run, one after the other, in a folder that holds
a ``book.txt``.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from megacontext.core.batch.plan import load_plan
from megacontext.core.config import load_config
from megacontext.core.config.settings import load as load_training
from megacontext.core.data.prepare import DataConfig
from megacontext.traces.errors import MegaContextError
from megacontext.traces.packaged import find_config

_TRAINERS = {
    "base": "megacontext.core.training.base.task:BaseConfig",
    "gistnet": "megacontext.core.training.gistnet.task:GistNetTraining",
    "joint": "megacontext.core.training.joint.config:JointTraining",
    "keys": "megacontext.core.training.index_keys.task:KeyTraining",
    "lensnet": "megacontext.core.training.lensnet.task:LensNetTraining",
    "lora": "megacontext.core.training.lora.task:LoraTraining",
}
ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_OURS = ("megacontext", "mc-tui")
_SKETCHES = "ARCHITECTURE.md"
"""Its blocks outline interfaces; they are no programs."""
_BOOK = "The access code of the north archive is 48213.\n" + "It rained all day. " * 200
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
    """Argument lists of the commands in shell blocks; continued lines are joined.

    A block without a language may be anything; of it, lines that begin with a command count,
    as does code in a table.
    """
    found = []
    for language, body in _FENCE.findall(path.read_text()):
        for line in re.sub(r"\\\n\s*", " ", body).splitlines():
            shell = language in ("sh", "bash")
            if line.strip() and (shell or (not language and line.split()[0] in _OURS)):
                found.append(_plain(shlex.split(line, comments=True)))
    for row in re.findall(r"^\|.*\|$", _FENCE.sub("", path.read_text()), re.M):
        for code in re.findall(r"`([^`]+)`", row):
            if re.match(rf"({'|'.join((*_OURS, 'make'))}) [\w-]", code):
                found.append(_plain(shlex.split(code)))
    return [words for words in found if words]


def _plain(words: list[str]) -> list[str]:
    """The command without variables before it and without what starts it."""
    while words and re.match(r"\w+=", words[0]):
        words = words[1:]
    if words and words[0] == "torchrun" and "megacontext.core.training" in words:
        return ["megacontext", "train", *words[words.index("megacontext.core.training") + 1 :]]
    if words and words[0].startswith(".venv/bin/"):
        return [words[0].removeprefix(".venv/bin/"), *words[1:]]
    return words


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
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        missing = [w for w in words[1:] if w not in targets and "=" not in w]
        return f"make has no target {missing[0]}" if missing else None
    if words[0] not in _OURS:
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


def wrong_config(words: list[str], written: set[str]) -> str | None:
    """Why the ``--config`` of a command would be refused; a trace written before is none."""
    if words[0] not in _OURS or "--config" not in words:
        return None
    name = words[words.index("--config") + 1]
    is_written = any(name == path or name.startswith(f"{path}/") for path in written)
    if is_written or name.endswith(".arrow"):
        return None
    settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    try:
        packaged = find_config(Path(name))  # a packaged config's name, as a user writes it
        path = packaged if packaged.is_absolute() else ROOT / name
        _load(words[1], words[2], path, settings)
    except MegaContextError as error:
        return f"refused: {error}"
    return None


def _load(command: str, part: str, path: Path, settings: list[str]) -> None:
    if command in ("run", "live", "eval", "serve", "tree"):
        load_config(path, settings)
    elif command == "batch":
        load_plan(path)
    elif command == "data":
        load_training(DataConfig, path, settings)
    elif command == "train":
        module, _, kind = _TRAINERS[part].partition(":")
        load_training(getattr(importlib.import_module(module), kind), path, settings)


def outputs(words: list[str]) -> set[str]:
    """Paths that a command of the page writes."""
    options = ("--out", "--export")
    return {words[i + 1] for i, word in enumerate(words[:-1]) if word in options}


def failing_python(path: Path) -> str | None:
    """The last line of the error that the page's Python blocks raise; None if they run."""
    blocks = [body for language, body in _FENCE.findall(path.read_text()) if language == "python"]
    if not blocks or path.name == _SKETCHES:
        return None
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "book.txt").write_text(_BOOK)
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(blocks)],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT / ".links")},
        )
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else None


def main() -> int:
    problems, checked = [], 0
    for path in documents():
        name = path.relative_to(ROOT)
        problems += [f"{name}: {p}" for p in broken_links(path)]
        if error := failing_python(path):
            problems.append(f"{name}: its Python fails: {error}")
        written: set[str] = set()
        for words in commands(path):
            checked += 1
            wrong = wrong_command(words) or wrong_config(words, written)
            written |= outputs(words)
            if wrong:
                problems.append(f"{name}: {wrong} ({shlex.join(words)})")
    for problem in problems:
        print(problem)
    print(f"{len(documents())} documents, {checked} commands, {len(problems)} problems")
    return 1 if problems or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
