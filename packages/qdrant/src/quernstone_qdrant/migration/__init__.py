"""Move collections: to another place, or to another model."""
