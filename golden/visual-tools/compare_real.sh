#!/usr/bin/env bash
# Paints 200 real charts with real boxes with Pillow and compares our tools with them, pixel by
# pixel. Needs ../shared beside the repository (data/chartqa) and Python 3.
#
#   golden/visual-tools/compare_real.sh [STYLE=FILE]...
#
# STYLE=FILE paints a style with the authors' own module instead of with make_golden.py's tools:
# refocus=VTool-R1/verl/tooluse/tools.py, vtool_v2=training-v2/recipe/vtool/refocus_tools.py.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet -r golden/visual-tools/requirements.txt
    python="$work/venv/bin/python"
fi
tools=()
for item in "$@"; do tools+=(--tools "$item"); done
"$python" golden/visual-tools/make_golden.py real "$work/expected" --charts ../shared/data/chartqa "${tools[@]}" 2> "$work/log"
grep -E 'charts$|cases' "$work/log"
VISUAL_TOOLS_EXPECTED="$work/expected" cargo test --release -q -p visual-tools --test pillow -- \
    real_charts --nocapture | grep 'images compared'
