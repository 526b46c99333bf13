"""A checkpoint that we saved must load in transformers and give the logits of the original.

python check_roundtrip.py SAVED ORIGINAL [--out REPORT.json]

Weights must be equal bit for bit; logits are compared on a text with an image of random patches.
"""

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import Qwen2_5_VLForConditionalGeneration


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("saved", type=Path)
    parser.add_argument("original", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    saved, original = load(arguments.saved), load(arguments.original)
    theirs = dict(original.named_parameters())
    unequal = [n for n, p in saved.named_parameters() if not torch.equal(p, theirs[n])]
    inputs = example(original.config)
    with torch.no_grad():
        difference = (saved(**inputs).logits - original(**inputs).logits).abs().max().item()
    report = {
        "parameters": len(theirs), "unequal_parameters": unequal, "logits_max_abs": difference,
        "tokens": inputs["input_ids"].shape[1], "transformers": version("transformers"),
        "torch": version("torch"),
    }
    print(json.dumps(report, indent=1))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if unequal or difference > 0 else 0


def load(directory):
    model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    wrong = {key: value for key, value in info.items() if value}
    assert not wrong, f"{directory} does not load cleanly: {wrong}"
    return model.eval()


def example(config):
    generator = torch.Generator().manual_seed(0)
    vision = config.vision_config
    rows, columns, merge = 8, 12, vision.spatial_merge_size
    patch = 3 * vision.temporal_patch_size * vision.patch_size**2
    words = torch.randint(0, 200, (24,), generator=generator).tolist()
    image = [config.image_token_id] * (rows * columns // merge**2)
    ids = words[:8] + [config.vision_start_token_id] + image + [config.vision_end_token_id] + words[8:]
    ids = torch.tensor([ids])
    return {
        "input_ids": ids, "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == config.image_token_id).int(),
        "pixel_values": torch.randn(rows * columns, patch, generator=generator),
        "image_grid_thw": torch.tensor([[1, rows, columns]]),
    }


if __name__ == "__main__":
    sys.exit(main())
