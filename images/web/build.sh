#!/usr/bin/env bash
# Gather the page that detects in a browser: build.sh FOLDER WEIGHTS. It needs npm, and Python ($PYTHON) with this package's
# [export]. Any server of static files can show the folder: python -m http.server -d FOLDER.
set -euo pipefail
folder=$1 weights=$2 here=$(cd "$(dirname "$0")" && pwd)
runtime=onnxruntime-web@1.30.0 most_mb=30
mkdir -p "$folder"
modules=$(mktemp -d)
trap 'rm -rf "$modules"' EXIT
npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$modules" "$runtime"
"${PYTHON:-python3}" "$here/../../infer/export_onnx.py" --weights "$weights" --precision int8 --output-dir "$folder/model"
cp "$here"/*.html "$here"/*.css "$here"/*.js "$here/../demo.jpg" "$folder"
cp "$modules"/node_modules/onnxruntime-web/dist/{ort.wasm.min.mjs,ort-wasm-simd-threaded.mjs,ort-wasm-simd-threaded.wasm} "$folder"
bytes=$(find "$folder" -type f -exec cat {} + | wc -c)
echo "$folder: $((bytes / 1000000)) MB to download"
if [ "$bytes" -gt $((most_mb * 1000000)) ]; then
  echo "error: the page is larger than $most_mb MB; export smaller weights" >&2
  exit 1
fi
