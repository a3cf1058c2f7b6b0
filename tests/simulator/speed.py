"""Checked steps per CPU second, beside those of an earlier commit in the same run.

python tests/simulator/speed.py REV                  # a commit, or a folder with its files
python tests/simulator/speed.py REV --rounds 4       # more alternations, steadier ratios

Both versions take turns with equal seeds, so that what else the machine does meets both. ``fuzz``
is all of ``sim fuzz``, broken lives included; ``worlds`` the worlds' own time in it; ``memory`` the
same of the worlds that lie in memory; ``lives`` counts broken lives, in their own time.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "project"))

from same_as import Version, export  # noqa: E402

MEASURE = """
import json, sys, time
from megacontext.simulator.fuzz import fuzz

seed, worlds = map(int, sys.argv[1:])
fuzz(seed + 1000, worlds=4, clock=time.process_time)  # what is imported and made once
all_ = fuzz(seed, worlds=worlds, clock=time.process_time)
ram = fuzz(seed, worlds=worlds, clock=time.process_time, only=lambda c: c.storage == "ram")
assert not all_.failures and not ram.failures
print(json.dumps({
    "fuzz": [all_.steps, all_.seconds],
    "worlds": [all_.steps, all_.world_seconds],
    "memory": [ram.steps, ram.world_seconds],
    "lives": [all_.crashes + ram.crashes,
              all_.seconds - all_.world_seconds + ram.seconds - ram.world_seconds],
}))
"""
"""Prints counts and CPU seconds of one version."""

PARTS = ("fuzz", "worlds", "memory", "lives")


def measure(version: Version, seed: int, worlds: int) -> dict[str, tuple[int, float]]:
    """Count and CPU seconds by part."""
    figures: dict[str, tuple[int, float]] = json.loads(
        version.python("-c", MEASURE, str(seed), str(worlds))
    )
    return figures


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("revision", help="the earlier commit, or a folder with its files")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each version")
    parser.add_argument("--worlds", type=int, default=40, help="worlds a turn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "speed")
    options = parser.parse_args()

    out = options.out.absolute()
    versions = [Version("old", export(options.revision, out / options.revision), out)]
    versions.append(Version("new", ROOT, out))
    totals = [{part: Counter[int]() for part in PARTS} for _ in versions]

    # Take turns: a machine that slows down slows both.
    for number in range(options.rounds):
        for version, total in zip(versions, totals, strict=True):
            figures = measure(version, options.seed + number, options.worlds)
            for part, (count, seconds) in figures.items():
                total[part].update({0: count, 1: seconds})  # type: ignore[dict-item]

    print(f"{options.rounds} x {options.worlds} worlds, {platform.machine()}, per CPU second:")
    for part in PARTS:
        old, new = (total[part][0] / total[part][1] for total in totals)
        print(f"  {part:8} {old:8,.0f} -> {new:8,.0f}   {new / old:.2f} times")


if __name__ == "__main__":
    main()
