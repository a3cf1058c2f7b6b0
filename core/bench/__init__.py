"""Measurements behind ``megacontext bench``; figures and commands are in docs/performance.md."""
