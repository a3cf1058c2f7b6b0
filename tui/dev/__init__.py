"""Benchmarks and the pictures of the documentation."""
