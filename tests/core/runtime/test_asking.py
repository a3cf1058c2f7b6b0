"""Questions to a running session: answered at once, streamed, recorded, no part of the source."""

import re
import time
from pathlib import Path

import pytest
from recorded import rows_of
from steered import running

from megacontext.core.config import parse_config
from megacontext.core.runtime.asking import question_text
from megacontext.core.runtime.run import run
from megacontext.core.verify import verify
from megacontext.traces.schema import Trigger


@pytest.fixture
def config(config_text):
    return parse_config(config_text, ["source.max_tokens=0", "source.decode_tokens=3000"])


@pytest.fixture
def prompt(config_text):
    text = config_text[: config_text.index("source:")]
    return parse_config(text + "source: {kind: prompt, reply_tokens: 5}")


def events_until(client, name, timeout_s=60.0):
    """Events of the client up to the first called ``name``."""
    seen, deadline = [], time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        seen += client.events()
        if any(event["event"] == name for event in seen):
            return seen
    raise AssertionError(f"no {name!r} among {[event['event'] for event in seen]}")


def span(rows, word):
    """(row, start, stop) of the first marker ``word @start-stop``."""
    for row in rows:
        match = re.search(rf"(?:^|; ){word} @(\d+)-(\d+)", row.marker or "")
        if match:
            return row, int(match[1]), int(match[2])
    raise AssertionError(f"no marker {word!r}")


def text_of(rows, start, stop):
    return "".join([piece for row in rows for piece in row.new_text][start:stop])


def test_a_question_in_the_middle_of_a_run_is_answered_and_recorded_at_once(config, tmp_path):
    out = tmp_path / "t.arrow"
    with running(config, out) as (client, _):
        client.send("pause")
        client.send("ask", text="where is the key?")
        events = events_until(client, "answered")
        assert client.send("status")["paused"], "the answer came, the engine waits again"
    rows = rows_of(out)
    asked, start, stop = span(rows, "asked")
    assert asked.trigger == Trigger.TURN_END
    assert text_of(rows, start, stop) == "\nQuestion: where is the key?\nAnswer:"
    answered, first, last = span(rows, "answered")
    assert (first, answered.history_tokens) == (stop, last)
    assert answered.trigger == Trigger.REPLY
    tokens = [event for event in events if event["event"] == "token"]
    assert "".join(event["text"] for event in tokens) == text_of(rows, first, last)
    assert all(event["nll"] >= 0 for event in tokens)
    assert verify(out).ok


def test_a_turn_of_a_conversation_has_its_reply_in_the_trace_before_the_next(prompt, tmp_path):
    out = tmp_path / "t.arrow"
    with running(prompt, out) as (client, _):
        client.send("text", text="good morning\n")
        events = events_until(client, "answered")
        (reply,) = (event["text"] for event in events if event["event"] == "answered")
        while not client.send("status")["awaits_turn"]:
            pass
    rows = rows_of(out)
    row, first, last = span(rows, "answered")
    assert row.trigger == Trigger.REPLY
    assert text_of(rows, first, last).startswith(reply)
    assert verify(out).ok


def test_a_second_viewer_learns_of_a_pause_and_of_a_question(config, tmp_path):
    from megacontext.traces.control import ControlClient

    out = tmp_path / "t.arrow"
    with running(config, out) as (client, _), ControlClient.connect(out) as other:
        other.send("status")
        client.send("pause")
        assert events_until(other, "status")[-1]["paused"]
        client.send("ask", text="who?")
        events = events_until(other, "answered")
        assert [e["text"] for e in events if e["event"] == "asked"] == ["\nQuestion: who?\nAnswer:"]


def test_a_changed_knob_is_a_marker_with_both_values(config, tmp_path):
    out = tmp_path / "t.arrow"
    with running(config, out) as (client, _):
        client.send("pause")
        client.send("set", key="focus.tau_expand", value=0.05)
        client.send("set", key="focus.n_diff", value=4)
        client.send("set", key="w_max", value=112)
        client.send("resume")
    markers = "; ".join(row.marker for row in rows_of(out) if row.marker)
    assert "tau_expand 0.2 → 0.05" in markers
    assert "w_max 128 → 112" in markers
    assert "n_diff" not in markers, "it is 4 already"


@pytest.mark.parametrize("cut", [False, True])
def test_a_run_goes_on_after_a_question_also_where_its_answer_was_cut_off(
    config_text, tmp_path, cut
):
    out = tmp_path / "t.arrow"
    config = parse_config(
        config_text,
        ["source.max_tokens=600", "source.decode_tokens=0", "tree.storage=disk",
         f"tree.path={tmp_path / 'tree'}"],
    )  # fmt: skip
    with running(config, out) as (client, _):
        client.send("pause")
        client.send("ask", text="where is the key?")
        events_until(client, "token" if cut else "answered")
    source = run(config, out, resume=True, control=False)
    rows = rows_of(source.trace)
    _, start, _stop = span(rows, "asked")
    history = text_of(rows, 0, 1 << 30)
    assert rows[-1].history_tokens > 600
    assert history[:start] + history[-(600 - start) :] == text_of_source(config)[:600]


def text_of_source(config):
    return Path(config.source.path).read_text()


def test_only_a_plain_question_is_put_into_the_form_of_one():
    assert question_text(" why? ") == "\nQuestion: why?\nAnswer:"
    for text in ("The code is 1.\n", "Question: why? Answer:", "go on"):
        assert question_text(text) == text
