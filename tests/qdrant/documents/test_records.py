import math
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel, ConfigDict

from quernstone_qdrant import Record, RecordError
from quernstone_qdrant.documents.records import to_record


@dataclass
class Mill:
    id: str
    text: str
    year: int


class MillModel(BaseModel):
    model_config = ConfigDict(extra="allow")
    id: str
    text: str


class MillTuple(NamedTuple):
    id: str
    text: str
    year: int


def database_row():
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute("select 'a' as id, 'A quern.' as text, 1200 as year").fetchone()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mill("a", "A quern.", 1200),
        lambda: MillModel(id="a", text="A quern.", year=1200),
        lambda: MillTuple("a", "A quern.", 1200),
        database_row,
    ],
    ids=["dataclass", "pydantic", "namedtuple", "sqlite"],
)
def test_objects_with_named_fields_are_records(make):
    assert to_record(make(), 0) == Record("a", "A quern.", {"year": 1200})


@pytest.mark.parametrize("value", [Mill, MillModel, ("a", "A quern."), dict, 3, None], ids=str)
def test_other_objects_are_refused(value):
    with pytest.raises(RecordError, match="it has type"):
        to_record(value, 0)


@pytest.mark.parametrize("missing", [None, math.nan, np.float32("nan"), pd.NA, pd.NaT], ids=str)
def test_a_missing_id_is_not_an_id(missing):
    found = to_record({"id": missing, "text": "A quern."}, 0)
    assert found == to_record({"id": None, "text": "A quern."}, 0)
    assert found.key.startswith("sha256:")
    assert to_record({"id": missing, "key": "a", "text": "A quern."}, 0).key == "a"


def test_an_id_that_differs_in_every_run_is_refused():
    with pytest.raises(RecordError, match=r"record '7': its id is a object, whose text"):
        to_record({"id": object(), "text": "A quern."}, 7)


@pytest.mark.parametrize("missing", [None, math.nan], ids=str)
def test_a_missing_text_is_called_missing(missing):
    with pytest.raises(RecordError, match=rf"record '7': its text is missing: it is {missing}"):
        to_record({"text": missing}, 7)
