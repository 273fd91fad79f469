"""Read files and folders as a stream of records, in bounded memory."""

from quernstone_qdrant.sources.files import (
    SUFFIXES,
    FileRecords,
    check_first_rows,
    count_records,
    read_paths,
)
from quernstone_qdrant.sources.options import ReadOptions
from quernstone_qdrant.sources.walk import EXCLUDED, FileCounts

__all__ = [
    "EXCLUDED",
    "SUFFIXES",
    "FileCounts",
    "FileRecords",
    "ReadOptions",
    "check_first_rows",
    "count_records",
    "read_paths",
]
