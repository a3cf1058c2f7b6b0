"""Test tiers and Hypothesis profiles.

``pytest`` runs the fast tier; ``--slow`` adds the slow one, ``--real`` a public model; tests
marked ``gpu`` run where a CUDA device is. ``HYPOTHESIS_PROFILE=dev`` draws new random examples, the
default ``ci`` is fixed.
"""

import os
import tempfile

import pytest
from hypothesis import HealthCheck, settings

# No test reads or writes the user's cache.
os.environ["MEGACONTEXT_CACHE"] = tempfile.mkdtemp(prefix="megacontext-cache-")

settings.register_profile(
    "ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run tests marked slow")
    parser.addoption("--real", action="store_true", help="also run tests of a public model")


def pytest_collection_modifyitems(config, items):
    slow = pytest.mark.skip(reason="slow; run with --slow")
    gpu = pytest.mark.skip(reason="needs a CUDA device")
    real = pytest.mark.skip(reason="needs a public model; run with --real (make test-real)")
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(slow)
        if "real" in item.keywords and not config.getoption("--real"):
            item.add_marker(real)
        if "gpu" in item.keywords and not _has_gpu():
            item.add_marker(gpu)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
