"""The focus, its allocators and the control lenses run where torch is not."""

import subprocess
import sys


def test_nothing_here_imports_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import megacontext.core.focus.tilings, megacontext.core.allocators\n"
        "import megacontext.core.lenses, megacontext.core.bench.refocus\n"
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
