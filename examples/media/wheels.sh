#!/usr/bin/env bash
# Downloads the wheels of the examples' image into dist/wheels-media, locked by hash, for the image's Python (3.11, glibc)
# whatever machine this runs on. A second run with an unchanged lock does nothing.
# PYTHON names the interpreter whose pip downloads them (default: the checkout's .venv, else python3).
set -euo pipefail
cd "$(dirname "$0")/../.."

lock=examples/media/requirements.lock
target=dist/wheels-media
if [[ -f $target/.lock ]] && cmp --silent "$lock" "$target/.lock"; then
    exit 0
fi

python=${PYTHON:-.venv/bin/python}
[[ -x $python ]] || python=python3
case $(uname -m) in
    arm64 | aarch64) machine=aarch64 ;;
    *) machine=x86_64 ;;
esac
rm -rf "$target"
"$python" -m pip download --quiet --disable-pip-version-check --require-hashes --only-binary=:all: \
    --implementation cp --python-version 3.11 --abi cp311 --abi abi3 --abi none \
    --platform "manylinux_2_28_$machine" --platform "manylinux_2_17_$machine" --platform "manylinux2014_$machine" --platform any \
    --dest "$target" --requirement "$lock"
cp "$lock" "$target/.lock"
