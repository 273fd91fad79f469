#!/usr/bin/env bash
# Check and measure the CUDA path on this machine.
#
#   bash benchmarks/gpu/device_check.sh                          # needs a CUDA device, about 6 minutes
#   bash benchmarks/gpu/device_check.sh --device cpu --dry-run   # every step at a tiny size
#   bash benchmarks/gpu/device_check.sh --help
#
# The machine needs nothing but Python and the packages that the project uses; the project itself is
# not installed. Wheels of packages that the machine lacks go into .whl/ in the repository's root;
# `wheels.sh` downloads the usual ones.
# PYTHON names the interpreter (default: python3).
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
python=${PYTHON:-python3}

sources=$PWD
for source in packages/*/src; do
  sources+=:$PWD/$source
done

if compgen -G ".whl/*.whl" >/dev/null; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile \
    --target "$site" .whl/*.whl || echo "FAIL wheels: pip could not unpack .whl/*.whl" >&2
  sources+=:$site
fi

PYTHONPATH=$sources${PYTHONPATH:+:$PYTHONPATH} "$python" -m benchmarks.gpu "$@"
