"""Makes the parity fixtures of this folder from nothing: `python make_fixtures.py [DIR] [--seed N]`.

Reference numerics of transformers, Captum and TRL for two tiny Qwen2.5-VL checkpoints, in the layout
that `iapo parity DIR` runs (README.md). CPU, float32, eager attention, one thread. Versions:
requirements.txt.
"""

import argparse
import hashlib
import json
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

import torch

from fixtures import attribution, checkpoints, images, losses, model_cases, text

GENERATED = ["checkpoints", "images", "vision", "model", "grads", "ig", "grpo"]
LIBRARIES = [
    "torch", "torchvision", "transformers", "tokenizers", "trl", "captum", "numpy", "pillow",
    "safetensors",
]
# |ours - reference| <= atol + rtol * |reference|; the first rule that matches counts. Set at 5 to 10
# times the float32 noise between attention implementations and thread counts.
TOLERANCES = [
    {"file": "images/*", "key": "resized_u8", "atol": 0, "rtol": 0},
    {"file": "images/*", "key": "pixel_values", "atol": 1e-6, "rtol": 0},
    {"file": "vision/*", "atol": 1e-4, "rtol": 1e-5},
    {"file": "model/*", "key": "hidden", "atol": 1e-3, "rtol": 1e-5},
    {"file": "model/*", "atol": 2e-4, "rtol": 1e-5},
    {"file": "grads/*", "key": "loss", "atol": 1e-5, "rtol": 1e-6},
    {"file": "grads/*", "atol": 5e-5, "rtol": 1e-4},
    {"file": "ig/*", "key": "trapezoid", "atol": 1e-3, "rtol": 1e-4},
    {"file": "ig/*", "key": "attr", "atol": 5e-4, "rtol": 1e-4},
    {"file": "ig/*", "key": "scores|grad_at_input", "atol": 3e-4, "rtol": 1e-4},
    {"file": "ig/*", "key": "out.f_", "atol": 1.5e-4, "rtol": 1e-6},
    {"file": "ig/*", "key": "response_logps|inputs_embeds", "atol": 5e-5, "rtol": 1e-5},
    {"file": "ig/*", "key": "alphas|weights", "atol": 1e-7, "rtol": 0},
    {"file": "grpo/*", "atol": 2e-6, "rtol": 1e-5},
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dir", nargs="?", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=4242)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    root, seed = arguments.dir, arguments.seed
    for name in GENERATED:
        shutil.rmtree(root / name, ignore_errors=True)
    models = checkpoints.make(root, seed)
    text.make(root, models)
    images.make(root, seed)
    margins = model_cases.make(root, models)
    attribution.make(root, models, seed)
    losses.make(root, seed)
    write(root / "tolerances.json", {"rules": TOLERANCES})
    versions = {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()}
    manifest = {"seed": seed, "versions": versions, "greedy_margins": margins, "files": files(root)}
    write(root / "manifest.json", manifest)
    total = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    print(f"{root}: {total:,} bytes")


def files(root):
    """Size and hash of every file that was made, for `iapo parity` to find one missing or altered."""
    made = [root / "tolerances.json", *root.glob("*_cases.json")]
    made += [file for name in GENERATED for file in (root / name).rglob("*") if file.is_file()]
    return {
        file.relative_to(root).as_posix(): {
            "bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in sorted(made)
    }


def write(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
