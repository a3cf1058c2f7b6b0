"""Rows computed before the host knows their tokens: the same run, and hardly a row too many."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from recorded import rows_of

from megacontext.core.config import parse_config
from megacontext.core.model import window as window_module
from megacontext.core.model.base import Forward
from megacontext.core.model.choice import Choice
from megacontext.core.model.fast_llama import LlamaRunner
from megacontext.core.runtime.build import build_parts
from megacontext.core.runtime.run import run
from megacontext.core.runtime.session import Session
from megacontext.core.runtime.sinks import NullSink

SETTINGS = ["lens.kind=random", "source.max_tokens=200", "focus.tau_expand=0"]


class AheadRunner(LlamaRunner):
    """The plain step as a GPU's: its newest choice is in one place, which each step overwrites."""

    made: ClassVar[list["AheadRunner"]] = []

    def __init__(self, base, cache):
        super().__init__(base, cache)
        self.choices, self.device_token, self.ahead, self.rows = 0, -1, 0, 0
        self.made.append(self)

    def run(self, slots, orders, positions, keep):
        forward = super().run(slots, orders, positions, keep)
        self.rows += len(slots)
        logits = forward.logits[-1]
        self.device_token = int(logits.argmax())
        nll = -logits.log_softmax(-1)[self.device_token]
        self.choices += 1
        packed = torch.tensor([float(self.device_token), float(nll)])
        return Forward(forward.logits, forward.hidden, Choice(packed, self.choices))

    def _token(self, choice):
        return self.device_token if choice.number == self.choices else choice.token

    def run_choice(self, choice, slot, order, position):
        self.ahead += 1
        return self.run_token(self._token(choice), slot, order, position)

    def write_choice(self, choice, slot):
        self.ahead += 1
        self.cache.inputs[slot] = self.weights.embedding[self._token(choice)]


@pytest.fixture
def ahead(monkeypatch):
    """ahead() -> from now on windows compute ahead; the list of their runners."""

    def start():
        AheadRunner.made = []
        pick = lambda base, cache, kind: AheadRunner(base, cache)  # noqa: E731
        monkeypatch.setattr(window_module, "pick_runner", pick)
        return AheadRunner.made

    return start


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["focus.lag=3"],
        ["focus.lag=3", "gist.kind=token", "kv={drift_every: 2, refresh_every: 40}"],
        ["focus.lag=3", "triggers={surprisal: 3.0, min_gap: 2}"],
        ["kv={mode: exact}"],
        ["sampling.temperature=0.7"],
    ],
    ids=["plain", "lag", "fused, drift, refresh", "surprisal", "exact", "sampled"],
)  # fmt: skip
def test_a_run_with_rows_ahead_is_the_run_without(config_text, tmp_path, ahead, settings):
    text = config_text.replace("decode_tokens: 24", "decode_tokens: 100")
    config = parse_config(text, [*SETTINGS, *settings])
    plain = rows_of(run(config, tmp_path / "plain.arrow", control=False).trace)
    runners = ahead()
    rows = rows_of(run(config, tmp_path / "ahead.arrow", control=False).trace)

    greedy = config.sampling.temperature == 0
    assert sum(r.ahead for r in runners) > 20 if greedy else not any(r.ahead for r in runners)
    assert len(rows) == len(plain)
    for name in ("new_tokens", "actions", "levels", "kv_rows", "trigger", "new_text"):
        for a, b in zip(plain, rows, strict=True):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
    for a, b in zip(plain, rows, strict=True):
        np.testing.assert_allclose(a.new_nll, b.new_nll, atol=1e-4)
        assert b.kv_drift == pytest.approx(a.kv_drift, abs=1e-4)


@pytest.mark.parametrize("lag", [0, 3])
def test_no_row_is_computed_twice_in_plain_decoding(config_text, ahead, lag):
    runners = ahead()
    parts = build_parts(parse_config(config_text, [*SETTINGS, f"focus.lag={lag}"]))
    session = Session(parts, NullSink())
    tokens = np.resize(parts.base.tokenizer.encode("abc def gh "), 400).astype(np.uint32)
    session.append(tokens)
    runner, syncs = runners[-1], []
    before = runner.rows
    follow = session._reader.sync
    session._reader.sync = lambda **how: syncs.append(follow(**how)) or syncs[-1]
    session.decode(40)
    assert runner.rows - before == 40 + sum(s.rows for s in syncs)
    assert runner.ahead >= 40 - 2 * len(syncs) - 1
    parts.close()


@pytest.mark.parametrize("text", ["h", "abc def"])
def test_text_that_the_model_did_not_choose_drops_what_is_ahead(config_text, ahead, text):
    ahead()
    parts = build_parts(parse_config(config_text, SETTINGS))
    tokens = np.resize(parts.base.tokenizer.encode("abc def gh "), 40).astype(np.uint32)
    other = parts.base.tokenizer.encode(text)
    logits = []
    for count in (0, 3):
        parts.window.reset()
        parts.window.append(tokens)
        parts.window.run_ahead(count)
        assert other[0] != parts.window.last.choice.token
        for _ in range(2):
            forward = parts.window.append(other)
        logits.append(forward.logits)
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-4)
    parts.close()
