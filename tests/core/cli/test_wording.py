"""Errors name options, not the arguments of Python."""

import pytest

from quernstone.cli.wording import in_options

OPTIONS = {
    "hybrid": "--hybrid",
    "batch_tokens": "--batch-tokens",
    "as_json": "--json",
    "prune": "--prune",
    "dimensions": "--dimensions",
    "device": "--device",
}


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("load it with `hybrid=True`", "load it with --hybrid"),
        ("pass `hybrid=False` or `hybrid`", "pass --no-hybrid or --hybrid"),
        ("`batch_tokens` is 0; it must be 1", "--batch-tokens is 0; it must be 1"),
        ("pass `device='cpu'` or `device=\"cuda\"`", "pass --device cpu or --device cuda"),
        ("pass `dimensions=...`", "pass --dimensions"),
        ("pass --prune (`prune=True`) now", "pass --prune now"),
        ("pass it as `grpc_port` (`--grpc-port`)", "pass it as --grpc-port"),
        ("use `EdgeTarget` (`--edge`)", "use --edge"),
        ("Value error, `dimensions` is 0", "--dimensions is 0"),
        ("`org/model` is not `tiny`, see `other=1`", "`org/model` is not `tiny`, see `other=1`"),
    ],
)
def test_arguments_become_options(message, shown):
    assert in_options(message, OPTIONS) == shown
