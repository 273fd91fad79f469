"""The command `quern`, a thin layer over the library."""

from quernstone.cli.table import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line. Exits with 0 if it succeeded, 1 if it failed, 2 for wrong usage."""
    app(prog_name="quern")
