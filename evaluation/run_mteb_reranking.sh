#!/usr/bin/env bash
# Rerank: run_mteb_reranking.sh MODEL_PATH MODEL_NAME RETRIEVAL_PATH BENCHMARK [options of `quern eval rerank`]
[ $# -ge 4 ] || { sed -n 2p "$0" >&2; exit 2; }
exec quern eval rerank --model "$1" --output "results/$2" --predictions "$3" --benchmark "$4" "${@:5}"
