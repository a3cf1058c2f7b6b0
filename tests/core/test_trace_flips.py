"""Every reader of a trace, over traces with one bit turned over: a sentence, no traceback."""

import pytest

from megacontext.core.rng import generator
from megacontext.core.verify import verify
from megacontext.simulator.config import WorldConfig
from megacontext.simulator.world import World
from megacontext.traces.compact import compact
from megacontext.traces.errors import MegaContextError
from megacontext.traces.export import FORMATS, export
from megacontext.traces.messages import data_end, read_schema
from megacontext.traces.metrics import metrics_of
from megacontext.traces.reader import TraceReader
from megacontext.traces.recover import recover
from megacontext.traces.state import states, violations_of


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """A short simulated run: several levels, markers, rejections."""
    path = tmp_path_factory.mktemp("flips") / "run.arrow"
    world = World(WorldConfig(block_size=2, w_max=40, features={"resume": 0}), out=path)
    for _ in range(24):
        world.do(["append", 2])
        world.do(["refocus"])
    world.finish()
    return path


@pytest.fixture(scope="module")
def regions(trace):
    """Byte ranges by name: the schema with the file's head, the batches, the footer."""
    with TraceReader.open(trace) as reader:
        _, schema_end = read_schema(reader._open_handle, "run")
        footer, _ = data_end(reader._open_handle)
        size = reader._open_handle.size()
    return {"schema": (0, schema_end), "rows": (schema_end, footer), "footer": (footer, size)}


def search(path, _):
    with TraceReader.open(path) as reader:
        reader.find("a")
        reader.find("1", 9, backward=True)
        reader.text_of(0, 40)
        reader.nll_of(0, 40)
        reader.refresh()


def show(path, _):
    """What the inspector asks of a trace."""
    with TraceReader.open(path) as reader:
        reader.overview()
        before = None
        for i in range(reader.num_rows):
            row = reader.row(i)
            list(states(row, reader.meta.block_size))
            violations_of(row, reader.meta.block_size, before)
            before = row


def measure(path, _):
    with TraceReader.open(path) as reader:
        metrics_of(reader)


def convert(path, out):
    for kind in FORMATS:
        with TraceReader.open(path) as reader:
            export(reader, out.with_suffix(f".{kind}"))


READERS = {
    "search": search,
    "show": show,
    "verify": lambda path, _: verify(path),
    "metrics": measure,
    "export": convert,
    "recover": recover,
    "compact": compact,
}


def read_flipped(trace, bits, tmp_path):
    """Run every reader over each flipped copy; returns how many flips some reader refused."""
    whole, path, refused = trace.read_bytes(), tmp_path / "flip.arrow", 0
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            TraceReader.open(path).close()
        except MegaContextError as error:
            assert "\n" not in str(error)  # noqa: PT017
            refused += 1
            continue
        for name, read in READERS.items():
            try:
                read(path, tmp_path / "out.arrow")
            except MegaContextError as error:
                assert "\n" not in str(error), name  # noqa: PT017
            except Exception as error:
                raise AssertionError(f"{name} of bit {bit}: {error!r}") from error
    return refused


def test_a_flipped_bit_of_the_schema_is_a_sentence(trace, regions, tmp_path):
    start, stop = regions["schema"]
    bits = range(8 * start, 8 * stop, 331)
    assert read_flipped(trace, bits, tmp_path) > len(bits) // 3


def test_a_flipped_bit_of_the_footer_costs_nothing(trace, regions, tmp_path):
    start, stop = regions["footer"]
    assert read_flipped(trace, range(8 * start, 8 * stop, 4001), tmp_path) == 0


def test_a_flipped_bit_of_a_row_is_a_sentence(trace, regions, tmp_path):
    bits = generator(0, "flips").integers(*(8 * at for at in regions["rows"]), 20).tolist()
    read_flipped(trace, bits, tmp_path)


@pytest.mark.slow
def test_every_bit_of_schema_and_footer_and_many_of_the_rows(trace, regions, tmp_path):
    for name in ("schema", "footer"):
        read_flipped(trace, range(*(8 * at for at in regions[name])), tmp_path)
    bits = generator(1, "flips").integers(*(8 * at for at in regions["rows"]), 20_000).tolist()
    read_flipped(trace, bits, tmp_path)
