"""Metrics of measurements, tables and the report."""
