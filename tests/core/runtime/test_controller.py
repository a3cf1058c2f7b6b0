import io
import json

import numpy as np
import pytest
from recorded import rows_of
from steered import running

from megacontext.core.config import parse_config
from megacontext.core.runtime.run import run
from megacontext.traces.control import ControlError
from megacontext.traces.schema import Trigger


@pytest.fixture
def config(config_text):
    # Long enough that no test reaches its end before it has asked everything.
    return parse_config(config_text, ["source.max_tokens=0", "source.decode_tokens=3000"])


def test_pause_step_and_knobs_take_effect_and_are_recorded(config, tmp_path, plain):
    out = tmp_path / "t.arrow"
    with running(config, out) as (client, _):
        paused = client.send("pause")
        assert paused["paused"]
        stepped = client.send("step")
        assert client.send("status")["step"] >= stepped["step"]
        client.send("set", key="focus.n_diff", value=1)
        client.send("set", key="w_max", value=112)
        client.send("marker", text="seen")
        for key, value in (
            ("seed", 1),
            ("w_max", True),
            ("focus", {}),
            ("focus.n_diff", -1),
            ("focus.n_diff.deeper", 1),
            ("focus.no.such", 1),
            ("focus.question", {"n_dif": 1}),
            ("focus.tau_expand", "high"),
        ):
            with pytest.raises(ControlError, match=key.partition(".")[0]):
                client.send("set", key=key, value=value)
        with pytest.raises(ControlError, match="at most 128"):
            client.send("set", key="w_max", value=256)
        for command in ("text", "marker"):
            with pytest.raises(ControlError, match="half of a character"):
                client.send(command, text="x\ud800")
        client.send("resume")
    rows = rows_of(out)
    plain.check_trace(out)
    cut = next(row for row in rows if row.trigger == Trigger.BUDGET_CUT)
    assert cut.w_max == 112
    assert json.loads(cut.knobs) == json.loads(cut.knobs) | {"w_max": 112}
    assert json.loads(cut.knobs)["focus"]["n_diff"] == 1
    after = [r for r in rows if r.step > cut.step and r.trigger == Trigger.BLOCK_CLOSED]
    assert all(np.count_nonzero(~row.actions["forced"]) <= 1 for row in after)
    assert any(row.marker == "seen" for row in rows)


def test_typed_text_enters_the_history(config, tmp_path, plain):
    out = tmp_path / "t.arrow"
    with running(config, out) as (client, result):
        client.send("text", text="hello out there")
    assert result["run"].outcome.stopped
    rows = rows_of(out)
    plain.check_trace(out)
    text = "".join(piece for row in rows for piece in row.new_text)
    assert "hello out there" in text
    assert any(row.marker and row.marker.startswith("typed @") for row in rows)


@pytest.mark.parametrize("control", [True, False])
def test_bytes_of_a_typed_line_that_are_no_text_are_marked_and_end_nothing(
    config_text, tmp_path, monkeypatch, control
):
    text = config_text[: config_text.index("source:")] + "source: {kind: prompt, reply_tokens: 2}"
    typed = io.BytesIO(b"hello\n a\xff\xfeb\nmore\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(typed, "utf-8", errors="surrogateescape"))
    out = tmp_path / "t.arrow"
    assert run(parse_config(text), out, control=control).outcome.stopped
    history = "".join(piece for row in rows_of(out) for piece in row.new_text)
    assert "a\ufffd\ufffdb" in history
    assert "more" in history


def test_a_prompt_session_takes_turns_from_the_socket(config_text, tmp_path):
    text = config_text[: config_text.index("source:")] + "source: {kind: prompt, reply_tokens: 5}"
    out = tmp_path / "t.arrow"
    with running(parse_config(text), out) as (client, _):
        for turn in ("good morning\n", "how are you?\n"):
            before = client.send("text", text=turn)["n_tokens"]
            while (now := client.send("status"))["n_tokens"] == before or not now["awaits_turn"]:
                pass
    rows = rows_of(out)
    history = "".join(piece for row in rows for piece in row.new_text)
    assert "good morning" in history
    assert "how are you?" in history
    assert any(row.trigger == Trigger.TURN_END for row in rows)
