"""Checks of stored points, shared by `verify` and `repair`."""
