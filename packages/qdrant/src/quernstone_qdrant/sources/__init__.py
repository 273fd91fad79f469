"""Read files and folders as a stream of records, in bounded memory."""

from quernstone_qdrant.sources.files import SUFFIXES, count_records, read_paths

__all__ = ["SUFFIXES", "count_records", "read_paths"]
