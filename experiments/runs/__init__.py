"""Sampling runs of any size: blocks of seeds, made by any number of processes, resumed by what is whole on disk."""
