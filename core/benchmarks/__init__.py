"""Benchmarks that others know, and sets of our own of the same kind, on one runner."""
