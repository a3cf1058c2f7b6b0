"""The engine process and the channel to it."""

from __future__ import annotations

import math
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from megacontext.traces.control import ControlClient, ControlError, ControlServer
from megacontext.traces.errors import ConfigError, LockedError
from megacontext.traces.meta import TraceMeta
from megacontext.traces.synthetic import SyntheticRun
from megacontext.traces.target import claim
from megacontext.traces.writer import TraceWriter
from megacontext.tui.launch import InspectorError
from megacontext.tui.live import connect as live
from megacontext.tui.live.connect import Start, connector, trace_of
from megacontext.tui.live.engine_control import EngineControl
from megacontext.tui.live.engine_process import (
    EngineError,
    EngineProcess,
    engine_command,
    last_line,
)
from megacontext.tui.sources.live_source import LiveSource, identity
from megacontext.tui.state.viewer import ViewerState

META = TraceMeta(block_size=8, w_max=160, levels=3).to_metadata()


class Engine:
    """Answers commands on a real socket, in a thread, and remembers them."""

    def __init__(self, trace: Path, refuse: str = "") -> None:
        self.server = ControlServer(trace)
        self.seen: list[tuple[str, dict[str, object]]] = []
        self.refuse = refuse
        self.paused = False
        self._stop = threading.Event()
        self.arrived = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stop.is_set():
            for command in self.server.poll(0.02):
                if command.name == "status":  # asked for by every viewer as it comes
                    command.reply(ok=True, paused=self.paused)
                    continue
                self.seen.append((command.name, command.fields))
                if command.name == self.refuse:
                    command.reply(ok=False, error=f"{command.name} is refused; try another.")
                else:
                    self.paused = {"pause": True, "step": True, "resume": False}.get(
                        command.name, self.paused
                    )
                    command.reply(ok=True, paused=self.paused)
                self.arrived.release()

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self.arrived.acquire(timeout=10)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.server.close()


def test_commands_reach_the_engine_in_order(tmp_path: Path) -> None:
    trace = tmp_path / "run.arrow"
    engine = Engine(trace)
    control = EngineControl(ControlClient.connect(trace))
    control.pause()
    control.refocus()
    control.knob("tau_expand", 0.3)
    control.knob("n_diff", 8.0)
    control.knob("n_diff", 2.5)
    control.ask("why?")
    control.knob("w_max", 512.0)
    control.inject("hello")
    control.marker("mark")
    engine.wait(9)
    control.stop()
    engine.close()
    assert engine.seen == [
        ("pause", {}),
        ("step", {}),
        ("set", {"key": "focus.tau_expand", "value": 0.3}),
        ("set", {"key": "focus.n_diff", "value": 8}),
        ("set", {"key": "focus.n_diff", "value": 2.5}),
        ("ask", {"text": "why?"}),
        ("set", {"key": "w_max", "value": 512}),
        ("text", {"text": "hello"}),
        ("marker", {"text": "mark"}),
        ("stop", {}),
    ]
    assert isinstance(engine.seen[6][1]["value"], int)


def test_a_refused_command_comes_back_as_a_sentence(tmp_path: Path) -> None:
    trace = tmp_path / "run.arrow"
    engine = Engine(trace, refuse="set")
    control = EngineControl(ControlClient.connect(trace))
    control.knob("w_max", 3)
    control.detach()
    engine.close()
    assert control.answers() == ["set is refused; try another."]
    assert control.answers() == []


def test_detaching_lets_a_paused_engine_run_on(tmp_path: Path) -> None:
    trace = tmp_path / "run.arrow"
    engine = Engine(trace)
    control = EngineControl(ControlClient.connect(trace))
    control.pause()
    engine.wait(1)
    while not control.paused:
        pass
    control.detach()
    engine.close()
    assert [name for name, _ in engine.seen] == ["pause", "resume"]


def test_a_pause_is_seen_by_every_viewer_and_only_its_maker_undoes_it(tmp_path: Path) -> None:
    trace = tmp_path / "run.arrow"
    engine = Engine(trace)
    first = EngineControl(ControlClient.connect(trace))
    first.pause()
    engine.wait(1)
    late = EngineControl(ControlClient.connect(trace))
    _until(lambda: late.paused)
    engine.server.broadcast("status", paused=False, awaits_turn=True)
    _until(lambda: not late.paused and late.waits and first.waits)
    engine.server.broadcast("status", paused=True, awaits_turn=False)
    _until(lambda: late.paused and first.paused)
    late.detach()
    assert [name for name, _ in engine.seen] == ["pause"]
    first.detach()
    engine.close()


