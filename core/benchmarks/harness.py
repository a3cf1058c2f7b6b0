"""lm-evaluation-harness on the focus: any of its tasks, on contexts of any length.

``megacontext lm-eval`` registers :class:`FocusLM` as ``megacontext`` and hands over to the
harness. A context that fits the budget is read as it is; of a longer one the end is asked as a
question over the rest, which is the history.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from tqdm import tqdm

from megacontext.core.config import load_config, parse_config
from megacontext.core.evaluation.contenders.base import NO_GOLD, Sample
from megacontext.core.evaluation.contenders.registry import CONTENDERS, check_names
from megacontext.core.evaluation.sessions.base import ContenderSession
from megacontext.core.evaluation.sessions.history import History
from megacontext.core.evaluation.sessions.workspace import EvalWorkspace
from megacontext.core.tree.spec import U32
from megacontext.traces.errors import ConfigError

__all__ = ["FocusLM", "question_start"]

_PIECE = 16  # tokens decoded between two looks for the end
_ANSWER = 256  # tokens of an answer where a task names no number
_IGNORED = ("batch_size", "max_batch_size", "max_length", "trust_remote_code")


@register_model("megacontext")
class FocusLM(LM):  # type: ignore[misc]  # the harness is not typed
    """A model behind the focus.

    Args:
        pretrained: what ``model.path`` takes; the config's by default.
        w_max: the budget in entries.
        config: YAML config of a run.
        contender: of ``CONTENDERS``: what reads the context; ``ours`` by default.
        question_tokens: longest end of a context that is the question.
        device: ``cpu``; anything else, as the harness's default, leaves it to the config.
        options: further keys of the config, ``__`` for the dot: ``lens__kind=bm25``.

    Raises:
        ConfigError: an argument that the config does not know.
        ModelError: the model cannot be loaded.
    """

    def __init__(
        self,
        pretrained: str = "",
        w_max: int = 0,
        config: str = "",
        contender: str = "ours",
        question_tokens: int = 128,
        device: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        settings = [f"model.path={pretrained}"] if pretrained else []
        settings += [f"w_max={w_max}"] if w_max else []
        settings += ["device=cpu"] if device == "cpu" else []  # else what the config says
        settings += [
            f"{key.replace('__', '.')}={value}"
            for key, value in options.items()
            if key not in _IGNORED
        ]
        loaded = load_config(Path(config), settings) if config else parse_config("{}", settings)
        if question_tokens < 1:
            raise ConfigError(f"question_tokens is {question_tokens}; use at least 1.")
        self._contender = check_names([contender])[0]
        self._kit = EvalWorkspace.load(loaded)
        self._question_tokens = question_tokens
        self._last: tuple[bytes, History] | None = None

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(log-probability of the continuation, whether it is the greedy one) of each request."""
        found: list[tuple[float, bool]] = []
        for request in tqdm(requests, disable=disable_tqdm, desc="loglikelihood"):
            context, continuation = request.args
            tokens, count = self._pair(context, continuation)
            session = self._seat(tokens[:-count], count)
            nll, greedy = session.loglikelihood(tokens[-count:])
            found.append((-float(nll.sum()), greedy))
            self.cache_hook.add_partial("loglikelihood", request.args, found[-1])
        return found

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probability of each whole text, read block by block with refocuses."""
        found: list[float] = []
        for request in tqdm(requests, disable=disable_tqdm, desc="loglikelihood_rolling"):
            (text,) = request.args
            tokens = self._encode(text)
            history = self._kit.history_of(self._prefix())
            sample = Sample(self._kit.config, history, 1, NO_GOLD, stream=True)
            session = CONTENDERS[self._contender].open(self._kit, sample)
            found.append(-float(session.score_tokens(tokens).sum()) if len(tokens) else 0.0)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, found[-1])
        return found

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """A greedy answer to each context, up to the first of its ``until`` texts."""
        found: list[str] = []
        for request in tqdm(requests, disable=disable_tqdm, desc="generate_until"):
            context, options = request.args
            until = options.get("until") or []
            ends = [until] if isinstance(until, str) else list(until)
            limit = int(options.get("max_gen_toks", _ANSWER))
            tokens = self._encode(context)
            cut = self._cut(tokens, limit)
            text = self._decode(self._session_at(tokens, cut), tokens[cut:], limit, ends)
            found.append(text)
            self.cache_hook.add_partial("generate_until", request.args, text)
        return found

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The model's own chat template."""
        return str(
            self._kit.base.tokenizer.hf.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    @property
    def tokenizer_name(self) -> str:
        """For the harness's cache of requests."""
        return self._kit.base.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template's text, for the harness's records."""
        return str(self._kit.base.tokenizer.hf.chat_template or "") if chat_template else None

    def _encode(self, text: str) -> U32:
        return self._kit.base.tokenizer.encode(text)

    def _prefix(self) -> U32:
        """What stands before a text that begins: the beginning-of-text token, or the end's."""
        tokenizer = self._kit.base.tokenizer
        first = tokenizer.hf.bos_token_id
        first = tokenizer.eos_id if first is None else first
        return np.array([first or 0], np.uint32)

    def _pair(self, context: str, continuation: str) -> tuple[U32, int]:
        """Tokens of both, and how many are the continuation's; as the harness splits them."""
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        if not context:
            tokens = self._encode(continuation)
            return np.concatenate([self._prefix(), tokens]), len(tokens)
        whole, before = self._encode(context + continuation), self._encode(context)
        return whole, max(len(whole) - len(before), 1)

    def _cut(self, tokens: U32, answer: int) -> int:
        """Where the question begins; 0 where all of it and the answer fit the budget raw."""
        config = self._kit.config
        if len(tokens) + answer + 2 * config.block_size <= config.w_max:
            return 0
        max_length = min(self._question_tokens, config.w_max // 4)
        tail = self._kit.base.tokenizer.pieces(tokens[-max_length:])
        return len(tokens) - max_length + question_start(tail)

    def _session_at(self, tokens: U32, cut: int) -> ContenderSession:
        """A contender that has read the history ``tokens[:cut]``; the newest is remembered."""
        name = tokens[:cut].tobytes()
        if self._last is None or self._last[0] != name:
            self._last = name, self._kit.history_of(tokens[:cut])
        history = self._last[1]
        sample = Sample(self._kit.config, history, cut, NO_GOLD)
        return CONTENDERS[self._contender].open(self._kit, sample)

    def _seat(self, tokens: U32, answer: int) -> ContenderSession:
        """The same, after the question, too."""
        cut = self._cut(tokens, answer)
        session = self._session_at(tokens, cut)
        session.read_question(tokens[cut:])
        return session

    def _decode(
        self, session: ContenderSession, question: U32, limit: int, limits: Sequence[str]
    ) -> str:
        eos = self._kit.base.tokenizer.eos_id
        limits = [*limits, *([] if eos is None else [self._kit.base.tokenizer.decode([eos])])]
        text = session.ask(question, min(_PIECE, limit), "", reserve=limit).text
        done = _PIECE
        while done < limit and not any(stop in text for stop in limits):
            more = session.continue_answer(min(_PIECE, limit - done), "")
            if not more:
                break
            text, done = text + more, done + _PIECE
        ends = [text.find(stop) for stop in limits if stop in text]
        return text[: min(ends)] if ends else text


def question_start(pieces: Sequence[str]) -> int:
    """The piece at which the last paragraph begins, or, in a text of one, the last line; 0 where
    it is longer than the pieces."""
    text = "".join(pieces)
    body = text.rstrip()
    for mark in ("\n\n", "\n"):
        at = body.rfind(mark)
        if at >= 0:
            size = 0
            for number, piece in enumerate(pieces):
                size += len(piece)
                if size >= at + len(mark):
                    return number + 1 if number + 1 < len(pieces) else number
    return 0
