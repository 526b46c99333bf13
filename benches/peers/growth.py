"""Our own times as sizes grow, for one thread and for all."""

import json
import statistics

from worker import Worker


def measure(options, say):
    model = json.loads((options.checkpoint / "config.json").read_text())
    series = {
        "tokens": ("train", "tokens of a sequence (8,192 tokens a step)", [64, 128, 256, 512, 1024, 2048],
                   lambda n: {"prompts": 8192 // n, "samples": 1, "prompt": 1, "reply": n}),
        "group": ("train", "group size (16 prompts of 112 tokens, replies of 24)", [1, 2, 4, 8, 16, 32],
                  lambda n: {"prompts": 16, "samples": n, "prompt": 112, "reply": 24}),
        "nodes": ("attribute", "nodes of integrated gradients (8 calls)", [2, 4, 8, 16, 32, 64],
                  lambda n: {"baseline": "block-mean", "nodes": n}),
    }
    points = []
    for threads in [1, options.threads]:
        with Worker("ours", "matmul", {"size": 1024}, options, threads) as worker:
            peak = 2 * 1024**3 / min(worker.run()["seconds"] for _ in range(20))
        for name, (case, what, values, settings) in series.items():
            for value in values:
                with Worker("ours", case, settings(value), options, threads) as worker:
                    worker.run()
                    reports = [worker.run() for _ in range(options.repeats)]
                seconds = [report["seconds"] for report in reports]
                point = {"series": name, "what": what, "threads": threads, "value": value,
                         "seconds": statistics.median(seconds), "low": min(seconds), "high": max(seconds)}
                if case == "train":
                    point["peak_share"] = operations(model, settings(value)) / point["seconds"] / peak
                    point["peak"] = peak
                points.append(point)
                say(point)
    return points


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


def report(about, points, options):
    lines = ["# How our time grows", "",
             f"{about['processor']}, {about['date']}, commit {about['commit']}; medians of {about['repeats']} runs, ms. "
             "Share of peak: floating-point operations of the step over time, by the rate of a product of two "
             "1024 × 1024 matrices with the same number of threads in the same run."]
    for name in dict.fromkeys(point["series"] for point in points):
        own = [point for point in points if point["series"] == name]
        threads = sorted({point["threads"] for point in own})
        shares = "peak_share" in own[0]
        lines += ["", f"## {own[0]['what']}", "",
                  "| | " + " | ".join(f"{t} thread{'s' * (t > 1)}" + (" | of peak" if shares else "") for t in threads) + " |",
                  "|---:" + "|---:" * (len(threads) * (1 + shares)) + "|"]
        for value in dict.fromkeys(point["value"] for point in own):
            cells = []
            for t in threads:
                point = next(p for p in own if p["threads"] == t and p["value"] == value)
                cells.append(f"{1e3 * point['seconds']:.1f}")
                if shares:
                    cells.append(f"{100 * point['peak_share']:.0f} %")
            lines.append(f"| {value} | " + " | ".join(cells) + " |")
    (options.out / "growth.md").write_text("\n".join(lines) + "\n")
    (options.out / "growth.json").write_text(json.dumps({"machine": about, "points": points}, indent=1) + "\n")
