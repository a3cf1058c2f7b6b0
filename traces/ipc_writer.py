"""An Arrow IPC file that grows by whole batches, each one a single write.

The schema is on disk before the file gets its name, so nobody ever sees a trace without one, and
an older trace of that name stays until then.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pyarrow as pa

from megacontext.traces.files import OS_FILES, FileHandle, FileLayer

__all__ = ["DATA_START", "MAGIC", "BatchFile"]

MAGIC = b"ARROW1"
DATA_START = 8  # the magic, padded: where the stream inside the file begins


class _Sink:
    """What Arrow writes into; it hands out the bytes of one batch at a time."""

    closed = False

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._position = 0

    def write(self, data: pa.Buffer) -> int:
        view = memoryview(data)
        self._bytes += view
        self._position += view.nbytes
        return view.nbytes

    def take(self) -> bytearray:
        taken, self._bytes = self._bytes, bytearray()
        return taken

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """Arrow calls this; there is nothing below to flush."""

    def close(self) -> None:
        self.closed = True


class BatchFile:
    """Writes a trace. Errors are :class:`OSError`; whole batches before one stay readable.

    The file is written under a temporary name beside ``path`` until :meth:`publish`. After an
    error only :meth:`abandon` may be called.
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        files: FileLayer = OS_FILES,
        zstd_level: int | None = None,
    ) -> None:
        self.path = path
        self.schema = schema
        self._files = files
        self._temporary: Path | None = path.with_name(f".{path.name}.new")
        self._sink = _Sink()
        codec = pa.Codec("zstd", compression_level=zstd_level)
        options = pa.ipc.IpcWriteOptions(compression=codec, use_threads=False)
        self._arrow = pa.ipc.new_file(self._sink, schema, options=options)
        self._handle: FileHandle = files.open(self._temporary, write=True, create=True)
        try:
            self._handle.truncate(0)
            # Arrow writes the same bytes again with the first batch; until then the file already
            # has its schema.
            header = MAGIC + b"\0\0" + schema.serialize().to_pybytes()
            self._handle.pwrite(0, header)
        except OSError:
            self.abandon()
            raise
        self._size = 0

    @property
    def published(self) -> bool:
        """Whether the file has its name."""
        return self._temporary is None

    def publish(self) -> None:
        """Give the file its name, replacing what had it; idempotent."""
        if self._temporary is not None:
            self._files.rename(self._temporary, self.path)
            self._temporary = None
            self._files.sync_folder(self.path.parent)

    def append(self, batch: pa.RecordBatch) -> None:
        """Write one batch with one call; on an error cut the file back to whole batches."""
        self._arrow.write_batch(batch)
        self._write(self._sink.take())

    def finish(self) -> None:
        """Write the footer, reach the disk, publish and close."""
        self._arrow.close()
        self._write(self._sink.take())
        self._handle.datasync()
        self.publish()
        self._handle.close()

    def abandon(self) -> None:
        """Close without a footer; a file that was not published yet disappears."""
        self._handle.close()
        if self._temporary is not None:
            with contextlib.suppress(OSError):  # a leftover is overwritten by the next run
                self._files.unlink(self._temporary)
            self._temporary = None

    def _write(self, data: bytearray) -> None:
        try:
            self._handle.pwrite(self._size, memoryview(data))
        except OSError:
            # Readers cope with a torn tail; cutting it only makes the file tidy.
            with contextlib.suppress(OSError):
                if self._size:
                    self._handle.truncate(self._size)
            raise
        self._size += len(data)
