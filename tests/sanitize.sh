#!/usr/bin/env bash
# Builds the package with a sanitizer, and runs the soak test and other tests with it:
# tests/sanitize.sh thread|address [TEST_FILE ...]
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
    thread) flags=-fsanitize=thread libraries="libtsan.so" ;;
    address) flags="-fsanitize=address,undefined -fno-sanitize-recover=undefined" libraries="libasan.so libubsan.so" ;;
    *) echo "wanted thread or address, then test files"; exit 2 ;;
esac
kind=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "pybind11>=3.1" cmake ninja numpy "tiktoken>=0.14" pytest hypothesis
PATH="$work/venv/bin:$PATH"
# Debug information costs a third of the time to compile.
cmake -G Ninja -S . -B "$work/build" -DCMAKE_BUILD_TYPE=None -DGPTOSS_CUDA=OFF \
    -DCMAKE_CXX_FLAGS="-O1 -g1 -fno-omit-frame-pointer $flags" \
    -DPython_EXECUTABLE="$work/venv/bin/python" \
    -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" >/dev/null
ninja -C "$work/build" _core >/dev/null
mkdir "$work/package"
cp -r python/gptoss_native "$work/package"
rm -f "$work"/package/gptoss_native/_core*.so
cp "$work"/build/_core*.so "$work/package/gptoss_native"
preload=
for library in $libraries libstdc++.so; do preload="$preload $(g++ -print-file-name=$library)"; done
echo "== tests/test_soak.py $* with the $kind sanitizer"
# Python keeps what it does not free; that is not the library's.
PYTHONPATH="$work/package:tests" LD_PRELOAD="$preload" ASAN_OPTIONS=detect_leaks=0 \
    TSAN_OPTIONS=exitcode=66 python -m pytest -q -p no:cacheprovider tests/test_soak.py "$@"
