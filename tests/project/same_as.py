"""Whether this tree acts bit for bit as an earlier commit: run it before and after a rebuild.

python tests/project/same_as.py REV                     # runs, worlds and canaries
python tests/project/same_as.py REV --only runs,suite   # some of the steps; the suite takes long

REV is a commit, or a folder with the files of one (where there is no git).

Steps: ``runs`` records the demo, a tree on disk and a conversation with both versions and compares
the traces; ``worlds`` compares the hashes of simulated worlds, saved and drawn; ``suite`` compares
the tables of ``eval suite --quick``; ``canaries`` plants every deliberate bug in this tree. What a
step makes stays in ``--out``, so that a difference can be looked at. The exit code is the number
of steps that differ.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("core", "simulator", "traces", "tui", "configs")

CONVERSATION = "The code of the gate is 4471.\nWhat is the code of the gate?\nWrite a loop.\n"
RUNS: dict[str, tuple[str, ...]] = {
    "demo": ("--config", "configs/demo.yaml"),
    "disk": ("--config", "configs/disk.yaml", "--set", "source.max_tokens=16384"),
    "prompt": ("--config", "configs/prompt.yaml"),
}

HASHES = """
import json, logging, sys
from pathlib import Path
from megacontext.simulator.failures import load_failure
from megacontext.simulator.world import World

logging.disable(logging.WARNING)
for path in sorted(Path(sys.argv[1]).glob("*.json")):
    saved = load_failure(path)
    world = World(saved.config)
    for operation in saved.operations:
        world.do(operation)
    print(path.stem, world.finish())
"""
"""Prints the hash of every saved world of a folder; runs in either version."""

DRAW = """
import sys
from pathlib import Path
from megacontext.simulator.config import draw_config
from megacontext.simulator.drive import draw_operations
from megacontext.simulator.failures import Failure

for seed in range(int(sys.argv[2])):
    config = draw_config(seed)
    Failure(config, list(draw_operations(config, 60)), "drawn", "").save(Path(sys.argv[1]))
"""
"""Saves drawn worlds to a folder; runs in the earlier version, which both can repeat."""

DRAWN_WORLDS = 60


class Version:
    """One version of the code: its packages in a folder, and a folder for what it writes."""

    def __init__(self, name: str, source: Path, out: Path) -> None:
        self.source, self.out, self._links = source, out / name, out / f"{name}-packages"
        self.out.mkdir(parents=True, exist_ok=True)
        package = self._links / "megacontext"
        package.mkdir(parents=True, exist_ok=True)
        for name in PACKAGES:
            if not (package / name).exists():
                (package / name).symlink_to(source / name)

    def python(self, *arguments: str | Path, stdin: str = "", ok: Sequence[int] = (0,)) -> str:
        """The output of this version's Python; ends the program where it fails."""
        environment = {**os.environ, "PYTHONPATH": str(self._links), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=self.source,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
        )
        if done.returncode not in ok:
            command = " ".join(map(str, arguments))[:200]
            sys.exit(f"{self.out.name}: {command} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout

    def command(self, *arguments: str | Path, **options: object) -> str:
        """The output of ``megacontext`` in this version."""
        return self.python("-m", "megacontext.core.cli", *arguments, **options)  # type: ignore[arg-type]


def export(revision: str, folder: Path) -> Path:
    """The files of a commit in ``folder``; a revision that is a folder holds them already."""
    if Path(revision).is_dir():
        return Path(revision).absolute()
    if not folder.exists():
        archive = subprocess.run(
            ["git", "-C", str(ROOT), "archive", revision], check=True, capture_output=True
        )
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(folder, filter="data")
    return folder


def compare_runs(old: Version, new: Version) -> list[str]:
    """Each recorded run by both versions; sentences on those that differ."""
    differences = []
    for name, arguments in RUNS.items():
        for version in (old, new):
            trace = version.out / f"{name}.arrow"
            tree = ("--tree", version.out / "tree") if name == "disk" else ()
            if not trace.exists():
                version.command(
                    "run", *arguments, "--set", "threads=1", *tree, "--out", trace,
                    stdin=CONVERSATION,
                )  # fmt: skip

        verdict = new.command(
            "trace", "verify", new.out / f"{name}.arrow", "--against", old.out / f"{name}.arrow",
            "--json", ok=(0, 1),
        )  # fmt: skip
        result = json.loads(verdict)
        print(f"  {name}: {result['rows']} rows, {'the same' if result['ok'] else verdict}")
        if not result["ok"]:
            differences.append(f"run {name}")
    return differences


def compare_worlds(old: Version, new: Version) -> list[str]:
    """Saved failures and drawn worlds, by their hashes."""
    drawn = old.out / "worlds"
    old.python("-c", DRAW, drawn, str(DRAWN_WORLDS))
    differences = []
    for folder in (old.source / "tests" / "regressions", drawn):
        before = old.python("-c", HASHES, folder).splitlines()
        after = new.python("-c", HASHES, folder).splitlines()
        differ = [line for line in before if line not in after]
        print(f"  {folder.name}: {len(before)} worlds, {len(differ)} with another hash")
        differences += [f"world {line}" for line in differ]
    return differences


def compare_suite(old: Version, new: Version) -> list[str]:
    """The tables of the quick suite, without the measured times."""
    import pyarrow.parquet as parquet

    tables = []
    for version in (old, new):
        folder = version.out / "suite"
        table = folder / "suite.parquet"
        if not table.exists():
            version.command(
                "eval", "suite", "--config", "configs/eval/bundle.yaml", "--quick",
                "--only", "recall,nll,answers,single,session", "--jobs", "1", "--resume",
                "--out", folder,
            )  # fmt: skip
        tables.append(parquet.read_table(table))
    before, after = tables
    print(f"  {before.num_rows} rows, {'equal' if before.equals(after) else 'not equal'}")
    return [] if before.equals(after) else ["suite"]


def find_canaries(old: Version, new: Version) -> list[str]:
    """Every deliberate bug, planted in this tree."""
    output = new.python(
        "-m", "pytest", "-q", "-n", "0", "--slow", "tests/simulator/test_canaries.py", ok=(0, 1)
    )
    print("  " + output.strip().splitlines()[-1])
    return [line for line in output.splitlines() if line.startswith("FAILED")]


STEPS = {
    "runs": compare_runs,
    "worlds": compare_worlds,
    "suite": compare_suite,
    "canaries": find_canaries,
}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("revision", help="the earlier commit, or a folder with its files")
    parser.add_argument("--only", default="runs,worlds,canaries", help="steps, joined by commas")
    parser.add_argument("--new", help="a commit to compare with it; default: the working tree")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "same_as")
    options = parser.parse_args()

    out = options.out.absolute()
    old = Version("old", export(options.revision, out / "old-source"), out)
    source = export(options.new, out / "new-source") if options.new else ROOT
    new = Version("new", source, out)
    differing = 0
    for name in options.only.split(","):
        print(name, flush=True)
        differences = STEPS[name](old, new)
        print("\n".join(f"  differs: {line}" for line in differences[:20]), flush=True)
        differing += bool(differences)
    sys.exit(differing)


if __name__ == "__main__":
    main()
