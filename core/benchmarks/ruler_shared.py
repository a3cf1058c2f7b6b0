"""Several RULER questions about one haystack: what makes a million tokens affordable.

The official generators plant what ``several`` samples plant into one text: as many keys, chains
or question's documents as they ask for together. What belongs to one question is a distractor of
the others, so this is never easier than the official form.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

__all__ = ["shared_samples"]

Samples = list[dict[str, Any]]
Count = Callable[[str], int]
_SPLIT = "\x00"
_MOST = 40  # places that the official script knows in an essay
_HEAD = re.compile(r"VAR ([A-Z]{5}) = (\d{5})")
_LINK = re.compile(r"VAR ([A-Z]{5}) = VAR ([A-Z]{5}) ")


def shared_samples(
    module: Any,
    request: dict[str, Any],
    texts: dict[str, Any],
    count: Count,
    evidence: Callable[[int], Any],
) -> Samples:
    """Samples of a request, ``request["shared"]`` of them about one history.

    Args:
        module: the loaded official script; its ``args`` are changed.
        texts: ``template`` and ``answer_prefix`` of the task.
        count: exact number of tokens of a text.
        evidence: of the sample of that number, for question answering.
    """
    samples: Samples = []
    history = 0
    while len(samples) < request["samples"]:
        multiple = min(request["shared"], request["samples"] - len(samples))
        first = len(samples)

        # As many questions about one history as fit it.
        while True:
            match request["kind"]:
                case "niah":
                    found = _needles(module, request, texts, count, multiple)
                case "variable_tracking":
                    found = _chains(module, request, texts, count, multiple)
                case _:
                    found = _questions(module, request, texts, count, first, multiple)
            if found is not None:
                break
            if multiple == 1:
                raise ValueError(f"{request['task']} does not fit {request['length']} tokens")
            multiple -= 1  # what they need together is too long
        for number, sample in enumerate(found, first):
            samples.append({"history": history, "evidence": evidence(number)} | sample)
        history += 1
    return samples


def _largest(
    build: Callable[[int], Samples], count: Count, limit: int, step: int, size: int
) -> Samples | None:
    """The samples about the longest haystack, in steps, of which none has over ``limit`` tokens;
    None if there is none.

    Args:
        size: where to begin.
    """

    def fitting(size: int) -> Samples | None:
        samples = build(size)
        max_length = max((str(sample["input"]) for sample in samples), key=len)
        return samples if count(max_length) <= limit else None

    low, best = 0, fitting(size)
    while best is None and size > step:
        size = max(step, size // 2 // step * step)
        best = fitting(size)
    low, high = size, 2 * size
    while best is not None and (samples := fitting(high)) is not None:
        low, best, high = high, samples, 2 * high
    while best is not None and high - low > max(step, low // 200):
        middle = (low + high) // 2 // step * step
        if middle in (low, high):
            break
        samples = fitting(middle)
        low, best, high = (low, best, middle) if samples is None else (middle, samples, high)
    return best


def _needles(
    module: Any, request: dict[str, Any], texts: dict[str, Any], count: Count, multiple: int
) -> Samples | None:
    args, given = module.args, request["args"]
    asked, values, keys = (int(given[f"num_needle_{part}"]) for part in ("q", "v", "k"))
    extra = max(keys - asked, 0)
    essay = given["type_haystack"] == "essay"
    if essay:
        multiple = min(multiple, (_MOST // values - extra) // asked)
    args.num_needle_k = multiple * asked + extra
    args.num_needle_q = multiple * asked
    args.template = "{query}" + _SPLIT + "{context}"
    template, kind = texts["template"] + texts["answer_prefix"], str(given["type_needle_v"])
    if asked * values == 1:  # as the official script does
        for old, new in (("Some", "A"), ("are all", "is"), ("are", "is")):
            template = template.replace(old, new)
        kind = kind.removesuffix("s")

    def build(size: int) -> Samples:
        text, flat = module.generate_input_output(size)
        query, _, context = text.partition(_SPLIT)
        names = [name.removeprefix("and ") for name in query.split(", ")]
        samples: Samples = []
        for first in range(0, multiple * asked, asked):
            own = names[first : first + asked]
            query = ", ".join(own[:-1]) + ", and " + own[-1] if asked > 1 else own[0]
            made = template.format(type_needle_v=kind, context=context, query=query)
            outputs = flat[first * values : (first + asked) * values]
            samples.append({"input": made, "outputs": outputs})
        return samples

    step = 100 if essay else 25
    limit = request["length"] - request["tokens"]
    start = limit * 2 // 3 if essay else limit // 28
    return _largest(build, count, limit, step, max(step, start // step * step))


def _chains(
    module: Any, request: dict[str, Any], texts: dict[str, Any], count: Count, multiple: int
) -> Samples | None:
    hops = int(request["args"]["num_hops"])
    template = texts["template"] + texts["answer_prefix"]
    module.args.template = template
    # The worked example before the text, made as the official script makes it.
    made = module.sys_vartrack_w_noise_random(
        num_samples=1, max_seq_length=500, incremental=5, num_chains=1, num_hops=hops
    )[0]
    example = made["input"] + " " + " ".join(made["outputs"]) + "\n\n"
    module.args.template = "{context}"

    def build(size: int) -> Samples:
        context, _ = module.generate_input_output(size, multiple, hops)
        follows = {before: name for name, before in _LINK.findall(context)}
        shown = " " + module.randomize_icl(example) + "\n\n"
        samples: Samples = []
        for name, value in _HEAD.findall(context):
            chain = [name]
            while chain[-1] in follows:
                chain.append(follows[chain[-1]])
            text = template.format(context=context, query=value, num_v=hops + 1)
            samples.append({"input": shown + text, "outputs": chain})
        return samples

    limit = request["length"] - request["tokens"]
    step = 10
    return _largest(build, count, limit, step, max(step, limit // 27 // step * step))


def _questions(
    module: Any,
    request: dict[str, Any],
    texts: dict[str, Any],
    count: Count,
    first: int,
    multiple: int,
) -> Samples | None:
    template = texts["template"] + texts["answer_prefix"]
    asked = module.QAS[first : first + multiple]
    gold = list(dict.fromkeys(doc for qa in asked for doc in qa["context"]))
    # Paragraphs of the same article come before others, as in the official script.
    near = dict.fromkeys(doc for qa in asked for doc in qa.get("more_context", []))
    known = set(gold)
    more = [doc for doc in near if doc not in known]
    known.update(more)
    rest = [doc for doc in range(len(module.DOCS)) if doc not in known]

    def build(size: int) -> Samples:
        fill = max(size - len(gold), 0)
        docs = gold + (more + random.sample(rest, max(0, min(fill - len(more), len(rest)))))[:fill]
        shown = [module.DOCS[doc] for doc in docs]
        random.Random(request["seed"]).shuffle(shown)
        context = "\n\n".join(
            module.DOCUMENT_PROMPT.format(i=i, document=doc) for i, doc in enumerate(shown, 1)
        )
        return [
            {"input": template.format(context=context, query=qa["query"]), "outputs": qa["outputs"]}
            for qa in asked
        ]

    limit = request["length"] - request["tokens"]
    return _largest(build, count, limit, 1, max(1, limit // 180))
