"""Evaluation on MTEB: adapters, the official protocol, two-stage reranking, summaries.

Requires the extra `eval`. The command line imports this package only for `quern eval`, because
mteb takes seconds to import.
"""

import importlib.util

from quernstone.errors import MissingExtraError

if importlib.util.find_spec("mteb") is None:
    raise MissingExtraError("mteb", "eval")
