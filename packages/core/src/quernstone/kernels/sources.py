"""Special values of the `source` of `rotate_and_join_`, for its definition and its kernel."""

from __future__ import annotations

REPEATED = 1 << 30
"""Added to the tokens in a `source` that occur once more, without queries."""
NO_ROW = -(1 << 31)
"""A `source` whose row is not written."""
