"""The table of deliberate bugs: each is fuzzed with several seeds, as ``sim fuzz`` does it.

``python tests/simulator/canary_table.py runs/canaries.jsonl`` goes on where the file ends: it
holds one line of JSON for every bug and seed. ``--write PAGE`` puts the table into that page.
Times are CPU seconds of this process.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from canaries import CANARIES, Canary

from megacontext.simulator.failures import Failure, attempt, commit_id, shrink_failure
from megacontext.simulator.fuzz import fuzz

LIMIT_S = 120.0
"""CPU seconds within which a bug must be found."""
SHRINK_S = 30.0
SEEDS = (101, 102, 103, 104, 105)
_HANG_S = 30.0
"""CPU seconds beyond the limit after which a world counts as hanging."""


class HangError(Exception):
    """A planted bug made a world endless."""


def _hang(signal_number: int, frame: FrameType | None) -> None:
    raise HangError("a world does not end")


def hunt(canary: Canary, seed: int, limit_s: float) -> tuple[Failure | None, dict[str, Any]]:
    """Fuzz with the bug planted until a world fails that is sound without it.

    Returns:
        The failure, None where the bug survived; and the line for the file.

    Raises:
        AssertionError: a world fails without the bug, too: the product or the simulator is wrong.
    """
    signal.signal(signal.SIGVTALRM, _hang)
    signal.setitimer(signal.ITIMER_VIRTUAL, limit_s + _HANG_S)
    try:
        with pytest.MonkeyPatch.context() as m:
            canary.plant(m)
            report = fuzz(seed, seconds=limit_s, clock=time.process_time)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    failure = report.failures[0] if report.failures else None
    if failure is not None:
        sound = attempt(failure.config, failure.operations)
        assert sound is None, f"{canary.name}, seed {seed}: fails without the bug: {sound}"
    line = {
        "canary": canary.name,
        "seed": seed,
        "found": failure is not None,
        "seconds": round(report.seconds, 2),
        "worlds": report.worlds,
        "steps": report.steps,
        "kind": failure.kind if failure else None,
        "message": failure.message.splitlines()[0][:200] if failure else None,
        "operations": len(failure.operations) if failure else None,
        "commit": commit_id(),
        "machine": _machine(),
    }
    return failure, line


def shrunk(canary: Canary, failure: Failure, cpu_seconds: float = SHRINK_S) -> Failure:
    """The shortest list that the bug breaks in the same way."""
    with pytest.MonkeyPatch.context() as m:
        canary.plant(m)
        return shrink_failure(failure, cpu_seconds=cpu_seconds)


def read(path: Path) -> list[dict[str, Any]]:
    """The lines so far; of a bug and seed that was hunted again, the last one counts."""
    if not path.exists():
        return []
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    return list({(line["canary"], line["seed"]): line for line in lines}.values())


def _wanted(arguments: argparse.Namespace) -> Iterator[tuple[Canary, int]]:
    """Bugs and seeds that are still to be hunted, one seed of all bugs after the other."""
    done = {} if arguments.again else {(d["canary"], d["seed"]) for d in read(arguments.file)}
    for seed in arguments.seeds:
        for canary in CANARIES:
            named = not arguments.only or any(part in canary.name for part in arguments.only)
            if named and canary.test is None and (canary.name, seed) not in done:
                yield canary, seed


def collect(arguments: argparse.Namespace) -> None:
    """Hunt and write one line after the other."""
    arguments.file.parent.mkdir(parents=True, exist_ok=True)
    for canary, seed in _wanted(arguments):
        failure, line = hunt(canary, seed, arguments.limit)

        # Shrinking costs more than most hunts: once for each bug.
        if failure is not None and seed == arguments.seeds[0]:
            line["shrunk"] = len(shrunk(canary, failure).operations)

        with arguments.file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        found = f"{line['kind']} after {line['seconds']} s" if failure else "SURVIVED"
        print(f"{canary.name}, seed {seed}: {found}", flush=True)


def table(lines: list[dict[str, Any]]) -> str:
    """The documentation's table, one row a bug."""
    rows, seconds, hunts, found = [], [], 0, 0
    for canary in CANARIES:
        if canary.test is not None:
            rows.append(f"| {canary.name} | test `{canary.test}` | | | |")
            continue
        own = [line for line in lines if line["canary"] == canary.name]
        if not own:
            rows.append(f"| {canary.name} | not hunted yet | | | |")
            continue
        caught = [line for line in own if line["found"]]
        hunts, found = hunts + len(own), found + len(caught)
        times = [line["seconds"] if line["found"] else float("inf") for line in own]
        seconds += times
        kinds = ", ".join(dict.fromkeys(line["kind"] for line in caught)) or "**survived**"
        short = next((str(line["shrunk"]) for line in own if "shrunk" in line), "")
        middle = f"{statistics.median(times):.1f}" if times else ""
        worst = max(times, default=0.0)
        slowest = f"{worst:.1f}" if worst < float("inf") else "not found"
        rows.append(f"| {canary.name} | {kinds} | {middle} | {slowest} | {short} |")
    fraction = found / hunts if hunts else 0.0
    fuzzed = sum(canary.test is None for canary in CANARIES)
    head = (
        f"{len(CANARIES)} bugs; {fuzzed} are fuzzed, the others are a second line of defence that\n"
        f"the named test guards. {found} of {hunts} hunts ({fraction:.1%}) found their bug within "
        f"{LIMIT_S:.0f} CPU\nseconds; median {statistics.median(seconds):.1f} s. "
        f"{_where(lines)}, {date.today().isoformat()}.\n\n"
        "| bug | found by | median CPU s | slowest CPU s | shrunk to |\n|---|---|---:|---:|---:|\n"
    )
    return head + "\n".join(rows) + "\n"


def _machine() -> str:
    model = platform.machine()
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            model = text.split(":", 1)[1].strip()
            break
    return f"One core of {model}, Python {platform.python_version()}"


def _where(lines: list[dict[str, Any]]) -> str:
    """The machines and commits of the hunts, the one with most of them first."""
    machines = Counter(line.get("machine", _machine()) for line in lines)
    commits = Counter(line["commit"] for line in lines if line["commit"])
    named = "; ".join(f"{name} ({count} hunts)" for name, count in machines.most_common())
    return f"{named}; commits {', '.join(name for name, _ in commits.most_common())}"


_BEGIN, _END = "<!-- canaries: begin -->\n", "<!-- canaries: end -->\n"


def write(path: Path, text: str) -> None:
    """Put ``text`` between the two marks of the page at ``path``."""
    before, rest = path.read_text().split(_BEGIN)
    after = rest.split(_END)[1]
    path.write_text(f"{before}{_BEGIN}{text}{_END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="Lines of JSON, one a bug and seed.")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--only", nargs="+", default=(), help="Parts of names.")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="CPU seconds a hunt.")
    parser.add_argument("--again", action="store_true", help="Also what the file holds already.")
    parser.add_argument("--write", type=Path, help="Only put the table into this page.")
    arguments = parser.parse_args()
    if arguments.write:
        write(arguments.write, table(read(arguments.file)))
    else:
        collect(arguments)


if __name__ == "__main__":
    main()
