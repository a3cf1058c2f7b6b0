"""Runs training commands in forked children and kills some of them with SIGKILL.

``python killed_run.py JOBS.json``: a list of objects with ``arguments`` (of ``megacontext train``)
and optionally ``kill_at`` (the step before which the child kills itself, in the run of the folder
``kill_in`` if that is given) or ``kill_at_change``
(the number of the change to a file or folder in ``folder`` before which it does). Prints one JSON
list of exit codes; -9 is a killed child. One process imports torch for all of them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

import megacontext.core.training.gistnet.task
import megacontext.core.training.index_keys.task
import megacontext.core.training.joint.task
import megacontext.core.training.lensnet.task
import megacontext.core.training.lora.task  # noqa: F401
from megacontext.core.training.cli import app
from megacontext.core.training.loop.trainer import Trainer


def _kill_at_change(folder: str, number: int) -> None:
    left = number

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        writes = event == "open" and isinstance(arguments[1], str) and arguments[1][0] in "wxa"
        if writes or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            if not str(arguments[0]).startswith(folder):
                return
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def _child(job: dict[str, Any]) -> int:
    if "kill_at_change" in job:
        _kill_at_change(job["folder"], job["kill_at_change"])
    kill_at, kill_in = job.get("kill_at"), job.get("kill_in")
    plain = Trainer._one_step

    def one_step(self: Trainer, batch: Any, factor: float) -> Any:
        if self.step == kill_at and kill_in in (None, self.out.name):
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, batch, factor)

    Trainer._one_step = one_step  # type: ignore[method-assign]
    torch.set_num_threads(1)
    try:
        app(job["arguments"])
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        return 70
    return 0


def _run(job: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(_child(job))
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    codes = [_run(job) for job in json.loads(Path(sys.argv[1]).read_text())]
    print("\n" + json.dumps(codes))
