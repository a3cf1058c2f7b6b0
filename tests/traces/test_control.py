import json
import os
import socket
import stat
import subprocess
import sys
import threading

import pytest

from megacontext.traces.control import (
    ControlClient,
    ControlError,
    ControlServer,
    socket_path,
)
from megacontext.traces.control_protocol import LIMIT_BYTES
from megacontext.traces.errors import LockedError, TraceError


@pytest.fixture
def trace(tmp_path):
    return tmp_path / "run.arrow"


@pytest.fixture
def server(trace):
    with ControlServer(trace) as server:
        yield server


class _Engine(threading.Thread):
    """A session loop that answers every command with its fields."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.seen, self.done = server, [], False

    def run(self):
        while not self.done:
            for command in self.server.poll(0.05):
                self.seen.append((command.name, command.fields))
                if command.fields.get("key") == "bad":
                    command.reply(ok=False, error="key is 'bad'; use w_max.")
                else:
                    command.reply(paused=command.name == "pause", echo=command.fields)


@pytest.fixture
def engine(server):
    engine = _Engine(server)
    engine.start()
    yield engine
    engine.done = True
    engine.join()


def _raw(trace):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(str(socket_path(trace)))
    return connection


def _line(connection):
    data = b""
    while not data.endswith(b"\n"):
        piece = connection.recv(1)
        if not piece:
            return None
        data += piece
    return json.loads(data)


def test_commands_reach_the_session_and_replies_come_back(trace, engine):
    with ControlClient.connect(trace) as client:
        assert client.send("pause") == {"paused": True, "echo": {}}
        assert client.send("set", key="w_max", value=512)["echo"] == {"key": "w_max", "value": 512}
        assert client.send("text", text="é\n")["echo"] == {"text": "é\n"}
    assert [name for name, _ in engine.seen] == ["pause", "set", "text"]


def test_a_refusal_is_the_engines_own_sentence(trace, engine):
    with ControlClient.connect(trace) as client:
        with pytest.raises(ControlError, match="key is 'bad'; use w_max"):
            client.send("set", key="bad")
        assert client.send("status")["paused"] is False


def test_an_unknown_command_is_refused_by_name(trace, engine):
    said = r"command is 'explode'; use one of ask, marker, pause"
    with ControlClient.connect(trace) as client, pytest.raises(ControlError, match=said):
        client.send("explode")
    assert engine.seen == []


def test_two_clients_get_their_own_replies(trace, engine):
    with ControlClient.connect(trace) as one, ControlClient.connect(trace) as two:
        for number in range(20):
            assert one.send("marker", text=f"one {number}")["echo"]["text"] == f"one {number}"
            assert two.send("marker", text=f"two {number}")["echo"]["text"] == f"two {number}"


def test_status_events_reach_every_client(trace, server, engine):
    with ControlClient.connect(trace) as one, ControlClient.connect(trace) as two:
        for client in (one, two):
            client.send("status")  # both are accepted now
        server.broadcast(step=7)
        for client in (one, two):
            client.send("status")  # events come before later replies
            assert [event["step"] for event in client.events()] == [7]
            assert client.status["step"] == 7
            assert client.events() == []


def test_the_socket_is_for_its_owner_only(trace, server):
    mode = socket_path(trace).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_a_path_too_long_for_a_socket_gets_a_private_folder(tmp_path):
    folder = tmp_path / ("d" * 60) / ("e" * 60)
    folder.mkdir(parents=True)
    trace = folder / "run.arrow"
    with ControlServer(trace) as server:
        engine = _Engine(server)
        engine.start()
        pointer = socket_path(trace)
        real = pointer.read_text()
        assert stat.S_IMODE(os.stat(os.path.dirname(real)).st_mode) == 0o700  # noqa: PTH116, PTH120
        with ControlClient.connect(trace) as client:
            assert client.send("pause")["paused"]
        engine.done = True
        engine.join()
    assert not pointer.exists()
    assert not os.path.exists(os.path.dirname(real))  # noqa: PTH110, PTH120


def test_a_relative_path_means_the_same_socket(tmp_path, monkeypatch, trace, engine):
    monkeypatch.chdir(tmp_path)
    with ControlClient.connect(trace.relative_to(tmp_path)) as client:
        assert client.send("pause")["paused"]


def test_closing_removes_the_socket_and_tells_clients(trace):
    server = ControlServer(trace)
    client = ControlClient.connect(trace)
    server.close()
    server.close()
    assert not socket_path(trace).exists()
    with pytest.raises(ControlError, match=r"has gone; its trace stays"):
        client.send("pause")
    with pytest.raises(ControlError, match="has gone"):
        client.events()
    client.close()
    with pytest.raises(ControlError, match="no engine listens"):
        ControlClient.connect(trace)


def test_a_second_engine_is_refused(trace, server):
    with pytest.raises(LockedError, match="another engine listens"):
        ControlServer(trace)


def test_an_impossible_place_is_one_sentence(tmp_path):
    with pytest.raises(TraceError, match="cannot be made"):
        ControlServer(tmp_path / "missing" / "run.arrow")


_CHILD = """
import sys
from pathlib import Path
from megacontext.traces.control import ControlServer
server = ControlServer(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    server.poll(60)
"""


def test_a_killed_engine_is_noticed_and_its_socket_reused(trace):
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(trace)], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"ready\n"
    client = ControlClient.connect(trace)
    child.kill()
    child.wait()
    child.stdout.close()
    with pytest.raises(ControlError, match="has gone"):
        client.send("pause")
    client.close()
    assert socket_path(trace).exists()  # nobody could remove it
    with pytest.raises(ControlError, match="no engine listens"):
        ControlClient.connect(trace)
    ControlServer(trace).close()


def test_an_engine_that_does_not_answer_is_said_in_time(trace, server):
    with ControlClient.connect(trace, timeout_s=0.05) as client:
        with pytest.raises(ControlError, match=r"did not answer 'pause' within 0\.05 s"):
            client.send("pause")
        late, status = server.poll(), None
        late[0].reply(paused=True)  # belongs to the first call, not to the next
        client._timeout_s = 10
        engine = _Engine(server)
        engine.start()
        status = client.send("status")
        engine.done = True
        engine.join()
    assert status["paused"] is False


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"hello\n", "no JSON object"),
        (b"[1]\n", "no JSON object"),
        (b"\xff\xfe\n", "no JSON object"),
        (b"[" * 100_000 + b"\n", "no JSON object"),
        (b'{"v": 1, "command": NaN}\n', "no JSON object"),
        (b'{"v": 2, "id": 1, "command": "pause"}\n', "version 2"),
        (b'{"command": "pause"}\n', "version None"),
        (b'{"v": 1, "id": 1, "command": ["pause"]}\n', "command is"),
        (b'{"v": 1, "id": 1}\n', "command is 'None'"),
    ],
)
def test_malformed_lines_get_a_sentence_and_harm_nobody(trace, engine, line, said):
    with _raw(trace) as connection:
        connection.sendall(line)
        answer = _line(connection)
        assert answer["ok"] is False
        assert said in answer["error"]
        connection.sendall(b'{"v": 1, "id": 9, "command": "pause"}\n')
        assert _line(connection)["id"] == 9
    assert [name for name, _ in engine.seen] == ["pause"]


def test_a_line_without_end_is_cut_off(trace, engine):
    with _raw(trace) as connection, pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
        connection.sendall(b"x" * 100 * LIMIT_BYTES)
    with ControlClient.connect(trace) as client:
        assert client.send("pause")["paused"]


def test_a_message_beyond_the_limit_is_not_sent(trace, engine):
    with ControlClient.connect(trace) as client:
        with pytest.raises(ControlError, match="send it in parts"):
            client.send("text", text="x" * LIMIT_BYTES)
        with pytest.raises(ControlError, match="cannot be sent as JSON"):
            client.send("set", key="tau", value=float("nan"))
        assert client.send("text", text="x" * (LIMIT_BYTES // 2))["paused"] is False


def test_a_client_that_leaves_before_its_answer_harms_nobody(trace, server):
    with _raw(trace) as connection:
        connection.sendall(b'{"v": 1, "id": 1, "command": "pause"}\n')
        (command,) = server.poll(10)
    command.reply(paused=True)
    command.reply(paused=True)
    engine = _Engine(server)
    engine.start()
    with ControlClient.connect(trace) as client:
        assert client.send("pause")["paused"]
    engine.done = True
    engine.join()


def test_a_client_that_never_reads_is_dropped_and_does_not_block(trace, server, engine):
    with _raw(trace) as lazy:
        lazy.sendall(b'{"v": 1, "id": 1, "command": "status"}\n')
        assert _line(lazy)["ok"]
        (kept,) = server._clients
        for _ in range(40):
            server.broadcast(text="x" * 500_000)
        with ControlClient.connect(trace) as client:
            assert client.send("pause")["paused"]
        assert kept.dropped


def test_too_many_commands_are_refused_not_queued_without_end(trace, server):
    with _raw(trace) as connection:
        connection.sendall(b'{"v": 1, "id": 1, "command": "status"}\n' * 300)
        assert "busy" in _line(connection)["error"]
        assert len(server.poll(10)) <= 300


def test_polling_without_commands_returns_at_once(server):
    assert server.poll() == []
    assert server.poll(0.001) == []
