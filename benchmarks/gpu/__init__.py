"""Checks and measurements of the CUDA path, for a short run on a machine with a GPU."""
