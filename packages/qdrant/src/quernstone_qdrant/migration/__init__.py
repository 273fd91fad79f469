"""Move collections: to another place, as they are."""
