"""What transformers computes of a checkpoint and one picture, for `iapo battery architecture`.

    python benches/cuda/architecture.py CHECKPOINT OUT.safetensors [--patches H W] [--tokens N] [--cpu]

Features of the picture, scores and log-probabilities of the last tokens, the gradient of their sum with
respect to the input embeddings, in f32 and in bf16; in f32 the greedy continuation with the margin of
every step. The first thing it prints is what it runs with.
"""

import argparse

import torch
import transformers
from safetensors.torch import save_file
from transformers import Qwen2_5_VLForConditionalGeneration

SCORED = 32
GREEDY = 64


def inputs(config, patches, tokens):
    generator = torch.Generator().manual_seed(5)
    height, width = patches
    vision = config.vision_config
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    pixels = torch.randn(height * width, values, generator=generator)
    slots = height * width // vision.spatial_merge_size**2
    text = torch.randint(0, 250, (tokens,), generator=generator)
    ids = torch.cat(
        [
            torch.tensor([config.vision_start_token_id]),
            torch.full((slots,), config.image_token_id),
            torch.tensor([config.vision_end_token_id]),
            text,
        ]
    )
    return ids[None], pixels, torch.tensor([[1, height, width]])


def run(model, ids, pixels, grid):
    dtype = model.dtype
    with torch.no_grad():
        features = model.model.get_image_features(pixels.to(dtype), grid)
        features = getattr(features, "pooler_output", features)
        features = torch.cat(list(features)) if isinstance(features, (tuple, list)) else features
        words = model.get_input_embeddings()(ids)
        image = (ids == model.config.image_token_id)[..., None].expand_as(words)
        embeddings = words.masked_scatter(image, features.to(dtype))
        positions, _ = model.model.get_rope_index(
            ids,
            mm_token_type_ids=(ids == model.config.image_token_id).int(),
            image_grid_thw=grid,
        )
    embeddings = embeddings.detach().requires_grad_()
    out = model(inputs_embeds=embeddings, position_ids=positions, use_cache=False)
    logits = out.logits[0, -1 - SCORED : -1].float()
    log_probs = logits.log_softmax(-1).gather(1, ids[0, -SCORED:, None])[:, 0]
    (gradient,) = torch.autograd.grad(log_probs.sum(), embeddings)
    return {
        "features": features,
        "logits": logits,
        "log_probs": log_probs,
        "grad_inputs_embeds": gradient[0],
    }


@torch.no_grad()
def greedy(model, ids, pixels, grid):
    out = model.generate(
        input_ids=ids,
        pixel_values=pixels.to(model.dtype),
        image_grid_thw=grid,
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
        attention_mask=torch.ones_like(ids),
        max_new_tokens=GREEDY,
        min_new_tokens=GREEDY,
        do_sample=False,
        # Ours never chooses vision tokens.
        suppress_tokens=[
            token
            for token in (
                model.config.vision_start_token_id,
                model.config.vision_end_token_id,
                model.config.image_token_id,
                model.config.video_token_id,
            )
            if token is not None
        ],
        output_logits=True,
        return_dict_in_generate=True,
    )
    best = torch.stack(out.logits)[:, 0].float().topk(2, dim=-1).values
    return out.sequences[0, ids.shape[1] :], best[:, 0] - best[:, 1]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("out")
    parser.add_argument("--patches", type=int, nargs=2, default=[40, 70])
    parser.add_argument("--tokens", type=int, default=650)
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()
    device = "cpu" if args.cpu else "cuda"
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {device}")
    # f32 is f32, not TF32.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    tensors = {}
    for name, dtype in [("f32", torch.float32), ("bf16", torch.bfloat16)]:
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            args.checkpoint, dtype=dtype, attn_implementation="sdpa"
        )
        model.requires_grad_(False)
        model.to(device).eval()
        ids, pixels, grid = inputs(model.config, args.patches, args.tokens)
        # Before the cast to the model's type, as ours casts it.
        tensors |= {
            "in.input_ids": ids[0],
            "in.pixel_values": pixels,
            "in.image_grid_thw": grid[0],
        }
        ids, pixels, grid = ids.to(device), pixels.to(device), grid.to(device)
        for key, value in run(model, ids, pixels, grid).items():
            tensors[f"out.{name}.{key}"] = value.detach().float()
        if name == "f32":
            tensors["out.greedy_ids"], margins = greedy(model, ids, pixels, grid)
            tensors["out.greedy_margins"] = margins
        del model
    tensors = {key: value.contiguous().cpu() for key, value in tensors.items()}
    save_file(tensors, args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
