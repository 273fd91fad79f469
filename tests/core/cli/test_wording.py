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
        ("use `QdrantClient(path=...)` (`--path`), or", "use --path, or"),
        ("Value error, `dimensions` is 0", "--dimensions is 0"),
        ("dimensions=32, but m=None is", "--dimensions 32, but m none is"),
        ("created with bm25=None, not layout='plain'", "created with bm25 none, not layout plain"),
        ("--filter 'ok=True' and --set m=None", "--filter 'ok=True' and --set m=None"),
        ("`org/model` is not `tiny`, see `other=1`", "`org/model` is not `tiny`, see `other=1`"),
    ],
)
def test_arguments_become_options(message, shown):
    assert in_options(message, OPTIONS) == shown


def test_columns_of_data_keep_their_names():
    message = "no column `device` for the text; the columns are `hybrid`; pass `prune=True`"
    shown = "no column `device` for the text; the columns are `hybrid`; pass --prune"
    assert in_options(message, OPTIONS, bare=False) == shown
