#!/usr/bin/env bash
# run_mteb.sh MODEL_PATH MODEL_NAME BENCHMARK [options of `quern eval run`]
exec quern eval run --model "$1" --output "results/$2" --benchmark "$3" "${@:4}"
