"""Evaluation on MTEB: adapters, the official protocol, two-stage reranking, summaries.

Requires the extra `eval`. The command line imports this package only for `quern eval`, because
mteb takes seconds to import.
"""

import importlib.util
import sys

from quernstone.errors import ConfigError, MissingExtraError

if sys.version_info < (3, 11):  # the extra installs nothing there
    found = ".".join(map(str, sys.version_info[:2]))
    raise ConfigError(
        f"evaluation needs Python 3.11 or later, as mteb does; this is Python {found}"
    )
if importlib.util.find_spec("mteb") is None:
    raise MissingExtraError("mteb", "eval")
