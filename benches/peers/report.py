"""The page and the record of the comparison: a section for each instruction set."""

import json
import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

from worker import Worker

# The order of the page.
CASES = [
    "product-128", "product-512", "train", "train-5m", "train-20m", "prefill", "decode", "rollout", "single", "grpo", "preprocess",
    "attribute-block-mean", "block-masses-block-mean", "attribute-zero", "block-masses-zero",
]
PACKAGES = ["torch", "torchvision", "transformers", "trl", "captum", "llama-cpp-python"]


def machine(options, root):
    name = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
    commit = subprocess.run(["git", "-C", root, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    with Worker("ours", "matmul", {"rows": 64, "inner": 64, "columns": 64, "times": 1}, options) as worker:
        instructions = worker.run()["simd"]
    return {
        "processor": name, "simd": instructions, "threads": options.threads, "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES}, "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"), "load": os.getloadavg()[0], "repeats": options.repeats,
    }


def write(about, rows, options):
    """Puts the rows of this instruction set beside those of the others, and the cases that were run
    beside the same machine's other cases."""
    record = options.out / "peers.json"
    sets = read_sets(record)
    rows = [{**row, "commit": about["commit"]} for row in rows]
    known = sets.get(about["simd"])
    if known and all(known["machine"][key] == about[key] for key in ["processor", "threads", "packages", "repeats"]):
        again = {row["case"] for row in rows}
        rows = [row for row in known["rows"] if row["case"] not in again] + rows
    rows.sort(key=lambda row: CASES.index(row["case"]))
    sets[about["simd"]] = {"machine": about, "rows": rows}
    sets = write_sets(record, sets)
    lines = [
        "# Beside the reference libraries", "",
        "Same weights (the micro student, or random ones where a size is said), same work, in turns. The other side "
        "runs in every form; the one with the least median counts. Ratio: its median over ours, with the least and "
        "greatest ratio of a pair of neighbouring runs. `just bench-peers` makes this page.",
    ]
    for name, found in sets.items():
        lines += section(name, found["machine"], found["rows"])
    (options.out / "peers.md").write_text("\n".join(lines) + "\n")


def read_sets(record):
    """What a record has of each instruction set."""
    return json.loads(record.read_text()).get("sets", {}) if record.exists() else {}


def write_sets(record, sets):
    """Writes them and returns them, the widest first."""
    sets = {name: sets[name] for name in sorted(sets, key=["avx512", "avx2", "portable"].index)}
    record.write_text(json.dumps({"sets": sets}, indent=1) + "\n")
    return sets


def section(name, about, rows):
    lines = [
        "", f"## {name}", "",
        f"{about['processor']}, {about['threads']} threads a side, {about['date']}, "
        f"commit {' and '.join(dict.fromkeys(row['commit'] for row in rows))}; "
        + ", ".join(f"{package} {number}" for package, number in about["packages"].items())
        + f". Medians of {about['repeats']} runs (products 9; attribution, larger models: at most 5).", "",
        "| work | beside | ours, ms | theirs, ms | ratio | goal | their best form | other forms, ms | both sides |",
        "|---|---|---:|---:|---|---:|---|---|---|",
    ]
    for row in rows:
        others = [f"{form} {1e3 * seconds:.1f}" for form, seconds in row["forms"].items() if form != row["form"]]
        lines.append(
            f"| {row['what']} | {row['peer']} | {1e3 * row['ours']:.1f} | {1e3 * row['theirs']:.1f} | "
            f"**{row['ratio']:.1f}** ({row['ratio_low']:.1f}–{row['ratio_high']:.1f}) | {row['wanted']} | "
            f"{row['form']} | {'; '.join(others)} | {row['agreement']} |"
        )
    return lines
