"""Our own times as sizes grow, for one thread and for all, with each instruction set."""

import json
import statistics

import sizes
from report import read_sets, write_sets
from worker import Worker

TOKENS = [64, 128, 256, 512, 1024, 2048, 4096]
GROUPS = [1, 2, 4, 8, 16, 32, 64]
NODES = [2, 4, 8, 16, 32, 64, 128]
# Width and layers.
MODELS = [(128, 3), (256, 3), (256, 8), (384, 8), (512, 8), (896, 7)]

# Runs of what takes over a second.
FEW = 3


def series(options, scratch):
    """What grows: the case, the size in words, the settings by size."""
    # A sequence is a prompt of one token and a reply.
    step = {"samples": 1, "prompt": 1}
    models = {}
    for hidden, layers in MODELS:
        folder = scratch / f"{hidden}-{layers}"
        count = sizes.make(options.checkpoint, folder, hidden, layers)
        models[round(count / 1e6, 1)] = {**step, "prompts": 8, "reply": 255, "checkpoint": folder}
    return {
        "tokens": ("train", "tokens of a sequence (8,192 tokens a step)",
                   {n: {**step, "prompts": 8192 // n, "reply": n - 1} for n in TOKENS}),
        "group": ("train", "group size (16 prompts of 112 tokens, replies of 24)",
                  {n: {"prompts": 16, "samples": n, "prompt": 112, "reply": 24} for n in GROUPS}),
        "nodes": ("attribute", "nodes of integrated gradients (8 calls)",
                  {n: {"baseline": "block-mean", "nodes": n} for n in NODES}),
        "parameters": ("train", "millions of parameters (8 × 256 tokens a step)", models),
    }


def measure(options, scratch, say):
    points = []
    growing = series(options, scratch)
    for threads in sorted({1, options.threads}):
        with Worker("ours", "matmul", {"rows": 1024, "inner": 1024, "columns": 1024, "times": 1}, options, threads) as worker:
            peak = 2 * 1024**3 / min(worker.run()["seconds"] for _ in range(20))
        for name, (case, what, settings) in growing.items():
            for value, own in settings.items():
                seconds = times(case, own, options, threads)
                point = {"series": name, "what": what, "threads": threads, "value": value, "runs": len(seconds),
                         "seconds": statistics.median(seconds), "low": min(seconds), "high": max(seconds)}
                if case == "train":
                    config = json.loads((own.get("checkpoint", options.checkpoint) / "config.json").read_text())
                    point["peak_share"] = operations(config, own) / point["seconds"] / peak
                    point["peak"] = peak
                points.append(point)
                say(point)
    return points


def times(case, settings, options, threads):
    """Seconds of each run after the one that warms up."""
    with Worker("ours", case, settings, options, threads) as worker:
        seconds = [worker.run()["seconds"]]
        repeats = options.repeats if seconds[0] < 1 else min(options.repeats, FEW)
        return seconds + [worker.run()["seconds"] for _ in range(repeats - 1)]


def operations(config, settings):
    """Multiply-adds × 2 of a training step: three products for each of the forward pass; the prompt once."""
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    inner = config["intermediate_size"]
    keys_and_values = 2 * hidden * hidden * kv // heads
    others = 2 * hidden * hidden + 3 * hidden * inner
    prompts, samples, prompt, reply = (settings[key] for key in ("prompts", "samples", "prompt", "reply"))
    own = reply - 1
    tokens, scored = prompts * (prompt + samples * own), prompts * (1 + samples * own)
    # The last layer needs keys and values alone of tokens before which nothing is scored.
    weights = layers * keys_and_values * tokens + others * ((layers - 1) * tokens + scored)
    of_replies = samples * (own * prompt + own * (own + 1) / 2)
    seen = prompts * ((layers - 1) * (prompt * (prompt + 1) / 2 + of_replies) + prompt + of_replies)
    head = prompts * samples * reply * hidden * config["vocab_size"]
    # Scores and weighted values; the backward pass of attention also recomputes the scores.
    return 6 * (weights + head) + 2 * hidden * seen * (2 + 5)


def write(about, points, options):
    """Puts the points of this instruction set in the place of its former ones, beside those of the others."""
    record = options.out / "growth.json"
    sets = read_sets(record)
    sets[about["simd"]] = {"machine": about, "points": points}
    sets = write_sets(record, sets)
    lines = [
        "# How our time grows", "",
        "Times in ms. Share of peak: floating-point operations of the step over time, by the rate of a product of "
        "two 1024 × 1024 matrices with the same instruction set and number of threads in the same run. Parameters: "
        "those of the language model; random weights of the micro student's architecture.", "",
    ]
    for name, found in sets.items():
        machine = found["machine"]
        lines.append(f"- {name}: {machine['processor']}, {machine['date']}, commit {machine['commit']}; "
                     f"medians of {machine['repeats']} runs, at most {FEW} of what takes over a second")
    everything = [{**point, "set": name} for name, found in sets.items() for point in found["points"]]
    for name in dict.fromkeys(point["series"] for point in everything):
        lines += table([point for point in everything if point["series"] == name])
    (options.out / "growth.md").write_text("\n".join(lines) + "\n")


def table(points):
    """A section with a row for each size and columns for each instruction set and number of threads."""
    columns = list(dict.fromkeys((point["set"], point["threads"]) for point in points))
    shares = "peak_share" in points[0]
    found = {(point["set"], point["threads"], point["value"]): point for point in points}
    names = [f"{name}, {threads} thread{'s' * (threads > 1)}" + " | of peak" * shares for name, threads in columns]
    lines = ["", f"## {points[0]['what']}", "",
             "| | " + " | ".join(names) + " |", "|---:" * (1 + len(columns) * (1 + shares)) + "|"]
    for value in sorted({point["value"] for point in points}):
        cells = []
        for column in columns:
            point = found.get((*column, value))
            cells.append(f"{1e3 * point['seconds']:.1f}" if point else "")
            if shares:
                cells.append(f"{100 * point['peak_share']:.0f} %" if point else "")
        lines.append(f"| {value} | " + " | ".join(cells) + " |")
    return lines
