"""Every command over traces in which one bit turned over: a sentence or figures, no traceback.

``python tests/helpers/trace_flips.py --rows 20000`` flips every bit of the schema and the footer of
a small trace and so many drawn bits of its rows; ``--part 1/4`` does a quarter of them. It prints
one JSON object of figures; a traceback is printed whole, with the bit, and counted.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path

import numpy as np

from megacontext.core.cli.app import app, guard
from megacontext.core.rng import generator
from megacontext.core.verify import verify
from megacontext.simulator.config import WorldConfig
from megacontext.simulator.world import World
from megacontext.traces.compact import compact
from megacontext.traces.errors import MegaContextError
from megacontext.traces.export import FORMATS, export
from megacontext.traces.ipc_index import data_end, read_schema
from megacontext.traces.metrics import metrics_of
from megacontext.traces.reader import TraceReader
from megacontext.traces.recover import recover
from megacontext.traces.state import states, violations_of
from megacontext.tui.render.difference import compare
from megacontext.tui.sources.file_source import FileSource
from megacontext.tui.state.run_comparison import (
    config_differences,
    next_difference,
    same_moment,
    texts_part_at,
)
from megacontext.tui.state.view import Node

__all__ = ["COMMANDS", "READERS", "flip_bits", "make_trace", "regions_of"]


def make_trace(path: Path, blocks: int = 8) -> None:
    """A short simulated run: several levels, markers, rejections."""
    world = World(WorldConfig(block_size=2, w_max=40, features={"resume": 0}), out=path)
    for _ in range(blocks):
        world.do(["append", 2])
        world.do(["refocus"])
    world.finish()


def regions_of(path: Path) -> dict[str, tuple[int, int]]:
    """Byte ranges by name: the schema with the file's head, the batches, the footer."""
    with TraceReader.open(path) as reader:
        _, schema_end = read_schema(reader._open_handle, "run")
        footer, _ = data_end(reader._open_handle)
        size = reader._open_handle.size()
    return {"schema": (0, schema_end), "rows": (schema_end, footer), "footer": (footer, size)}


# -- who reads a trace -------------------------------------------------------------------------


def _command(*arguments: str) -> Callable[[Path, Path, Path], str]:
    """A command of the command line; a sentence is its exit code 2 or what it says is damaged."""

    def run(path: Path, whole: Path, out: Path) -> str:
        names = {"TRACE": str(path), "WHOLE": str(whole), "OUT": str(out)}
        written = [names.get(a) or a.replace("OUT", str(out)) for a in arguments]
        said, errors = io.StringIO(), io.StringIO()
        with redirect_stdout(said), redirect_stderr(errors):
            code = guard(app, written)
        refused = code == 2 or (code == 1 and errors.getvalue().startswith("error:"))
        if refused:
            assert errors.getvalue().count("\n") == 1, errors.getvalue()
        return "sentence" if refused else "damage named" if code else "figures"

    return run


def _measure(path: Path, whole: Path, out: Path) -> str:
    with TraceReader.open(path) as reader:
        metrics_of(reader)
    return "figures"


def _convert(path: Path, whole: Path, out: Path) -> str:
    said = []
    for kind in FORMATS:
        try:
            with TraceReader.open(path) as reader:
                export(reader, out.with_suffix(f".{kind}"))
        except MegaContextError as error:
            said.append(error)
    if said:
        raise said[0]
    return "figures"


def _search(path: Path, whole: Path, out: Path) -> str:
    with TraceReader.open(path) as reader:
        reader.find("a")
        reader.find("1", 9, backward=True)
        reader.text_of(0, 40)
        reader.nll_of(0, 40)
        reader.refresh()
    return "figures"


def _overview(path: Path, whole: Path, out: Path) -> str:
    with TraceReader.open(path) as reader:
        reader.overview()
        before = None
        for number in range(reader.num_rows):
            row = reader.row(number)
            list(states(row, reader.meta.block_size))
            violations_of(row, reader.meta.block_size, before)
            before = row
    return "figures"


def _inspector(path: Path, whole: Path, out: Path) -> str:
    """Everything that the app asks of a file: it shows a damaged row as one, and goes on."""
    source = FileSource(path)
    for number in range(source.num_rows):
        row = source.row(number)
        node = Node(int(row.after.levels[0]), 0) if len(row.after.levels) else Node(0, 0)
        source.look(number, node)
        source.recorded_pairs(number, node)
    source.acted(Node(1, 0))
    while not source.read_vitals(lambda: False):
        pass
    source.vitals()
    source.token_index(lambda: False)
    source.pieces(0, source.num_tokens)
    source.find("a", 0)
    source.rfind("a", source.num_tokens)
    source.find_all("a", 100)
    source.refresh()
    source.close()
    return "figures"


@cache
def _source(path: Path) -> FileSource:
    return FileSource(path)


