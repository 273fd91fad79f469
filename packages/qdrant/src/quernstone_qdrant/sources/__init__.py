"""Files and folders as a stream of records, in bounded memory."""

from quernstone_qdrant.sources.files import SUFFIXES, read_paths

__all__ = ["SUFFIXES", "read_paths"]
