"""Runs the generators of the official RULER package in a process of its own.

The package's scripts are made to be run as programs: they parse ``sys.argv``, import modules of
common names (``tokenizer``, ``constants``), and want NLTK's downloads and a tokenizer that may
bring code of its own. Here they get the tokenizer of the evaluated model (a ``tokenizer.json``)
and a plain sentence splitter instead; everything else is theirs. Started by :mod:`.ruler` with a
request as JSON on standard input; one JSON object a sample goes to the file it names.
"""

from __future__ import annotations

import importlib.util
import json
import random
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from megacontext.core.benchmarks.ruler_shared import shared_samples

_MARGIN = 1.1
_SHORT = 20_000  # characters that are counted at once
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z0-9])")


class CountingTokenizer:
    """What the scripts ask of a tokenizer: how many tokens a text has.

    They grow a text step by step until it is too long and count it anew each time. A text that is
    clearly shorter than ``limit``, by the highest tokens per character seen so far and a margin of
    a tenth, gets that estimate; every count that can decide is exact.
    """

    def __init__(self, path: str) -> None:
        from tokenizers import Tokenizer

        self._encode = Tokenizer.from_file(path).encode
        self._density = 0.0
        self.limit = 0

    def text_to_tokens(self, text: str) -> range:
        """A stand-in for the tokens, of their number."""
        estimate = int(len(text) * self._density * _MARGIN)
        if len(text) > _SHORT and estimate < self.limit - 1024:
            return range(estimate)
        return range(self.count(text))

    def count(self, text: str) -> int:
        """The exact number of tokens."""
        count = len(self._encode(text, add_special_tokens=False).ids)
        self._density = max(self._density, count / max(len(text), 1))
        return count


def sentences(text: str) -> list[str]:
    """Sentences of English prose: a full stop, white space, a capital letter or a digit."""
    return [part for part in _SENTENCE_END.split(text) if part]


def _stand_ins(tokenizer: CountingTokenizer, package: Path) -> None:
    """Put in place what the scripts import."""
    nltk, tokenize = ModuleType("nltk"), ModuleType("nltk.tokenize")
    tokenize.sent_tokenize = sentences  # type: ignore[attr-defined]
    nltk.tokenize = tokenize  # type: ignore[attr-defined]
    counting = ModuleType("tokenizer")
    counting.select_tokenizer = lambda kind, path: tokenizer  # type: ignore[attr-defined]
    sys.modules |= {"nltk": nltk, "nltk.tokenize": tokenize, "tokenizer": counting}
    sys.modules["long_context_eval.data.tokenizer"] = counting
    sys.path[:0] = [str(package.parent), str(package / "data" / "synthetic")]


