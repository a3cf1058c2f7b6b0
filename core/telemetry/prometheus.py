"""Prometheus text: a file for the node exporter's textfile collector, and an endpoint to scrape."""

from __future__ import annotations

import http.server
import math
import threading
from pathlib import Path
from typing import Any

from megacontext.core.telemetry.sinks import About, MetricSink, Row
from megacontext.traces.errors import ConfigError

__all__ = ["PrometheusSink"]


class PrometheusSink(MetricSink):
    """The newest value of every metric, as ``megacontext_<scope>_<name>{run="…"}`` gauges.

    ``metrics.prom`` in ``folder`` is replaced whole once a batch. With a port, the same text is
    served at ``http://127.0.0.1:<port>/metrics`` while the run lasts.

    Raises:
        ConfigError: the port is taken.
    """

    def __init__(self, folder: Path, about: About) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "metrics.prom"
        self._about = about
        self._values: dict[str, float] = {}
        self._text = ""
        self._server = self._serve(about.port) if about.port else None

    def write(self, step: int, row: Row) -> None:
        self._values["step"] = step
        self._values.update((k, float(v)) for k, v in row.items() if not isinstance(v, str))

    def flush(self) -> None:
        self._text = self._render()
        partial = self._path.with_suffix(".tmp")
        partial.write_text(self._text, encoding="utf-8")
        partial.replace(self._path)

    def close(self) -> None:
        self.flush()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _render(self) -> str:
        run = self._about.name.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        lines = []
        for key, value in self._values.items():
            name = f"megacontext_{self._about.scope}_{key}".replace(".", "_")
            number = repr(value) if math.isfinite(value) else "NaN"
            lines += [f"# TYPE {name} gauge", f'{name}{{run="{run}"}} {number}']
        return "\n".join(lines) + "\n"

    def _serve(self, port: int) -> http.server.ThreadingHTTPServer:
        sink = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path != "/metrics":
                    self.send_error(404)
                    return
                body = sink._text.encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """A scrape is no news."""

        try:
            server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise ConfigError(
                f"telemetry.prometheus_port is {port}, which cannot be used ({error.strerror}); "
                "choose another port, or 0 for a file alone."
            ) from error
        threading.Thread(target=server.serve_forever, name="prometheus", daemon=True).start()
        return server
