"""The steps of the GPU check. Each module has a function `run`."""