class Generator:
    """One script at a time, loaded once for requests that differ in what it reads later."""

    def __init__(self, package: Path) -> None:
        self._folder = package / "data" / "synthetic"
        self._name = ""
        self._module = ModuleType("none")
        self._base: dict[str, Any] = {}

    def load(self, request: dict[str, Any], template: str, folder: str) -> ModuleType:
        """The script of a request, its arguments set as ``prepare.py`` sets them."""
        own = [f"--{key}={value}" for key, value in request["args"].items()]
        sys.argv = [
            request["kind"],
            f"--save_dir={folder}",
            f"--save_name={request['task']}",
            "--tokenizer_path=none",
            "--tokenizer_type=hf",
            f"--max_seq_length={request['length']}",
            f"--tokens_to_generate={request['tokens']}",
            f"--num_samples={request['samples']}",
            f"--random_seed={request['seed']}",
            f"--template={template}",
            *own,
        ]

        # A script is loaded again only where it would read another haystack.
        parts = ("type_haystack", "dataset")
        name = " ".join([request["kind"], *(str(request["args"].get(part)) for part in parts)])
        if request["kind"] not in ("niah", "qa"):
            name += f" {request['seed']}"  # these draw while they are loaded, which costs little
        if name != self._name:
            self._module = ModuleType("none")  # frees millions of words before the next are made
            self._module = self._loaded(request["kind"])
            self._name = name
            self._base = {
                key: getattr(self._module, key)
                for key in ("haystack", "DOCS")
                if hasattr(self._module, key)
            }
        self._reset(request)
        return self._module

    def _loaded(self, kind: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"ruler_{kind}", self._folder / f"{kind}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def _reset(self, request: dict[str, Any]) -> None:
        """Arguments and random numbers as in a process of its own; texts as often as needed."""
        module: Any = self._module
        module.args = module.parser.parse_args(sys.argv[1:])
        if request["kind"] == "niah":
            module.args.num_needle_k = max(module.args.num_needle_k, module.args.num_needle_q)
        random.seed(request["seed"])
        np.random.seed(request["seed"])
        # Longer than all essays or documents together: they come again, as in RULER's repository.
        for key, least in (("haystack", 0.6), ("DOCS", 0.006)):
            base = self._base.get(key)
            if isinstance(base, list):
                target = int(request["length"] * least) + 1
                setattr(module, key, base * max(1, -(-target * 2 // len(base))))


def _evidence(module: Any, request: dict[str, Any], package: Path) -> Callable[[int], Any]:
    """For question answering: [document, [sentences or answers in it]] by number of the sample."""
    if request["kind"] != "qa":
        return lambda number: None
    if request["args"]["dataset"] == "squad":
        return lambda number: [
            [module.DOCS[doc], module.QAS[number]["outputs"]]
            for doc in module.QAS[number]["context"]
        ]
    path = package / "data" / "synthetic" / "json" / "hotpotqa.json"
    raw = json.loads(path.read_text(encoding="utf-8"))

    def of(number: int) -> list[Any]:
        texts = dict(raw[number]["context"])
        pairs = [(title, line) for title, line in raw[number]["supporting_facts"]]
        return [
            [f"{title}\n{''.join(texts[title])}", [texts[title][line]]]
            for title, line in pairs
            if title in texts and line < len(texts[title])
        ]

    return of


def _official(
    module: Any, request: dict[str, Any], evidence: Callable[[int], Any]
) -> list[dict[str, Any]]:
    """The script's own ``main``; what it would write is taken instead."""
    written: list[dict[str, Any]] = []
    module.write_manifest = lambda path, lines: written.extend(lines)
    module.main()
    return [
        {"history": number, "input": line["input"], "outputs": list(line["outputs"])}
        | {"evidence": evidence(number), "tokens": line["length"] - request["tokens"]}
        for number, line in enumerate(written)
    ]


def main() -> None:
    """Standard input to the file it names; ``TASK LENGTH`` to standard output as each ends."""
    order = json.load(sys.stdin)
    package = Path(order["package"])
    tokenizer = CountingTokenizer(order["tokenizer"])
    _stand_ins(tokenizer, package)
    from constants import TASKS  # type: ignore[import-not-found]  # the package's

    generator = Generator(package)
    report, sys.stdout = sys.stdout, sys.stderr  # the scripts print
    with open(order["out"], "w", encoding="utf-8") as out, tempfile.TemporaryDirectory() as folder:  # noqa: PTH123
        for request in order["requests"]:
            texts = TASKS[request["kind"]]
            request["tokens"] = texts["tokens_to_generate"]
            tokenizer.limit = request["length"]
            module = generator.load(request, texts["template"] + texts["answer_prefix"], folder)
            evidence = _evidence(module, request, package)
            if request["shared"] > 1 and request["kind"] not in _COUNTING:
                samples = shared_samples(module, request, texts, tokenizer.count, evidence)
            else:
                samples = _official(module, request, evidence)
            for sample in samples:
                own = {key: request[key] for key in ("task", "kind", "length")}
                own |= {"max_tokens": request["tokens"]}
                out.write(json.dumps(own | sample, ensure_ascii=False) + "\n")
            print(request["task"], request["length"], file=report, flush=True)


_COUNTING = ("common_words_extraction", "freq_words_extraction")

if __name__ == "__main__":
    main()
