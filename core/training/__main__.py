"""``python -m megacontext.core.training``: for ``torchrun -m`` and bare checkouts."""

from __future__ import annotations

import sys

from megacontext.core.training.cli import app
from megacontext.traces.errors import MegaContextError

if __name__ == "__main__":
    try:
        app()
    except MegaContextError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
