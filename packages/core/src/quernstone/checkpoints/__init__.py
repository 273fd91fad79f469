"""Find a checkpoint and check its files, before any weights are loaded."""
