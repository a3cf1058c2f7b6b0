"""The ``megacontext`` command line. Commands are thin and import what they need when they run."""

from megacontext.core.cli.app import main

__all__ = ["main"]
