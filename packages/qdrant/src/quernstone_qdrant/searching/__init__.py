"""Arguments of a search, and how they are checked against a collection."""
