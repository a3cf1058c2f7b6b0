"""Traces read and written by Arrow itself, without this project."""

import pyarrow as pa


def read_plain(path):
    """All rows of an Arrow file."""
    with pa.OSFile(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def write_plain(path, table, metadata=None):
    """A file with other metadata if given, in batches of eight rows."""
    if metadata is not None:
        table = table.replace_schema_metadata(metadata)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=8)
