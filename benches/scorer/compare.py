"""Throughput of `iapo score` beside the official evaluator's, on the same rows, in the same run.

    python3 benches/scorer/compare.py TABLEVQABENCH [--iapo target/release/iapo] [--rows 300000]
        [--repeats 5] [--out results/speed/scorer.md]

TABLEVQABENCH is a checkout of github.com/naver-ai/tablevqabench (none of it is kept here). Its GPT-4V
predictions are repeated until there are enough rows. Both sides read a file, score it and write a
file, alternating. Ours is timed as a whole process; the official one without the start of Python
and its imports, which favours it. Every verdict of the two output files is compared.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETS = {"vwtq": "vwtq", "vwtq_syn": "vwtq-syn", "vtabfact": "vtabfact", "fintabnetqa": "fintabnetqa"}

OFFICIAL = """
import json, sys, time, types
try:
    import numpy
except ImportError:  # only the printed average over sets needs it
    sys.modules["numpy"] = types.ModuleType("numpy")
sys.path.insert(0, sys.argv[1])
import evaluate_tablevqa_dataset as official
evaluate = {"vwtq": official.evaluate_wtq, "vwtq_syn": official.evaluate_wtq,
            "vtabfact": official.evaluate_tabfact, "fintabnetqa": official.evaluate_fintabnet}[sys.argv[2]]
start = time.perf_counter()
with open(sys.argv[3], encoding="utf-8") as file:
    data = json.load(file)
data, meta = evaluate(data, "accuracy")
with open(sys.argv[4], "w", encoding="utf-8") as file:
    json.dump({"instances": data, "evaluation_meta": meta}, file, ensure_ascii=False)
print(time.perf_counter() - start, file=sys.stderr)
"""


def official(checkout, name, given, written):
    command = [sys.executable, "-c", OFFICIAL, str(checkout / "src"), name, str(given), str(written)]
    done = subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return float(done.stderr.split()[-1])


def ours(iapo, name, given, written):
    command = [str(iapo), "score", "--set", SETS[name], "--predictions", str(given), "--out", str(written)]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def differences(theirs, mine):
    instances = json.loads(theirs.read_text(encoding="utf-8"))["instances"]
    rows = [json.loads(line) for line in mine.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == len(instances)
    return sum(row["score"] != instance["scores"]["a"] for row, instance in zip(rows, instances))


def measure(arguments, name, folder):
    predictions = json.loads((arguments.checkout / f"outputs/gpt4v/{name}.json").read_text(encoding="utf-8"))
    rows = (predictions * (arguments.rows // len(predictions) + 1))[: arguments.rows]
    as_list, as_lines = folder / f"{name}.json", folder / f"{name}.jsonl"
    as_list.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    as_lines.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    theirs, mine = folder / "theirs.json", folder / "mine.jsonl"
    times = {"official": [], "ours": []}
    for _ in range(arguments.repeats):
        times["official"].append(official(arguments.checkout, name, as_list, theirs))
        times["ours"].append(ours(arguments.iapo, name, as_lines, mine))
    return times, differences(theirs, mine)


def spread(times):
    return f"{statistics.median(times):.3f} ({min(times):.3f} to {max(times):.3f})"


def machine():
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    return f"{model}, {len(os.sched_getaffinity(0))} cores; Python {platform.python_version()}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--iapo", type=Path, default=Path("target/release/iapo"))
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    lines = [
        "# Scoring predictions: `iapo score` beside the official evaluator",
        "",
        f"{arguments.rows:,} rows a set (GPT-4V's predictions of TableVQA-Bench, repeated), file to file, "
        f"{arguments.repeats} alternating runs. Seconds as median (least to most).",
        f"Machine: {machine()}. {time.strftime('%Y-%m-%d')}. Load at the start: {os.getloadavg()[0]:.1f}.",
        "",
        "| set | official, s | ours, s | official, rows/s | ours, rows/s | ratio of medians | verdicts that differ |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name in SETS:
            times, different = measure(arguments, name, Path(folder))
            theirs, mine = (statistics.median(times[side]) for side in ("official", "ours"))
            lines.append(
                f"| {SETS[name]} | {spread(times['official'])} | {spread(times['ours'])} | {arguments.rows / theirs:,.0f} "
                f"| {arguments.rows / mine:,.0f} | {theirs / mine:.1f} | {different} |"
            )
    lines += ["", "Made by `benches/scorer/compare.py`. Ours is timed as a whole process, the official one without Python's start.", ""]
    text = "\n".join(lines)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
