"""Side-by-side measurements, and the random checkpoints they and the tests run on."""
