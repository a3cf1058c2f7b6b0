"""Suites and ablations as jobs, in processes and with a cache of results."""
