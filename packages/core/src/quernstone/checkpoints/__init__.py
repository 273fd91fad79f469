"""Find a checkpoint, check its files and read what they say, before any weights are loaded."""
