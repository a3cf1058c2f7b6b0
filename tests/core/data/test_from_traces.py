"""States of recorded sessions and logs: what was raw, what came next, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from megacontext.core.config import parse_config
from megacontext.core.data.conversation_logs import read_log
from megacontext.core.data.from_traces import StateOptions, collect_states
from megacontext.core.data.recorded_states import (
    RecordedState,
    RecordedStates,
    StateLayout,
    levels_by_block,
    write_states,
)
from megacontext.core.data.shards import open_shards
from megacontext.core.data.tokenizer import fingerprint, load_tokenizer
from megacontext.core.runtime.pretrained import bundle_folder
from megacontext.core.runtime.run import run
from megacontext.traces.errors import ConfigError, SourceError
from megacontext.traces.reader import TraceReader

OPTIONS = StateOptions(blocks=20, horizon=16, block_size=8, every=2)


@pytest.fixture(scope="module")
def trace(model_folder, tmp_path_factory):
    """A session of 75 blocks of 8 tokens in a window of 128."""
    folder = tmp_path_factory.mktemp("recorded")
    rng = np.random.default_rng(5)
    words = ["".join(rng.choice(list("abcdefgh"), 4)) for _ in range(40)]
    (folder / "text.txt").write_text(" ".join(rng.choice(words, 700)))
    config = parse_config(f"""
