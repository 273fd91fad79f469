#!/usr/bin/env bash
# Fill .whl/ with the packages that a GPU machine with torch and transformers usually lacks, for
# `device_check.sh` on a machine that cannot install any:
#
#   bash benchmarks/gpu/wheels.sh [PYTHON_VERSION_THERE]    # default: 3.12, on Linux with x86-64
#
# FlashAttention 3 (fa3-fwd, 27 MB) is among them: it runs on Hopper with CUDA 13.
set -euo pipefail
cd "$(dirname "$0")/../.."

python_there=${1:-3.12}
rm -rf .whl
download() {
  platforms=()
  for tag in manylinux_2_34 manylinux_2_28 manylinux_2_24 manylinux_2_17 manylinux2014; do
    platforms+=(--platform "${tag}_x86_64")
  done
  python3 -m pip download --quiet --disable-pip-version-check --dest .whl --only-binary=:all: \
    --implementation cp --python-version "$python_there" "${platforms[@]}" "$@"
}

download pydantic orjson
# Of these alone: the check uses the vocabulary in dashscope, and the rest is there.
download --no-deps dashscope pytest-asyncio fa3-fwd
rm -f .whl/typing_extensions-*.whl
ls -l .whl
