#!/usr/bin/env bash
# run_mteb_reranking.sh MODEL_PATH MODEL_NAME RETRIEVAL_PATH BENCHMARK [options of `quern eval rerank`]
exec quern eval rerank --model "$1" --output "results/$2" --predictions "$3" --benchmark "$4" "${@:5}"
