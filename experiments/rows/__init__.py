"""Rows: one strategy, one JSON file, what tables and sweeps consist of."""
