"""Build the documentation's site: `make docs`."""
