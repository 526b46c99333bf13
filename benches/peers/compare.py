"""Our speed beside PyTorch's, transformers', TRL's, Captum's and torchvision's, in one run.

    python benches/peers/compare.py [--repeats 7] [--only train,grpo] [--out results/speed]

Two processes, one a side, prepare the same work on the same weights and then do it in turns; each
has the same number of threads. Medians, spreads and ratios go to `peers.json`, `peers.md` and
`peers.svg`; how our time grows goes to `growth.md` and `growth.svg`. `just bench-peers` installs the
pinned packages, builds our side and runs this.
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
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGES = ["torch", "torchvision", "transformers", "trl", "captum"]

# Nodes that are tried until the median completeness gap is at most GAP.
NODES = [4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
GAP = 0.10


class Worker:
    """One side: a process that does its work once for every line."""

    def __init__(self, side, case, settings, options, threads=None):
        threads = threads or options.threads
        words = [f"{key}={value}" for key, value in settings.items()]
        if side == "ours":
            command = [str(options.peer), case, str(options.checkpoint), *words]
        else:
            command = [sys.executable, str(HERE / "theirs.py"), case, str(options.checkpoint), *words,
                       f"threads={threads}"]
        environment = dict(os.environ, RAYON_NUM_THREADS=str(threads), OMP_NUM_THREADS=str(threads),
                           CANDLE_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
        # A current OpenBLAS or MKL chooses its own kernels.
        environment.pop("OPENBLAS_CORETYPE", None)
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.log, text=True, env=environment)
        self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise SystemExit(f"{self.process.args} ended:\n{self.log.read()[-3000:]}")
        return json.loads(line)

    def run(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()


def alternate(case, ours, theirs, options, repeats=None):
    """Times both sides in turns; the first pair warms up."""
    found = {"ours": [], "theirs": []}
    with Worker("ours", case, ours, options) as mine, Worker("theirs", case, theirs, options) as other:
        for turn in range((repeats or options.repeats) + 1):
            for side, worker in [("ours", mine), ("theirs", other)]:
                time.sleep(0.1)  # the other side's threads go to sleep
                report = worker.run()
                if turn > 0:
                    found[side].append(report)
    return found


def summary(found):
    seconds = {side: [report["seconds"] for report in reports] for side, reports in found.items()}
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    pairs = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["theirs"])]
    return {
        "seconds": seconds, "ours": medians["ours"], "theirs": medians["theirs"],
        "ratio": medians["theirs"] / medians["ours"], "ratio_low": min(pairs), "ratio_high": max(pairs),
    }


def compare(options, scratch):
    export = scratch / "export"
    subprocess.run([str(options.peer), "export", str(options.checkpoint), f"out={export}"], check=True)
    images = scratch / "images"
    pictures(images)
    step = {"prompts": 32, "samples": 1, "prompt": 1, "reply": 256}
    prefill = {"prompts": 128, "samples": 1, "prompt": 112, "new": 1}
    decode = {**prefill, "new": 65}
    rollout = {**decode, "prompts": 16, "samples": 8}
    update = {"prompts": 8, "samples": 8, "new": 16}
    cases = {
        "train": ("training step, 32 × 256 tokens", "PyTorch, transformers (sdpa)", "1.3", step, {}),
        "prefill": ("prefill, 128 prompts of 112 tokens", "transformers `generate`", "1.3", prefill, {}),
        "decode": ("the same and 64 more tokens each", "transformers `generate`", "3", decode, {}),
        "rollout": ("64 tokens for 16 prompts × 8 samples", "transformers `generate`", "3", rollout, {}),
        "grpo": ("GRPO update, 8 prompts × 8 completions", "TRL `GRPOTrainer`", "6", update,
                 {"export": export, "scratch": scratch / "trl"}),
        "preprocess": ("image processor, 8 pictures", "transformers, torchvision", "1.5", {"images": images}, {}),
    }
    rows = []
    for name, (what, peer, wanted, settings, extra) in cases.items():
        if options.only and name not in options.only:
            continue
        case = "generate" if name in ("prefill", "decode", "rollout") else name
        found = alternate(case, settings, {**settings, **extra}, options)
        row = {"case": name, "what": what, "peer": peer, "wanted": wanted, **summary(found)}
        last = [reports[-1] for reports in found.values()]
        row["agreement"] = agreement(name, *last)
        rows.append(row)
        say(row)
    if not options.only or "attribute" in options.only:
        rows += attributions(options, export)
    return rows


def agreement(name, ours, theirs):
    """Whether both sides did the same work."""
    if name == "train":
        return f"loss {ours['loss']:.5f} and {theirs['loss']:.5f}"
    if name in ("prefill", "decode", "rollout"):
        same = sum(a == b for a, b in zip(ours["last"], theirs["last"]))
        return f"last token equal for {same} of {len(ours['last'])}"
    if name == "preprocess":
        return f"{ours['patches']} and {theirs['patches']} patches"
    return ""


def attributions(options, export):
    """Attribution of a group's calls: scores of tokens, then masses of blocks.

    Each side takes the fewest nodes that close the gap, Captum by its better rule. Path differences,
    whose gap is 0, take the fewest steps that come as near to the converged block masses as Captum.
    """
    rows = []
    for baseline in ["block-mean", "zero"]:
        mine, my_report = fewest(options, "ours", [{"baseline": baseline}])
        common = {"baseline": baseline, "export": export, "batch": 64}
        rules = [{**common, "method": method} for method in ["gausslegendre", "riemann_middle"]]
        theirs, their_report = fewest(options, "theirs", rules)
        them = f"theirs {theirs['nodes']} nodes ({theirs['method']}), gap {100 * their_report['gap']:.1f} %"
        found = alternate("attribute", mine, theirs, options, min(options.repeats, 5))
        rows.append({
            "case": f"attribute-{baseline}", "peer": "Captum", "wanted": "4",
            "what": f"integrated gradients, {my_report['calls']} calls of a prompt, baseline {baseline}",
            "agreement": f"ours {mine['nodes']} nodes, gap {100 * my_report['gap']:.1f} %, {them}", **summary(found),
        })
        say(rows[-1])
        with Worker("ours", "attribute", {"baseline": baseline, "nodes": 256}, options) as worker:
            converged = worker.run()["shares"]
        farthest = distance(their_report["shares"], converged)
        for steps in [1, 2, 4, 8, 16, 32, 64]:
            mine = {"baseline": baseline, "steps": steps}
            with Worker("ours", "attribute", mine, options) as worker:
                mine_apart = distance(worker.run()["shares"], converged)
            if mine_apart <= farthest:
                break
        found = alternate("attribute", mine, theirs, options, min(options.repeats, 5))
        rows.append({
            "case": f"block-masses-{baseline}", "peer": "Captum", "wanted": "4",
            "what": f"block masses of {my_report['calls']} calls by path differences, baseline {baseline}",
            "agreement": f"ours {steps} steps, gap 0, {mine_apart:.3f} from converged; {them}, {farthest:.3f}",
            **summary(found),
        })
        say(rows[-1])
    return rows


def fewest(options, side, choices):
    """The settings with the fewest nodes whose median gap is at most GAP, and their report."""
    for nodes in NODES:
        for choice in choices:
            settings = {**choice, "nodes": nodes}
            with Worker(side, "attribute", settings, options) as worker:
                report = worker.run()
            if report["gap"] <= GAP:
                return settings, report
    return settings, report


def distance(shares, others):
    """The mean total variation between the block distributions of calls."""
    apart = [sum(abs(a - b) for a, b in zip(one, other)) / 2 for one, other in zip(shares, others)]
    return sum(apart) / len(apart)


def pictures(folder):
    """Eight pictures of the usual sizes of charts and tables."""
    from PIL import Image, ImageDraw

    folder.mkdir()
    for index, size in enumerate([(850, 600), (800, 557), (427, 500), (1100, 420), (310, 390), (850, 1150), (640, 480), (735, 701)]):
        image = Image.effect_noise(size, 40).convert("RGB")
        draw = ImageDraw.Draw(image)
        for bar in range(9):
            left, top = size[0] * bar // 9, size[1] * (bar * 5 % 9) // 9
            draw.rectangle([left + 5, top, left + size[0] // 12, size[1]], fill=(20 * bar, 90, 200 - 15 * bar))
        image.save(folder / f"{index}.png")


def growth(options):
    """Our own times as sizes grow, for one thread and for all."""
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


def say(value):
    print(json.dumps({k: v for k, v in value.items() if k != "seconds" or not isinstance(v, list)}), flush=True)


def machine(options):
    name = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {
        "processor": name, "threads": options.threads, "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES}, "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"), "load": os.getloadavg()[0], "repeats": options.repeats,
    }


def report(about, rows, options):
    head = [
        "# Beside the reference libraries", "",
        f"{about['processor']}, {about['threads']} threads a side, {about['date']}, commit {about['commit']}; "
        + ", ".join(f"{name} {number}" for name, number in about["packages"].items())
        + f". Same weights (the micro student), same work, in turns; medians of {about['repeats']} runs "
        "(attribution: at most 5). Ratio: their median over ours, with the least and greatest ratio of a pair "
        "of neighbouring runs. `just bench-peers` makes this page.", "",
        "| work | beside | ours, ms | theirs, ms | ratio | goal | both sides |", "|---|---|---:|---:|---|---:|---|",
    ]
    for row in rows:
        head.append(
            f"| {row['what']} | {row['peer']} | {1e3 * row['ours']:.1f} | {1e3 * row['theirs']:.1f} | "
            f"**{row['ratio']:.1f}** ({row['ratio_low']:.1f}–{row['ratio_high']:.1f}) | {row['wanted']} | {row['agreement']} |"
        )
    (options.out / "peers.md").write_text("\n".join(head) + "\n")
    (options.out / "peers.json").write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")


def report_growth(about, points, options):
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "replicate/checkpoints/micro/student")
    parser.add_argument("--peer", type=Path, default=ROOT / "target/release/examples/peer")
    parser.add_argument("--out", type=Path, default=ROOT / "results/speed")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", type=lambda text: text.split(","), help="cases, or growth")
    options = parser.parse_args()
    if not options.peer.exists():
        raise SystemExit(f"{options.peer} is missing: cargo build --release --example peer")
    options.out.mkdir(parents=True, exist_ok=True)
    about = machine(options)
    with tempfile.TemporaryDirectory() as scratch:
        if options.only != ["growth"]:
            report(about, compare(options, Path(scratch)), options)
    if not options.only or "growth" in options.only:
        report_growth(about, growth(options), options)
    subprocess.run([str(options.peer), "plots", str(options.out)], check=True)


if __name__ == "__main__":
    main()
