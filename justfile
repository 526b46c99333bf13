# The menu over the `iapo` command. `just` alone lists it.

_default:
    @just --list --unsorted

# train the arms and print the table (micro profile; more: --seeds, --arms, --resume)
replicate *ARGS:
    cargo run --release --quiet --bin iapo -- replicate {{ARGS}}

# what a profile costs: memory by part, hours, what to change where it does not fit
plan *ARGS:
    cargo run --release --quiet --bin iapo -- plan {{ARGS}}

# every stage and arm in about a minute, far too short to learn
smoke OUT="runs/smoke":
    cargo run --release --quiet --bin iapo -- replicate --profile smoke --out {{OUT}}

# the cells of the study (--status, --report, --dry-run, --part A, --workers N, --engine slurm)
study *ARGS:
    cargo run --release --quiet --bin iapo -- study {{ARGS}}

# ablations of the occlusion form on tuning seeds, and their table
ablations *ARGS:
    cargo run --release --quiet --bin iapo -- study --study replicate/ablations --out results/ablations {{ARGS}}

# evaluate checkpoints or an endpoint on the six sets
eval-all *ARGS:
    cargo run --release --quiet --bin iapo -- eval-all {{ARGS}}

# every table again from recorded runs
tables *ARGS:
    cargo run --release --quiet --bin iapo -- tables {{ARGS}}

# random checkpoints and drawn data in place of the paper's, to try a profile of real data (stand-ins DIR)
stand-ins *ARGS:
    cargo run --release --quiet --bin iapo -- stand-ins {{ARGS}}

# profile paper through every stage with tiny models, more of it than CI has
rehearse:
    cargo test --release --test rehearsal -- --ignored --nocapture

# a run as one page to look at (view runs/micro --open)
view *ARGS:
    cargo run --release --quiet --bin iapo -- view {{ARGS}}

# runs side by side: settings, differences, flips (compare RUN OTHER)
compare *ARGS:
    cargo run --release --quiet --bin iapo -- compare {{ARGS}}

# how far judges agree on the same completions (agreement RUN OTHER)
agreement *ARGS:
    cargo run --release --quiet --bin iapo -- agreement {{ARGS}}

# runs as Parquet, TensorBoard events and inspect_ai logs (export RUN --out DIR; packages from PyPI)
export *ARGS:
    test -x .venv/export/bin/python || python3 -m venv .venv/export
    .venv/export/bin/pip install --quiet -r results/requirements-export.txt
    .venv/export/bin/python results/export.py {{ARGS}}

# questions of the micro world as pictures (--set vwtq --n 20 --out DIR)
world *ARGS:
    cargo run --release --quiet --bin iapo -- world {{ARGS}}

# one episode, turn by turn (--micro vwtq/17)
ask *ARGS:
    cargo run --release --quiet --bin iapo -- ask {{ARGS}}

# what of its prompt speaks for a tool call (--micro vwtq/17)
attribute *ARGS:
    cargo run --release --quiet --bin iapo -- attribute {{ARGS}}

# the micro base checkpoints again from nothing
pretrain *ARGS:
    cargo run --release --quiet --bin iapo -- pretrain {{ARGS}}

# our numerics against the reference libraries
parity DIR="golden/parity":
    cargo run --release --quiet --bin iapo -- parity {{DIR}}

# what this machine can do
doctor:
    cargo run --release --quiet --bin iapo -- doctor

# beside PyTorch, transformers, llama.cpp, TRL and Captum on this machine: results/speed (downloads and builds them)
bench-peers *ARGS:
    test -x .venv/peers/bin/python || python3 -m venv .venv/peers
    CMAKE_ARGS="-DLLAVA_BUILD=OFF" .venv/peers/bin/pip install --quiet -r benches/peers/requirements.txt
    cargo build --release --example peer
    .venv/peers/bin/python benches/peers/compare.py {{ARGS}}

# how many nodes integrated gradients need: results/attribution
nodes *ARGS:
    cargo run --release --example nodes -- {{ARGS}}

# which form of the penalty sees wrong calls: results/attribution
forms *ARGS:
    cargo run --release --example forms -- {{ARGS}}

# kills, full disks, flipped bits and mutated inputs on the built command: results/reliability.md
soak *ARGS:
    cargo build --release --bin iapo --example soak --example fuzz_stable
    cargo run --release --quiet --example soak -- {{ARGS}}

# criterion benches of the fused operators
bench *ARGS:
    cargo bench -p fused-ops {{ARGS}}

# compiles everything for CUDA with NVIDIA's compiler from Python wheels; no card is needed
check-cuda:
    bash .ci/check-cuda

# links the command for CUDA on a machine without a card, to be carried to one (target/cuda-binary)
cuda-binary *OUT:
    bash .ci/cuda-binary {{OUT}}

# the checks of a machine with a card, in order; --device cpu makes those that need none
cuda-battery *ARGS:
    bash benches/cuda/battery {{ARGS}}

# all tests
test:
    cargo verify

# what has unsafe code, under the address sanitizer (--kernels, avx512, avx2, portable; needs a nightly toolchain)
sanitize *ARGS:
    bash .ci/sanitize {{ARGS}}

# known flaws of the crates in Cargo.lock (needs cargo-audit; without a network: --db DIR --no-fetch)
advisories *ARGS:
    cargo audit {{ARGS}}

# what CI runs
ci:
    bash .ci/run

# a GGUF file as judge or verifier on this machine (serve FILE.gguf)
serve *ARGS:
    cargo run --release --quiet --features local-judge --bin iapo -- serve {{ARGS}}
