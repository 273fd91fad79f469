"""Read tables: JSON Lines, CSV, Parquet and plain lines, compressed or not, in bounded memory."""

from quernstone.tables.files import FORMATS, Format, open_file, suffix_of
from quernstone.tables.options import TableOptions, listed
from quernstone.tables.rows import Row, TableReader
from quernstone.tables.texts import TextColumns

__all__ = [
    "FORMATS",
    "Format",
    "Row",
    "TableOptions",
    "TableReader",
    "TextColumns",
    "listed",
    "open_file",
    "suffix_of",
]
