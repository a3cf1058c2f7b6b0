"""Kits with a trained GistNet and LensNet: the lens reads the model and forgets histories."""

import pytest
import torch

from megacontext.core.config import parse_config
from megacontext.core.evaluation.contenders.base import Sample
from megacontext.core.evaluation.contenders.registry import CONTENDERS
from megacontext.core.evaluation.sessions.history import token_spans
from megacontext.core.evaluation.sessions.workspace import EvalWorkspace
from megacontext.core.evaluation.tasks.recall import evaluate_recall
from megacontext.core.evaluation.tasks.recall_tasks import RecallTask
from megacontext.core.gistnet.gister import NetGister, save_gistnet
from megacontext.core.gistnet.keys import KeyConfig
from megacontext.core.gistnet.module import GistNet, GistNetConfig
from megacontext.core.lensnet import LensNet, LensNetConfig, save_lensnet

KEYS = KeyConfig(width=16, layers=1, heads=2, ffn=24, context_dim=16, lexical_dim=16)


@pytest.fixture(scope="module")
def trained(workspace, config_text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    table, dim = workspace.base.embedding_matrix, workspace.base.dim
    gistnet = GistNet(GistNetConfig(dim, 8, 4, 1, 4, 2, 48, gist_rms=0.03, keys=KEYS))
    gistnet.init_weights(0)
    save_gistnet(gistnet, folder / "gistnet", table)
    lensnet = LensNet(LensNetConfig(dim, KEYS.key_dim, 8, width=16, heads=2))
    lensnet.init_weights(0)
    with torch.no_grad():
        source = torch.Generator().manual_seed(1)
        lensnet.score.weight.copy_(torch.randn(lensnet.score.weight.shape, generator=source))
    save_lensnet(lensnet, folder / "lensnet", NetGister.load(folder / "gistnet", table))
    settings = ["gist.kind=gistnet", f"gist.path={folder / 'gistnet'}"]
    settings += ["lens.kind=lensnet", f"lens.path={folder / 'lensnet'}"]
    return EvalWorkspace.load(parse_config(config_text, settings))


@pytest.fixture(scope="module")
def task(fact_task):
    return RecallTask(fact_task["history"], fact_task["question"], "5731", (fact_task["gold"],))


def test_a_lens_that_reads_hidden_states_gets_them(trained, workspace, task, monkeypatch):
    assert trained.lens.requires.hidden_states > 0
    assert workspace.lens.requires.hidden_states == 0
    seen = []
    lens = type(trained.lens)
    score = lens.score

    def watched(self, observation):
        seen.append(observation.query_hidden)
        return score(self, observation)

    monkeypatch.setattr(lens, "score", watched)
    evaluate_recall(trained, [task], ["ours"])
    assert seen
    assert all(hidden is not None for hidden in seen)


@pytest.mark.parametrize("name", ["ours", "random", "oracle", "mean", "gists"])
def test_every_focused_contender_answers(trained, task, name):
    history = trained.history(task.history)
    gold = token_spans(history.offsets, task.gold)
    sample = Sample(trained.config, history, len(history.tokens), gold)
    asked = (
        CONTENDERS[name].open(trained, sample).ask(trained.base.tokenizer.encode("\nQ?\nA:"), 6, "")
    )
    assert asked.gold_raw is not None
    assert asked.gold_raw or name != "oracle"


def test_a_lens_remembers_nothing_of_another_history(trained, task):
    other = RecallTask(task.history[::-1], task.question, "5731", task.gold)
    alone = evaluate_recall(trained, [task], ["ours"])
    among = evaluate_recall(trained, [task, other, task], ["ours"])
    assert (among[0].text, among[0].gold_raw) == (alone[0].text, alone[0].gold_raw)
    assert (among[2].text, among[2].gold_raw) == (alone[0].text, alone[0].gold_raw)
    for workspace in (
        trained,
        EvalWorkspace.load(parse_config(f"{_untrained(trained)}\nlens: {{kind: bm25}}")),
    ):
        history = workspace.history(task.history)
        assert workspace.clone_lens(history) is not workspace.clone_lens(history)
        assert workspace.clone_lens(history) is not workspace.lens


def _untrained(workspace):
    model = workspace.config.model.path
    return (
        f"w_max: 128\nblock_size: 8\nthreads: 1\nmodel: {{path: {model}, dtype: float32}}\n"
        "gist: {kind: mean}\ntree: {max_levels: 3}"
    )
