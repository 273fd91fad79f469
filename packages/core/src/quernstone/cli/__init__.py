"""The command `quern`. Thin: everything it does is a call of the library."""

from quernstone.cli.table import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line. The exit code is 0 done, 1 failed, 2 wrong usage."""
    app(prog_name="quern")
