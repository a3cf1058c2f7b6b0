"""A run in a thread that a client steers."""

import threading
from contextlib import contextmanager, suppress

from megacontext.core.runtime.run import run
from megacontext.traces.control import ControlClient, ControlError


@contextmanager
def running(config, out):
    """A run in a thread that a client steers; the client arrives before the first token."""
    result, ready = {}, threading.Event()

    def work():
        result["run"] = run(config, out, read_stdin=False, on_ready=ready.set)

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(60)
    client = ControlClient.connect(out)
    try:
        yield client, result
    finally:
        with suppress(ControlError):  # it has ended by itself
            client.send("stop")
        client.close()
        thread.join(60)
        assert not thread.is_alive()
