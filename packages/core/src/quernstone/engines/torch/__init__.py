"""The packed torch engine."""
