import pickle
import subprocess
import sys

import pytest

import quernstone_qdrant
from quernstone.errors import QuernstoneError
from quernstone_qdrant import errors
from quernstone_qdrant.errors import (
    CollectionError,
    CollectionNotFoundError,
    CollectionReplacedError,
    LimitError,
    ProvenanceError,
    RecordError,
    RefusedError,
    ReplicaError,
    SourceError,
    TargetError,
    TooLargeError,
    TransientError,
    WriteError,
)


def test_all_is_sorted_and_there():
    assert quernstone_qdrant.__all__ == sorted(quernstone_qdrant.__all__)
    for name in quernstone_qdrant.__all__:
        assert getattr(quernstone_qdrant, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = quernstone_qdrant.Nonsense


def test_import_is_light():
    code = (
        "import sys, quernstone_qdrant, quernstone_qdrant.cli.load, quernstone_qdrant.cli.search\n"
        "print({'torch', 'qdrant_client', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("error", "builtin", "text"),
    [
        (SourceError("a.csv", "bad", 3), ValueError, "a.csv, row 3: bad"),
        (SourceError("a.csv", "bad"), ValueError, "a.csv: bad"),
        (RecordError("k", "bad"), ValueError, "record 'k': bad"),
        (TargetError("gone"), RuntimeError, "gone"),
        (TransientError("busy", 2.5), RuntimeError, "busy"),
        (ReplicaError("one is gone", 2.5), RuntimeError, "one is gone"),
        (TooLargeError("32 MiB"), RuntimeError, "32 MiB"),
        (RefusedError("bad"), RuntimeError, "bad"),
        (LimitError("60 > 50"), RuntimeError, "60 > 50"),
        (WriteError("no", ("a", "b")), RuntimeError, "no (points a, b)"),
        (WriteError("no", tuple("abcde")), RuntimeError, "no (points a, b, c and 2 more)"),
        (CollectionError("c", "bad"), RuntimeError, "collection 'c': bad"),
        (
            CollectionNotFoundError("c", ["a", "b"]),
            LookupError,
            "collection 'c' does not exist (available: 'a', 'b')",
        ),
        (
            CollectionReplacedError("c", "it was deleted"),
            RuntimeError,
            "collection 'c': it was deleted while it was in use, so points may be missing; open it "
            "and load again",
        ),
        (
            ProvenanceError("c", "dimensions", 64, 32),
            RuntimeError,
            "collection 'c' was created with dimensions 64, but the embedder has 32; "
            "use an embedder with the same dimensions, or another collection",
        ),
    ],
)
def test_errors_pickle_and_are_what_a_caller_would_guess(error, builtin, text):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), text, vars(error))
    assert isinstance(error, (QuernstoneError, builtin))
    assert isinstance(error, builtin)


def test_every_error_is_tested():
    here = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert here == {
        RecordError,
        TargetError,
        TransientError,
        TooLargeError,
        RefusedError,
        LimitError,
        WriteError,
        CollectionError,
        CollectionNotFoundError,
        CollectionReplacedError,
        ProvenanceError,
        ReplicaError,
    }
