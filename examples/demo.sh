#!/usr/bin/env bash
# Load a folder of documents, search it and rerank the hits: offline, with the bundled tiny models.
set -euo pipefail
cd "$(dirname "$0")/.."

export QUERN_MODEL=tiny QUERN_RERANK_MODEL=tiny
target=(--collection demo --path demo-data)
rm -rf demo-data  # an earlier version may have created the collection with other models

echo "Loading this project's documentation and 64 short passages into an embedded Qdrant:"
quern load README.md docs examples/sample.jsonl "${target[@]}"

for question in \
    "Which bird flies the longest way every year?" \
    "what stops sailors from getting scurvy" \
    "Which exit code tells a script that the data was bad?" \
    "how can a program find an entry quickly however many there are"; do
    echo
    quern search "$question" --limit 3 "${target[@]}"
done
