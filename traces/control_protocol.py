"""Lines on the control socket: one JSON object each, with a version, limited in size.

Client to engine: ``{"v": 1, "id": 3, "command": "set", "key": "w_max", "value": 512}``.
Engine to client: ``{"v": 1, "id": 3, "ok": true, …}`` or an event:
``{"v": 1, "event": "status", …}``, and of a reply as it is decoded ``asked`` (text), ``token``
(text, nll) and ``answered`` (text).
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from megacontext.traces.errors import MegaContextError
from megacontext.traces.paths import real_path

__all__ = [
    "COMMANDS",
    "LIMIT_BYTES",
    "WIRE_VERSION",
    "ControlError",
    "decode",
    "encode",
    "real_socket",
    "socket_path",
]

WIRE_VERSION = 1
LIMIT_BYTES = 1 << 20  # of one line
COMMANDS = frozenset({"pause", "resume", "step", "set", "text", "ask", "marker", "stop", "status"})
_SOCKET_PATH_BYTES = 100  # sun_path has 108 bytes on Linux, 104 elsewhere


class ControlError(MegaContextError):
    """The engine is gone, does not answer or turned a command down."""

    exit_code = 1


def socket_path(trace: Path) -> Path:
    """The name under which the engine that writes ``trace`` listens.

    A socket, or, where its path is too long for one, a file that holds the socket's real path.
    """
    trace = real_path(trace)
    return trace.with_name(trace.name + ".sock")


def fits(path: Path) -> bool:
    """Whether a Unix socket can be bound at ``path``."""
    return len(os.fsencode(path)) <= _SOCKET_PATH_BYTES


def real_socket(trace: Path) -> Path:
    """The socket behind :func:`socket_path`.

    Raises:
        ControlError: nothing listens, or the socket belongs to someone else.
    """
    path = socket_path(trace)
    try:
        if stat.S_ISREG(path.stat().st_mode):
            path = Path(path.read_text()[:4096])
        status = path.stat()
    except (OSError, ValueError):
        raise ControlError(
            f"no engine listens for {trace}; it has ended or runs without a control channel."
        ) from None
    if status.st_uid != os.getuid():
        raise ControlError(f"the control socket {path} belongs to another user; it is not used.")
    return path


def encode(message: dict[str, Any]) -> bytes:
    """One line for ``message``.

    Raises:
        ControlError: the line would be longer than LIMIT_BYTES, or a value is no JSON.
    """
    try:
        line = json.dumps({"v": WIRE_VERSION} | message, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise ControlError(f"the command cannot be sent as JSON: {error}.") from error
    if len(line) > LIMIT_BYTES:
        raise ControlError(
            f"the command has {len(line):,} bytes, more than the {LIMIT_BYTES:,} of one message;"
            " send it in parts."
        )
    return line


def decode(line: bytes) -> dict[str, Any]:
    """The object in ``line``.

    Raises:
        ControlError: no JSON object, or another version.
    """
    try:
        message = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ControlError("the message is no JSON object on one line.") from error
    if not isinstance(message, dict):
        raise ControlError("the message is no JSON object on one line.")
    if message.get("v") != WIRE_VERSION:
        raise ControlError(
            f"the message has version {message.get('v')!r}, this side speaks {WIRE_VERSION};"
            " use the same megacontext on both sides."
        )
    return message


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
