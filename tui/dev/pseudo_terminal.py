"""A program on a pseudo-terminal, driven and read from outside: for measurements."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from megacontext.traces.errors import MegaContextError

__all__ = ["PseudoTerminal"]


@dataclass
class PseudoTerminal:
    """A process whose terminal is the other end of ``master``."""

    process: subprocess.Popen[bytes]
    master: int

    @classmethod
    def start(
        cls, command: list[str], size: tuple[int, int], env: dict[str, str] | None = None
    ) -> PseudoTerminal:
        """Run ``command`` on a terminal of ``size`` (columns, lines) with all colours.

        ``env`` is added to this process's environment.
        """
        width, height = size
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env=os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor"} | (env or {}),
        )
        os.close(slave)
        return cls(process, master)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def read_through(self, expected: bytes, timeout_s: float) -> bytes:
        """All that was painted from now on until ``wanted`` was.

        Raises:
            MegaContextError: it was not.
        """
        deadline, seen = time.monotonic() + timeout_s, bytearray()
        while expected not in seen:
            left = deadline - time.monotonic()
            if not select.select([self.master], [], [], max(left, 0))[0]:
                raise MegaContextError(f"the inspector did not paint {expected!r}; run it by hand.")
            seen += os.read(self.master, 1 << 16)
        return bytes(seen)

    def read_until(self, expected: bytes, timeout_s: float) -> float:
        """Seconds until ``wanted`` was painted; raises like :meth:`read_through`."""
        start = time.perf_counter()
        self.read_through(expected, timeout_s)
        return time.perf_counter() - start

    def drain(self) -> int:
        """Read what was painted and not looked at; its bytes."""
        count = 0
        while select.select([self.master], [], [], 0)[0]:
            count += len(os.read(self.master, 1 << 16))
        return count

    def swallow(self) -> threading.Thread:
        """Read, as a terminal does, in a thread of its own until the process is gone."""
        thread = threading.Thread(target=self._swallow, daemon=True)
        thread.start()
        return thread

    def _swallow(self) -> None:
        with contextlib.suppress(OSError):  # the terminal's other end is closed
            while os.read(self.master, 1 << 16):
                pass

    def resident_mb(self) -> float:
        """The process's peak resident memory, mapped files included."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        return float("nan")

    def stop(self) -> None:
        """End the process and wait for it."""
        self.process.terminate()
        reading = self.swallow()
        self.process.wait(60)
        reading.join()
        os.close(self.master)
