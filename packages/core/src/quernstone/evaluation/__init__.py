"""Evaluation on MTEB: adapters, the official protocol, two-stage reranking, summaries.

Needs the extra `eval`. Nothing else of Quernstone imports this package, and the command line does
so only when `quern eval` runs, because mteb takes seconds to import.
"""

import importlib.util

from quernstone.errors import MissingExtraError

if importlib.util.find_spec("mteb") is None:
    raise MissingExtraError("mteb", "eval")
