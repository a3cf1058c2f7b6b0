"""``python -m megacontext.core.cli``: the same as ``megacontext``."""

from megacontext.core.cli.app import main

main()
