"""What LensNet is trained on is what a live session shows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megacontext.core.config import parse_config
from megacontext.core.gistnet.gister import NetGister, save_gistnet
from megacontext.core.gistnet.keys import KeyConfig
from megacontext.core.gistnet.module import GistNet, GistNetConfig
from megacontext.core.lensnet import LensNet, LensNetConfig, NetLens, save_lensnet
from megacontext.core.lensnet import lens as lens_module
from megacontext.core.lensnet.lens import legal_scores
from megacontext.core.model.base import BaseModel
from megacontext.core.runtime.build import build_parts
from megacontext.core.runtime.recorder import Recorder
from megacontext.core.runtime.script import ScriptRunner
from megacontext.core.runtime.session import Session
from megacontext.core.sources import Ingest, Question
from megacontext.core.training.common.frozen_base import FrozenBase
from megacontext.core.training.lensnet.inputs import build_lens_inputs, encode_histories

K = 8
KEYS = KeyConfig(
    width=16, layers=1, heads=2, ffn=24, context_dim=16, lexical_dim=16, query_tokens=12
)
CONFIG = """
seed: 3
w_max: 96
block_size: 8
threads: 1
model: {{path: {model}, dtype: float32}}
tree: {{max_levels: 4, dtype: fp32}}
gist: {{kind: gistnet, path: {folder}/gistnet}}
lens: {{kind: lensnet, path: {folder}/lensnet}}
"""


class Silent(Recorder):
    """No trace."""

    def __init__(self) -> None:
        super().__init__(None)  # type: ignore[arg-type]  # no row reaches a writer

    def tokens(self, *given: Any) -> None:
        pass

    def marker(self, *given: Any) -> None:
        pass

    def refocus(self, *given: Any) -> None:
        pass

    @property
    def has_pending(self) -> bool:
        return False


@dataclass
class Moment:
    """One observation, the question tokens the lens read and what it answered."""

    observation: Any
    given: list[torch.Tensor]
    scores: np.ndarray


@pytest.fixture(scope="module")
def lived(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(base, lens, moments) of a session that read 700 tokens and a question."""
    folder = tmp_path_factory.mktemp("skew")
    base = BaseModel.load(str(model_folder), device="cpu", dtype="float32")
    gistnet = GistNet(GistNetConfig(base.dim, K, 4, 1, 4, 2, 48, gist_rms=0.03, keys=KEYS))
    gistnet.init_weights(0)
    save_gistnet(gistnet, folder / "gistnet", base.embedding_matrix)
    net = LensNet(
        LensNetConfig(base.dim, KEYS.key_dim, K, width=16, heads=2, query_tokens=12, near_gists=3)
    )
    net.init_weights(0)
    with torch.no_grad():
        source = torch.Generator().manual_seed(1)
        net.score.weight.copy_(torch.randn(net.score.weight.shape, generator=source) * 0.5)
    save_lensnet(net, folder / "lensnet", NetGister.load(folder / "gistnet", base.embedding_matrix))
    parts = build_parts(parse_config(CONFIG.format(model=model_folder, folder=folder)))
    assert isinstance(parts.lens, NetLens)
    moments: list[Moment] = []
    given: list[list[torch.Tensor]] = []
    passing, score = lens_module.lens_pass, NetLens.score
    patch = pytest.MonkeyPatch()
    patch.setattr(lens_module, "lens_pass", lambda *a: given.append(list(a)) or passing(*a))

    def watched(self: NetLens, observation: Any) -> np.ndarray:
        scores = score(self, observation)
        moments.append(Moment(observation, given[-1], scores))
        return scores

    patch.setattr(NetLens, "score", watched)
    tokens = np.random.default_rng(0).integers(0, base.vocab_size, 713).astype(np.uint32)
    try:
        session = Session(parts, Silent())
        ScriptRunner(session).run([Ingest(tokens[:700]), Question(tokens[700:], "", "", 3, "")])
    finally:
        patch.undo()
        parts.close()
    return base, parts.lens, moments


def test_the_newest_states_surprisal_and_tokens_of_a_session_reach_the_lens(lived: Any) -> None:
    base, lens, moments = lived
    last = moments[-1]
    *_, counts, question, hidden, surprisal = last.given
    assert len(question) == KEYS.query_tokens  # what it was trained on
    assert (question < base.vocab_size).all()
    assert hidden.shape == (lens.hidden_states, base.dim)
    assert counts[3] == lens.hidden_states
    assert len(torch.unique(hidden, dim=0)) == lens.hidden_states
    nll = np.asarray(last.observation.surprisal)
    starts = np.append(last.observation.starts, last.observation.n_tokens)
    for entry in range(len(surprisal)):
        if last.observation.levels[entry] < 2:
            span = nll[starts[entry] : starts[entry] + K]
            assert float(surprisal[entry]) == pytest.approx(float(np.nanmean(span)), rel=1e-4)
    assert float(surprisal.min()) > 0


def test_trained_states_and_live_states_get_the_same_scores(lived: Any) -> None:
    base, lens, moments = lived
    levels_seen = set()
    for moment in moments[-8:]:
        seen = moment.observation
        closed = (seen.n_tokens - seen.tail_tokens) // K * K
        tokens = torch.from_numpy(np.array(seen.tree.tokens(0, seen.n_tokens)).astype(np.int64))
        nll = torch.from_numpy(np.array(seen.surprisal))[None]
        # The first token has none; its entry's mean is that of the others.
        nll[0, 0] = nll[0, 1 : K ** max(1, int(seen.levels[0]))].mean()
        frozen = FrozenBase(base)
        memory = encode_histories(frozen, lens._gister.net, tokens[None, :closed])
        trained = build_lens_inputs(
            frozen,
            lens._gister.net,
            lens.net.config,
            memory,
            tokens[None, -KEYS.query_tokens :],
            torch.from_numpy(seen.levels.astype(np.int64))[None],
            torch.from_numpy(np.array(seen.index))[None],
            torch.tensor([seen.n_tokens]),
            seen.query_hidden[None],
            nll[:, :closed],
        )
        expected = torch.tanh(trained.logits(lens.net))[0].numpy()
        expected = legal_scores(expected, seen.levels, seen.index, K)
        np.testing.assert_allclose(moment.scores, expected, atol=1e-3)
        levels_seen |= set(seen.levels.tolist())
    assert levels_seen == {0, 1, 2} or levels_seen == {0, 1, 2, 3}
