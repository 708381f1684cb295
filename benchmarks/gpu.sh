#!/usr/bin/env bash
# Measure on one GPU, in at most 8 minutes and without a network, and write one JSON file.
#
#   benchmarks/gpu.sh OUT.json
#   benchmarks/gpu.sh OUT.json WHEELS   # from a machine that has only torch
#
# Activate the environment of smol_hf before, or set PYTHON to its python.
#
# WHEELS is a folder with the packages that smol_hf needs:
#   pip download --dest WHEELS hatchling editables . && rm -f WHEELS/torch-* WHEELS/nvidia* WHEELS/triton*
set -euo pipefail
output=${1:?usage: gpu.sh OUT.json [WHEELS]}
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
if [ $# -gt 1 ]; then
  "$python" -m venv --system-site-packages "$results/venv"
  python="$results/venv/bin/python"
  "$python" -m pip install --quiet --no-index --find-links "$2" -e .
fi
"$python" -c 'import torch; assert torch.cuda.is_available(), "no GPU found"'
"$python" benchmarks/run_all.py --gpu --results "$results" --docs "$results/docs"
"$python" - "$results" "$output" <<'PYTHON'
import json, sys
from pathlib import Path

found = {path.stem: json.loads(path.read_text()) for path in sorted(Path(sys.argv[1]).glob("*.json"))}
Path(sys.argv[2]).write_text(json.dumps(found, indent=1) + "\n")
PYTHON
echo "written to $output"