def _diff(path: Path, whole: Path, out: Path) -> str:
    """The two traces of ``mc-tui diff``."""
    first, second = _source(whole), FileSource(path)
    texts_part_at(first, second)
    config_differences(first.info, second.info)
    steps = first.scalars.step, second.scalars.step
    for number in range(0, first.num_rows, 3):
        other = same_moment(steps[0], number, steps[1])
        if second.num_rows:
            compare(first.row(number), second.row(max(0, min(other, second.num_rows - 1))))
    if second.num_rows:
        next_difference(first, second, 0, 1, lambda: False)
    second.close()
    return "figures"


READERS: dict[str, Callable[[Path, Path, Path], str]] = {
    "verify": lambda path, whole, out: "figures" if verify(path).ok else "damage named",
    "metrics": _measure,
    "export": _convert,
    "recover": lambda path, whole, out: recover(path, out) and "figures",
    "compact": lambda path, whole, out: compact(path, out) and "figures",
    "search": _search,
    "overview": _overview,
    "inspector": _inspector,
    "diff": _diff,
}
"""What reads a trace: (trace, an undamaged one, where to write) -> what came of it."""

COMMANDS: dict[str, Callable[[Path, Path, Path], str]] = {
    "trace info": _command("trace", "info", "TRACE"),
    "trace verify": _command("trace", "verify", "WHOLE", "--against", "TRACE"),
    "trace metrics": _command("trace", "metrics", "TRACE", "--json"),
    "trace recover": _command("trace", "recover", "TRACE", "--out", "OUT", "--overwrite"),
    "trace compact": _command("trace", "compact", "TRACE", "--out", "OUT", "--overwrite"),
    "trace export": _command("trace", "export", "TRACE", "--out", "OUT.html"),
}
"""The same by the command line, which costs more than the work itself: run for some flips only."""


def flip_bits(
    trace: Path,
    bits: Iterable[int],
    folder: Path,
    commands_every: int = 10,
    report: Callable[[str], None] = print,
) -> dict[str, Counter[str]]:
    """Run every reader over each flipped copy of ``trace``.

    A copy that cannot be opened gets the same sentence from all of them. One outside the rows whose
    schema, metadata and batches are read as they were is the same trace to all of them.

    Args:
        commands_every: the command line reads every so many-th flip, whatever it is.

    Returns:
        By reader: how often it gave figures, named damage, gave a sentence, or a traceback;
        "open" counts what opening gave.
    """
    whole, path, out = trace.read_bytes(), folder / "flip.arrow", folder / "out.arrow"
    rows, sound = regions_of(trace)["rows"], _content(trace)
    result: dict[str, Counter[str]] = {name: Counter() for name in ("open", *READERS, *COMMANDS)}

    for number, bit in enumerate(bits):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        readers: dict[str, Callable[[Path, Path, Path], str]] = {}
        try:
            same = _content(path) == sound
        except MegaContextError as error:
            result["open"]["sentence" if "\n" not in str(error) else "lines"] += 1
        else:
            harmless = same and not rows[0] <= bit // 8 < rows[1]
            result["open"]["harmless" if harmless else "opened"] += 1
            readers |= {} if harmless else READERS
        if number % commands_every == 0:
            readers |= COMMANDS

        for name, read in readers.items():
            try:
                result[name][read(path, trace, out)] += 1
            except MegaContextError as error:
                result[name]["sentence" if "\n" not in str(error) else "lines"] += 1
            except Exception:
                result[name]["traceback"] += 1
                report(f"{name} of bit {bit}:\n{traceback.format_exc()}")
    return result


def _content(path: Path) -> tuple[object, ...]:
    """What a reader knows of a trace when it has opened it."""
    with TraceReader.open(path) as reader:
        schema = reader.schema.serialize().to_pybytes()
        return schema, reader.num_rows, reader.num_batches, reader.gaps, reader.finished


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000, help="Drawn bits of the rows.")
    parser.add_argument("--every", type=int, default=1, help="Of schema and footer, each n-th bit.")
    parser.add_argument("--commands", type=int, default=50, help="The command line, each n-th.")
    parser.add_argument("--part", default="1/1", help="Which part of how many.")
    arguments = parser.parse_args()
    part, parts = map(int, arguments.part.split("/"))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trace = folder / "run.arrow"
        make_trace(trace)
        regions = {region: np.array(ends) * 8 for region, ends in regions_of(trace).items()}
        drawn = generator(1, "flips").integers(*regions["rows"], arguments.rows)
        bits = {
            "schema": range(*regions["schema"], arguments.every),
            "footer": range(*regions["footer"], arguments.every),
            "rows": drawn.tolist(),
        }
        figures: dict[str, object] = {}
        for region, all_bits in bits.items():
            own = all_bits[part - 1 :: parts]
            result = flip_bits(trace, own, folder, arguments.commands)
            figures[region] = {"bits": len(own)} | {n: dict(c) for n, c in result.items() if c}
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