def test_an_answer_arrives_token_by_token(tmp_path: Path) -> None:
    trace = tmp_path / "run.arrow"
    engine = Engine(trace)
    control = EngineControl(ControlClient.connect(trace))
    control.ask("why?")
    engine.wait(1)
    engine.server.broadcast("token", text="of another answer", nll=1.0)
    engine.server.broadcast("asked", text="why?")
    engine.server.broadcast("token", text=" be", nll=0.5)
    engine.server.broadcast("token", text="cause", nll=None)
    _until(lambda: (now := control.exchange()) is not None and len(now.pieces) == 2)
    now = control.exchange()
    assert now is not None
    assert (now.question, now.pieces, now.complete) == ("why?", (" be", "cause"), False)
    assert now.nll[0] == 0.5
    assert math.isnan(now.nll[1])
    engine.server.broadcast("answered", text=" because")
    _until(lambda: (now := control.exchange()) is not None and now.complete)
    control.detach()
    engine.close()


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never came true"


def test_an_engine_that_is_gone_is_a_sentence_not_an_exception(tmp_path: Path) -> None:
    trace = tmp_path / "run.arrow"
    engine = Engine(trace)
    control = EngineControl(ControlClient.connect(trace))
    engine.close()
    control.pause()
    control.detach()
    (said,) = control.answers()
    assert not said.startswith("pause")
    assert "gone" in said


def test_a_live_source_connects_once_its_engine_listens(tmp_path: Path, clock) -> None:
    trace = tmp_path / "run.arrow"
    source = LiveSource(trace, connect=connector(trace))
    assert not source.status().controllable
    with TraceWriter(trace, META) as writer:
        for row in list(SyntheticRun(tokens=160, w_max=160, block_size=8).rows())[:4]:
            writer.put(row)
        writer.flush()
        assert source.refresh()
        assert not source.status().controllable
        engine = Engine(trace)
        assert source.refresh()
        assert source.status().controllable
        session = ViewerState(source, clock)
        session.set_marker()
        engine.wait(1)
        assert engine.seen == [("marker", {"text": "mark"})]
        source.control.detach()
        engine.close()


def test_a_died_engine_is_told_with_its_last_line(tmp_path: Path) -> None:
    trace = tmp_path / "run.arrow"
    script = "import sys; print('Traceback'); print('ModelError: no such model.'); sys.exit(3)"
    engine = EngineProcess([sys.executable, "-c", script], trace)
    source = LiveSource(trace, engine=engine)
    assert engine.wait(30)
    source.refresh()
    assert source.status().problem == "The engine died (exit code 3): ModelError: no such model."
    assert not source.status().growing


def test_an_engine_that_ends_well_is_no_problem(tmp_path: Path) -> None:
    engine = EngineProcess([sys.executable, "-c", "pass"], tmp_path / "run.arrow")
    assert engine.wait(30)
    assert engine.problem() == ""
    assert not engine.running


def test_a_killed_engine_names_the_signal(tmp_path: Path) -> None:
    wait = "import signal; signal.pause()"
    engine = EngineProcess([sys.executable, "-c", wait], tmp_path / "run.arrow")
    assert engine.running
    engine.terminate()
    assert engine.wait(30)
    assert "signal 15" in engine.problem()


def test_the_engines_command_line_is_the_contract() -> None:
    command = engine_command(Path("a.yaml"), Path("t.arrow"), ["w_max=512", "seed=3"])
    assert command[1:] == [
        "-m", "megacontext.core.cli", "run", "--config", "a.yaml", "--out", "t.arrow", "--no-stdin",
        "--set", "w_max=512", "--set", "seed=3",
    ]  # fmt: skip


def test_attach_takes_a_trace_or_its_socket(tmp_path: Path) -> None:
    trace = tmp_path / "run.arrow"
    trace.touch()
    assert trace_of(trace) == trace
    assert trace_of(tmp_path / "run.arrow.sock") == trace
    with pytest.raises(ConfigError, match="does not exist"):
        trace_of(tmp_path / "other.arrow")


def test_a_full_disk_is_named_where_the_log_has_no_room_for_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EngineProcess([sys.executable, "-c", "raise SystemExit(1)"], tmp_path / "t.arrow")
    assert engine.wait(30)
    assert engine.problem().endswith(f"see {engine.log}.")
    assert str(live.dead_engine(engine)).count(str(engine.log)) == 1
    full = shutil.disk_usage(tmp_path)._replace(free=4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    assert f"the disk of {tmp_path} is full; free some space" in engine.problem()
    assert "--resume" in str(live.dead_engine(engine))


def test_a_viewer_that_fails_leaves_the_engine_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("seed: 0\n")
    engines = []

    def fail(source: LiveSource, **_: object) -> str:
        engines.append(source.engine)
        raise InspectorError("the inspector failed.")

    monkeypatch.setattr(live, "require_terminal", lambda: None)
    monkeypatch.setattr(live, "show", fail)
    monkeypatch.setattr(live, "engine_command", lambda *_: [sys.executable, "-c", "input()"])
    monkeypatch.setattr(live.EngineProcess, "running", True)
    with pytest.raises(InspectorError, match=r"engine runs on \(process \d+\).*--attach") as failed:
        live.start_and_watch(Start(config, tmp_path / "t.arrow"), theme="")
    assert failed.value.exit_code == 1
    assert str(engines[0].pid) in str(failed.value)


def test_the_last_line_skips_empty_ones_and_bad_bytes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"first\n\xff last \n\n")
    assert last_line(log) == "\ufffd last"
    assert last_line(tmp_path / "none") == ""


