"""Sweeps: every combination of a grid over the keys of a sampling run."""
