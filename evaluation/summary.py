"""Summarize results: summary.py RESULTS [BENCHMARK] [options of `quern eval summary`].

BENCHMARK is "MTEB(Multilingual, v2)" by default, as in the original script.
"""

import os
import sys

if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
    print(__doc__, file=sys.stderr)  # noqa: T201
    sys.exit(2)
results, *options = sys.argv[1:]
benchmark = options.pop(0) if options else "MTEB(Multilingual, v2)"
os.execvp("quern", ["quern", "eval", "summary", results, "--benchmark", benchmark, *options])
