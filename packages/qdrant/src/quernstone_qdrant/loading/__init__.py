"""Run a load: read batches, look points up, embed, write and prune."""
