"""Our speed beside PyTorch's, transformers', llama.cpp's, TRL's, Captum's and torchvision's, in one run.

    python benches/peers/compare.py [--repeats 7] [--simd avx2] [--only train,grpo] [--out results/speed]

Processes, one for our side and one for each form of the other, prepare the same work on the same
weights and then do it in turns; each has the same number of threads. The best form of the other side
counts. Medians, spreads and ratios go to `peers.json`, `peers.md` and `peers.svg`; how our time grows
goes to `growth.json`, `growth.md` and `growth.svg`; both beside the other instruction set's, if they are there.
`just bench-peers` installs the pinned packages, builds our side and runs this.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import growth
import report
import sizes
from worker import HERE, LLAMA_AVX2, Worker, alternate

ROOT = HERE.parents[1]

# Nodes that are tried until the median completeness gap is at most GAP.
NODES = [4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
GAP = 0.10

# How many times as fast as Captum attribution is to be, by baseline.
GOALS = {"block-mean": "6", "zero": "20"}

# Width, layers and goal of the models that are trained; without a width, the checkpoint.
SIZES = {"train": (None, None, "1.5"), "train-5m": (256, 8, "1.1"), "train-20m": (512, 8, "1.1")}

# The forms of the other side by their names in the table.
COMPILER = {"eager": "eager", "compiled": "compiled", "compiled, max-autotune": "autotuned"}
DECODERS = {
    "`generate`": ("theirs.py", {"form": "dynamic"}),
    "`generate`, static cache, compiled": ("theirs.py", {"form": "static"}),
    "loop, static cache": ("theirs.py", {"form": "loop-eager"}),
    "compiled loop": ("theirs.py", {"form": "loop-compiled"}),
    "llama.cpp, one cache, flash attention": ("llama.py", {"form": "unified", "flash": 1}),
    "llama.cpp, a cache each, flash attention": ("llama.py", {"form": "streams", "flash": 1}),
    "llama.cpp, a cache each": ("llama.py", {"form": "streams", "flash": 0}),
}


def compare(options, scratch, keep):
    """Measures every case; `keep` gets each row as it is there, so that a stop loses one case."""
    export = scratch / "export"
    subprocess.run([str(options.peer), "export", str(options.checkpoint), f"out={export}"], check=True)
    images = scratch / "images"
    pictures(images)
    prefill = {"prompts": 128, "samples": 1, "prompt": 112, "new": 1}
    decode = {**prefill, "new": 65}
    decoding = {
        "prefill": ("prefill, 128 prompts of 112 tokens", "1.3", prefill),
        "decode": ("the same and 64 more tokens each", "3", decode),
        "rollout": ("64 tokens for 16 prompts × 8 samples", "5", {**decode, "prompts": 16, "samples": 8}),
        "single": ("one sequence alone, 112 tokens and 64 more", "1.5", {**decode, "prompts": 1}),
    }

    def add(name, what, peer, wanted, case, settings, forms, repeats=None):
        if options.only and name not in options.only:
            return
        found, last = alternate(case, settings, forms, options, repeats)
        keep({"case": name, "what": what, "peer": peer, "wanted": wanted, **found, "agreement": agreement(case, last)})

    for width, times in ((128, 200), (512, 20)):
        product = {"rows": 2048, "inner": width, "columns": width, "times": times}
        what = f"product of 2,048 × {width} by {width}, {times} times"
        add(f"product-{width}", what, "PyTorch (MKL)", "1", "matmul", product, {"eager": ("theirs.py", product)}, 9)
    step = {"prompts": 32, "samples": 1, "prompt": 1, "reply": 256}
    for name, (hidden, layers, wanted) in SIZES.items():
        if options.only and name not in options.only:
            continue
        settings, what, repeats = step, "training step, 32 × 256 tokens", None
        if hidden:
            folder = scratch / name
            count = sizes.make(options.checkpoint, folder, hidden, layers)
            settings, what = {**step, "checkpoint": folder}, f"{what}, {count / 1e6:.1f} M parameters"
            repeats = min(options.repeats, 5)
        forms = {label: ("theirs.py", {**settings, "form": form}) for label, form in COMPILER.items()}
        add(name, what, "PyTorch, transformers (sdpa)", wanted, "train", settings, forms, repeats)
    for name, (what, wanted, settings) in decoding.items():
        forms = {label: (script, {**settings, **own}) for label, (script, own) in DECODERS.items()}
        add(name, what, "transformers, llama.cpp", wanted, "generate", settings, forms)
    update = {"prompts": 8, "samples": 8, "new": 16}
    theirs = {**update, "export": export, "scratch": scratch / "trl"}
    add("grpo", "GRPO update, 8 prompts × 8 completions", "TRL `GRPOTrainer`", "6", "grpo", update,
        {"eager": ("theirs.py", theirs)})
    add("preprocess", "image processor, 8 pictures", "transformers, torchvision", "1.5", "preprocess",
        {"images": images}, {"eager": ("theirs.py", {"images": images})})
    if not options.only or "attribute" in options.only:
        attributions(options, export, keep)


def agreement(case, last):
    """Whether both sides did the same work, by the form that is farthest from ours."""
    ours = last.pop("ours")
    if case == "train":
        farthest = max((report["loss"] for report in last.values()), key=lambda loss: abs(loss - ours["loss"]))
        return f"loss {ours['loss']:.5f} and {farthest:.5f}"
    if case == "generate":
        same = min(sum(a == b for a, b in zip(ours["last"], report["last"])) for report in last.values())
        return f"last token equal for {same} of {len(ours['last'])}"
    if case == "preprocess":
        return f"{ours['patches']} and {last['eager']['patches']} patches"
    return ""


def attributions(options, export, keep):
    """Attribution of a group's calls: scores of tokens, then masses of blocks.

    Each side takes the fewest nodes that close the gap, Captum by its better rule. Path differences,
    whose gap is 0, take the fewest steps that come as near to the converged block masses as Captum.
    """
    for baseline in ["block-mean", "zero"]:
        mine, my_report = fewest(options, "ours", [{"baseline": baseline}])
        common = {"baseline": baseline, "export": export, "batch": 64, "form": "eager"}
        rules = [{**common, "method": method} for method in ["gausslegendre", "riemann_middle"]]
        theirs, their_report = fewest(options, "theirs.py", rules)
        them = f"theirs {theirs['nodes']} nodes ({theirs['method']}), gap {100 * their_report['gap']:.1f} %"
        # A batch has nodes of one call; one that holds them all is the greatest.
        batches = sorted({min(theirs["nodes"], batch) for batch in [16, 64, 256]})
        forms = {
            f"{label}, batch {batch}": ("theirs.py", {**theirs, "form": form, "batch": batch})
            for label, form in COMPILER.items() if form != "autotuned" for batch in batches
        }
        repeats = min(options.repeats, 5)
        found, _ = alternate("attribute", mine, forms, options, repeats)
        keep({
            "case": f"attribute-{baseline}", "peer": "Captum", "wanted": GOALS[baseline],
            "what": f"integrated gradients, {my_report['calls']} calls of a prompt, baseline {baseline}", **found,
            "agreement": f"ours {mine['nodes']} nodes, gap {100 * my_report['gap']:.1f} %, {them}",
        })
        with Worker("ours", "attribute", {"baseline": baseline, "nodes": 256}, options) as worker:
            converged = worker.run()["shares"]
        farthest = distance(their_report["shares"], converged)
        for steps in [1, 2, 4, 8, 16, 32, 64]:
            mine = {"baseline": baseline, "steps": steps}
            with Worker("ours", "attribute", mine, options) as worker:
                mine_apart = distance(worker.run()["shares"], converged)
            if mine_apart <= farthest:
                break
        best = {found["form"]: forms[found["form"]]}
        found, _ = alternate("attribute", mine, best, options, repeats)
        keep({
            "case": f"block-masses-{baseline}", "peer": "Captum", "wanted": GOALS[baseline],
            "what": f"block masses of {my_report['calls']} calls by path differences, baseline {baseline}", **found,
            "agreement": f"ours {steps} steps, gap 0, {mine_apart:.3f} from converged; {them}, {farthest:.3f}",
        })


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


def say(value):
    print(json.dumps({k: v for k, v in value.items() if k != "seconds" or not isinstance(v, list)}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "replicate/checkpoints/micro/student")
    parser.add_argument("--peer", type=Path, default=ROOT / "target/release/examples/peer")
    parser.add_argument("--out", type=Path, default=ROOT / "results/speed")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--simd", choices=["avx2"], help="hold both sides to AVX2")
    parser.add_argument("--only", type=lambda text: text.split(","), help="cases, or growth")
    options = parser.parse_args()
    if not options.peer.exists():
        raise SystemExit(f"{options.peer} is missing: cargo build --release --example peer")
    if options.simd == "avx2" and options.only != ["growth"] and not LLAMA_AVX2.exists():
        raise SystemExit(f"{LLAMA_AVX2} is missing: requirements.txt says how llama.cpp is built for it")
    options.out.mkdir(parents=True, exist_ok=True)
    about = report.machine(options, ROOT)
    with tempfile.TemporaryDirectory() as scratch:
        # A compilation that was killed must not be found by the next run.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(scratch) / "inductor")

        def keep(row):
            say(row)
            report.write(about, [row], options)

        if options.only != ["growth"]:
            compare(options, Path(scratch), keep)
        if not options.only or "growth" in options.only:
            growth.write(about, growth.measure(options, Path(scratch), say), options)
    subprocess.run([str(options.peer), "plots", str(options.out)], check=True)


if __name__ == "__main__":
    main()