w_max: 128
block_size: 8
model: {{path: {model_folder}, dtype: float32}}
tree: {{max_levels: 3}}
lens: {{kind: random}}
source: {{kind: text, path: {folder / "text.txt"}, max_tokens: 600, decode_tokens: 0}}
""")
    return run(config, folder / "run.arrow", control=False).trace


def opened(folder, model_folder, **sizes):
    mark = fingerprint(load_tokenizer(model_folder))
    known = {"tokenizer": mark, "block_size": 8, "blocks": 20, "horizon": 16}
    return RecordedStates.open(folder, **{**known, **sizes})


def test_a_state_has_the_sessions_tokens_raw_blocks_and_what_came_next(
    trace, model_folder, tmp_path
):
    counts = collect_states([trace], [], model_folder, tmp_path, OPTIONS)
    states = opened(tmp_path, model_folder)
    assert counts["from_traces"] == len(states) > 10
    with TraceReader.open(trace) as reader:
        rows = {row.step: row for row in reader.rows() if row.round == 0}
        tokens = np.concatenate([row.new_tokens for row in reader.rows()])
    for state in (states[i] for i in range(len(states))):
        row = rows[int(state.source.rsplit(" ", 1)[1])]
        stop = int(row.history_tokens) // 8 * 8
        np.testing.assert_array_equal(state.tokens, tokens[stop - 160 : stop + 16])
        wide = 8 ** (np.maximum(row.levels, 1).astype(int) - 1)
        raw = np.repeat(row.levels == 0, wide)[-20:]
        np.testing.assert_array_equal(state.levels[:-2] == 0, raw[:-2])
    (stream,) = open_shards(tmp_path, fingerprint(load_tokenizer(model_folder))).streams["session"]
    np.testing.assert_array_equal(stream, tokens)


def test_shorter_states_keep_the_newest_blocks(trace, model_folder, tmp_path):
    collect_states([trace], [], model_folder, tmp_path, OPTIONS)
    long, short = opened(tmp_path, model_folder), opened(tmp_path, model_folder, blocks=11)
    assert len(long) == len(short)
    for i in range(len(long)):
        np.testing.assert_array_equal(short[i].tokens, long[i].tokens[72:])
        np.testing.assert_array_equal(short[i].levels == 0, long[i].levels[9:] == 0)


@pytest.mark.parametrize("seed", range(20))
def test_any_frontier_becomes_one_over_its_newest_blocks(seed):
    rng = np.random.default_rng(seed)
    level = rng.choice([0, 1], 90)
    levels = [*rng.choice([2, 3], 3), *level]
    blocks, size = int(rng.integers(12, 90)), 8
    ours = levels_by_block(np.array(levels), blocks, size)
    assert len(ours) == blocks
    np.testing.assert_array_equal(ours[:-2] == 0, level[-blocks:-2] == 0)
    two = np.flatnonzero(ours == 2)
    for group in set((two // size).tolist()):
        assert (ours[group * size : (group + 1) * size] == 2).all()


def test_coarse_groups_stay_coarse_where_a_whole_group_is():
    levels = np.array([3, 2, 2, *[1] * 8, 0, 0])
    ours = levels_by_block(levels, 34, 8)
    assert ours.tolist() == [2] * 24 + [1] * 8 + [0, 0]


LOG_LINES = [
    {
        "messages": [
            {"role": "user", "content": "Where?"},
            {"role": "assistant", "content": "Here."},
        ]
    },
    {"role": "user", "content": [{"type": "text", "text": "List the files."}]},
    {
        "type": "assistant",
        "message": {
            "role": "assistant",
            "content": [{"type": "tool_use", "name": "shell", "input": {"command": "ls"}}],
        },
    },
    {
        "type": "user",
        "message": {"role": "user", "content": [{"type": "tool_result", "content": "a.py"}]},
    },
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "read", "arguments": '{"path": "a.py"}'}}],
    },
    {"type": "summary", "summary": "no turn"},
]


def write_log(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_conversations_and_agents_logs_become_turns(tmp_path):
    turns = list(read_log(write_log(tmp_path / "log.jsonl", LOG_LINES)))
    assert [(t.role, t.text) for t in turns] == [
        ("user", "Where?"),
        ("assistant", "Here."),
        ("user", "List the files."),
        ("assistant", 'shell {"command": "ls"}'),
        ("user", "a.py"),
        ("assistant", 'read {"path": "a.py"}'),
    ]


def test_states_of_a_log_stand_before_each_reply(model_folder, tmp_path):
    lines = [
        {"role": ("user", "assistant")[i % 2], "content": f"turn {i} " + "abc " * 30}
        for i in range(8)
    ]
    log = write_log(tmp_path / "log.jsonl", lines)
    counts = collect_states([], [log], model_folder, tmp_path / "out", OPTIONS)
    states = opened(tmp_path / "out", model_folder)
    assert counts["from_logs"] == len(states) == 3  # the first reply has too short a history
    tokenizer = load_tokenizer(model_folder)
    for state in (states[i] for i in range(len(states))):
        assert len(state.levels) == 0
        assert "assist" in tokenizer.decode(state.tokens[-24:].tolist())


def test_a_log_too_short_for_a_state_is_named(trace, model_folder, tmp_path):
    log = tmp_path / "short.jsonl"
    log.write_text(json.dumps({"messages": [{"role": "assistant", "content": "yes"}]}) + "\n")
    lines: list[str] = []
    counts = collect_states([trace], [log], model_folder, tmp_path / "out", OPTIONS, lines.append)
    assert counts["from_logs"] == 0
    assert [line for line in lines if "gives no state" in line] == [lines[-1]]
    assert "short.jsonl" in lines[-1]
    assert "needs 176" in lines[-1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{nothing\n", "line 1"),
        ("", "holds no turn"),
        ('{"type": "summary"}\n', "holds no turn"),
    ],
)
def test_a_log_that_is_none_is_refused(tmp_path, content, words):
    path = tmp_path / "log.jsonl"
    path.write_text(content)
    with pytest.raises(SourceError, match=words):
        list(read_log(path))


def test_what_does_not_belong_to_the_model_is_refused(trace, model_folder, tmp_path):
    bundle = bundle_folder() / "base"
    with pytest.raises(SourceError, match="another tokenizer"):
        collect_states([trace], [], bundle, tmp_path, OPTIONS)
    with pytest.raises(SourceError, match="block_size 8, not 32"):
        collect_states([trace], [], model_folder, tmp_path, StateOptions())
    with pytest.raises(SourceError, match="no history reaches 500 blocks"):
        collect_states([trace], [], model_folder, tmp_path, StateOptions(blocks=500, block_size=8))
    with pytest.raises(ConfigError, match="nothing to read"):
        collect_states([], [], model_folder, tmp_path, OPTIONS)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"tokenizer": "other"}, "tokenizer"),
        ({"block_size": 4}, "block_size"),
        ({"blocks": 21}, "fewer than states.near_blocks 21"),
        ({"horizon": 17}, "states.horizon 17"),
    ],
)
def test_states_of_other_sizes_are_refused(tmp_path, model_folder, sizes, words):
    layout = StateLayout(fingerprint(load_tokenizer(model_folder)), 8, 20, 16)
    state = RecordedState("a", np.zeros(176, np.int64), np.zeros(20, np.int64))
    write_states(tmp_path, [state], layout)
    with pytest.raises(SourceError, match=words):
        opened(tmp_path, model_folder, **sizes)
    with pytest.raises(SourceError, match="holds no states"):
        opened(tmp_path / "none", model_folder)
