"""The steps of a search: options, their checks, finding and ranking."""
