"""Running engines: their process, their control channel, the browser server."""
