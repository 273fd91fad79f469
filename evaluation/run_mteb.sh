#!/usr/bin/env bash
# Embed and score: run_mteb.sh MODEL_PATH MODEL_NAME BENCHMARK [options of `quern eval run`]
[ $# -ge 3 ] || { sed -n 2p "$0" >&2; exit 2; }
exec quern eval run --model "$1" --output "results/$2" --benchmark "$3" "${@:4}"