def test_nothing_listens_without_an_engine(tmp_path: Path) -> None:
    assert connector(tmp_path / "run.arrow")() is None
    with pytest.raises(ControlError):
        ControlClient.connect(tmp_path / "run.arrow")


@pytest.mark.parametrize("code", [0, 3])
def test_leaving_tells_the_trace_or_why_the_engine_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("seed: 0\n")
    script = f"import sys; print('error: no such key.'); sys.exit({code})"

    def watch(source: LiveSource, **_: object) -> str:
        assert source.engine is not None
        assert source.engine.wait(30)
        return ""

    monkeypatch.setattr(live, "require_terminal", lambda: None)
    monkeypatch.setattr(live, "show", watch)
    monkeypatch.setattr(live, "engine_command", lambda *_: [sys.executable, "-c", script])
    trace = tmp_path / "runs" / "t.arrow"
    start = Start(config, trace)
    if code:
        with pytest.raises(EngineError, match=r"exit code 3.*no such key"):
            live.start_and_watch(start, theme="")
    else:
        assert str(trace) in live.start_and_watch(start, theme="")
    assert trace.with_name("t.arrow.log").exists()


def test_two_engines_on_one_name_have_logs_of_their_own(tmp_path: Path) -> None:
    trace = tmp_path / "run.arrow"
    engines = [
        EngineProcess([sys.executable, "-c", f"import sys; print('word {n}'); sys.exit(2)"], trace)
        for n in (1, 2)
    ]
    for number, engine in enumerate(engines, 1):
        assert engine.wait(30)
        assert engine.problem().endswith(f"word {number}")
    assert [engine.log.name for engine in engines] == ["run.arrow.log", "run.arrow.2.log"]


def test_a_live_run_never_takes_a_trace_that_is_there(tmp_path: Path, monkeypatch) -> None:
    config, trace = tmp_path / "run.yaml", tmp_path / "t.arrow"
    config.write_text("seed: 0\n")
    TraceWriter(trace, META).close()
    before = trace.read_bytes()
    monkeypatch.setattr(live, "engine_command", lambda *_: [sys.executable, "-c", "pass"])
    with pytest.raises(ConfigError, match="--overwrite"):
        live.start_engine(Start(config, trace))
    with claim(trace, overwrite=True), pytest.raises(LockedError, match=r"--attach .*t\.arrow"):
        live.start_engine(Start(config, trace, overwrite=True))
    assert trace.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.yaml", "t.arrow"]
    engine, _ = live.start_engine(Start(config, trace, overwrite=True))
    assert engine.wait(30)


def test_runs_without_out_have_dated_names_and_pass_their_options_on(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "run.yaml"
    config.write_text("seed: 0\n")
    commands: list[tuple[object, ...]] = []

    def command(*given: object) -> list[str]:
        commands.append(given)
        return [sys.executable, "-c", "pass"]

    monkeypatch.setattr(live, "engine_command", command)
    start = Start(config, overrides=("seed=3",), tree=tmp_path / "tree")
    engine, trace = live.start_engine(start)
    assert engine.wait(30)
    assert re.fullmatch(r"runs/run-\d{8}-\d{6}\.arrow", str(trace))
    assert commands == [(config, trace, ["seed=3"], ("--tree", str(tmp_path / "tree")))]
    with pytest.raises(ConfigError, match="--resume needs --out"):
        live.start_engine(Start(config, resume=True))


def test_attach_finds_an_engine_that_has_no_trace_yet(tmp_path: Path) -> None:
    trace = tmp_path / "run.arrow"
    with claim(trace, overwrite=False):
        assert trace_of(trace) == trace
    with pytest.raises(ConfigError, match="does not exist"):
        trace_of(trace)


def test_an_engine_that_waits_with_an_old_trace_in_its_place_can_be_asked(tmp_path: Path) -> None:
    trace = tmp_path / "run.arrow"
    TraceWriter(trace, META).close()
    source = LiveSource(trace, connect=connector(trace), stale=identity(trace))
    engine = Engine(trace)
    source.refresh()
    assert source.status().controllable, "its new trace takes the name with the first row"
    assert source.control is not None
    source.control.detach()
    engine.close()
