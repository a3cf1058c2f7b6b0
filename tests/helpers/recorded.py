"""What a trace holds."""

from megacontext.traces.reader import TraceReader

__all__ = ["rows_of"]


def rows_of(path):
    """All rows of the trace at ``path``."""
    with TraceReader.open(path) as reader:
        return list(reader.rows())
