"""The other side of compare.py: one case of work, timed once for every line on stdin.

    python theirs.py CASE CHECKPOINT [KEY=VALUE ...]

The cases are those of peer.rs, with PyTorch (its fused attention), transformers, TRL, Captum and
torchvision as their users run them. A setting `form` chooses among their ways to the same result.
"""

import contextlib
import json
import math
import os
import sys
import time
from pathlib import Path

import torch

import compiled
import protocol
from protocol import say, serve, vision_ids, word


def load(checkpoint, attention="sdpa"):
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation=attention
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("visual" not in name)
    return model


def matmul(_checkpoint, settings):
    rows, inner, columns, times = (int(settings[key]) for key in ("rows", "inner", "columns", "times"))
    a, b = torch.rand(rows, inner), torch.rand(columns, inner)

    def work():
        for _ in range(times):
            torch.matmul(a, b.T)
        return {}

    serve("matmul", work)


def train(checkpoint, settings):
    """A training step over whole sequences; the loss is that of the replies."""
    prompts, samples, prompt, reply = (
        int(settings[key]) for key in ("prompts", "samples", "prompt", "reply")
    )
    model = load(checkpoint).train()
    rows = prompts * samples
    ids = torch.tensor([
        [word(row // samples, column) for column in range(prompt)]
        + [word(row + 1000, column) for column in range(reply)]
        for row in range(rows)
    ])
    inputs, targets = ids[:, :-1], ids[:, prompt:]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.01, fused=True)

    def loss_of(inputs, targets):
        logits = model(input_ids=inputs, use_cache=False).logits[:, prompt - 1:]
        return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))

    loss_of = compiled.apply(settings["form"], loss_of)

    def work():
        optimizer.zero_grad()
        loss = loss_of(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return {"loss": loss.item()}

    serve("train", work)


def generate(checkpoint, settings):
    """Greedy decoding: by `generate`, with its static cache or not, or by a compiled loop."""
    from transformers import CompileConfig, GenerationConfig

    prompts, samples, prompt, new = (int(settings[key]) for key in ("prompts", "samples", "prompt", "new"))
    model = load(checkpoint).eval().requires_grad_(False)
    model.generation_config.eos_token_id = None  # nothing ends early
    ids = torch.tensor([[word(row, column) for column in range(prompt)] for row in range(prompts)])
    banned, form = vision_ids(model.config.to_dict()), settings["form"]
    if form.startswith("loop-"):
        return serve("generate", compiled.greedy(model, ids, samples, new, banned, form.removeprefix("loop-")))
    ids = ids.repeat_interleave(samples, 0)
    config = GenerationConfig(
        max_new_tokens=new, do_sample=False, use_cache=True, pad_token_id=0,
        suppress_tokens=banned, eos_token_id=None,
    )
    if form == "static":
        config.cache_implementation = "static"
        config.compile_config = CompileConfig(mode="default", dynamic=False)
        config.compile_config._compile_all_devices = True  # on a processor, too

    def work():
        with torch.inference_mode():
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        return {"last": out[:, -1].tolist()}

    serve("generate", work)


def processor(checkpoint):
    """The checkpoint's files as a transformers processor: the micro one has no video settings."""
    from transformers import AutoTokenizer, Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    template = (Path(checkpoint) / "chat_template.jinja").read_text()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.padding_side = "left"
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor.from_pretrained(checkpoint), tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(patch_size=4, merge_size=2), chat_template=template,
    )


def grpo(checkpoint, settings):
    """TRL's trainer on the same chats and figures; it waits for a line before each update."""
    from datasets import Dataset
    from PIL import Image
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    prompts, samples, new = (int(settings[key]) for key in ("prompts", "samples", "new"))
    folder = Path(settings["export"])
    chats = json.loads((folder / "chats.json").read_text())[:prompts]
    rows = [
        {"prompt": chat, "images": [Image.open(folder / f"{index}.png").convert("RGB")]}
        for index, chat in enumerate(chats)
    ]

    def distinct(completion_ids, **_):
        return [len(set(ids)) / max(len(ids), 1) for ids in completion_ids]

    class Wait(TrainerCallback):
        """Hands out the time of every update, and starts it when it is asked for."""

        def __init__(self):
            self.updates, self.start = 0, 0.0

        def on_step_begin(self, *_args, **_kwargs):
            # The first two updates warm up.
            if self.updates == 2:
                say({"ready": "grpo"})
            if self.updates >= 2 and not sys.stdin.readline():
                os._exit(0)
            self.start = time.perf_counter()

        def on_step_end(self, *_args, **_kwargs):
            self.updates += 1
            if self.updates > 2:
                say({"seconds": time.perf_counter() - self.start})

    config = GRPOConfig(
        output_dir=settings["scratch"], per_device_train_batch_size=prompts * samples, num_generations=samples,
        max_completion_length=new, beta=0.04, temperature=1.0, top_p=1.0, top_k=0, learning_rate=1e-6,
        max_steps=10_000, num_iterations=1, gradient_accumulation_steps=1, bf16=False, use_cpu=True,
        gradient_checkpointing=False, report_to=[], save_strategy="no", logging_steps=10**6,
        disable_tqdm=True, shuffle_dataset=False, optim="adamw_torch_fused", dataloader_num_workers=0,
    )
    with contextlib.redirect_stdout(sys.stderr):
        trainer = GRPOTrainer(
            model=load(checkpoint), reward_funcs=distinct, args=config, train_dataset=Dataset.from_list(rows),
            processing_class=processor(checkpoint), callbacks=[Wait()],
        )
        trainer.train()


def attribute(checkpoint, settings):
    """Captum's integrated gradients of every call of a group."""
    from captum.attr import IntegratedGradients
    from safetensors.torch import load_file

    folder = Path(settings["export"])
    case = json.loads((folder / "attribution.json").read_text())
    prompt = load_file(folder / "attribution.safetensors")["embeddings"]
    length, nodes = prompt.shape[0], int(settings["nodes"])
    model = load(checkpoint).eval().requires_grad_(False)
    baseline = torch.zeros_like(prompt)
    blocks = torch.tensor(case["blocks"])
    if settings["baseline"] != "zero":
        for block in blocks.unique():
            baseline[blocks == block] = prompt[blocks == block].mean(0)

    def scores_of(embeddings, positions):
        return model(inputs_embeds=embeddings, position_ids=positions, use_cache=False).logits

    scores_of = compiled.apply(settings["form"], scores_of)

    def function(call):
        ids = torch.tensor(call)
        tail = model.get_input_embeddings()(ids[:-1])
        later = [case["next"] + step for step in range(len(call) - 1)]
        positions = torch.tensor([axis + later for axis in case["positions"]]).unsqueeze(1)

        def log_prob(points):
            count = points.shape[0]
            whole = torch.cat([points, tail.expand(count, -1, -1)], 1)
            logits = scores_of(whole, positions.expand(-1, count, -1))[:, length - 1:].clone()
            logits[..., case["banned"]] = -math.inf
            scored = logits.log_softmax(-1)
            return scored.gather(-1, ids.expand(count, -1).unsqueeze(-1)).squeeze(-1).sum(-1)

        return log_prob

    functions = [function(call) for call in case["calls"]]

    def work():
        gaps, shares = [], []
        for log_prob in functions:
            with torch.no_grad():
                whole = (log_prob(prompt.unsqueeze(0)) - log_prob(baseline.unsqueeze(0))).item()
            scores = IntegratedGradients(log_prob).attribute(
                prompt.unsqueeze(0), baselines=baseline.unsqueeze(0), n_steps=nodes, method=settings["method"],
                internal_batch_size=min(nodes, int(settings["batch"])),
            )
            gaps.append(abs(scores.sum().item() - whole) / abs(whole))
            of_token = scores[0].sum(-1)
            masses = torch.stack([of_token[blocks == block].sum().abs() for block in range(4)])
            shares.append((masses / masses.sum()).tolist())
        gaps.sort()
        return {"gap": gaps[len(gaps) // 2], "calls": len(gaps), "shares": shares}

    serve("attribute", work)


def preprocess(_checkpoint, settings):
    from PIL import Image
    from transformers import Qwen2VLImageProcessor

    files = sorted(Path(settings["images"]).iterdir())
    images = [Image.open(file).convert("RGB") for file in files]
    # The defaults of the class, as ours.
    processing = Qwen2VLImageProcessor()

    def work():
        return {"patches": processing(images=images, return_tensors="pt")["pixel_values"].shape[0]}

    serve("preprocess", work)


CASES = {
    "matmul": matmul, "train": train, "generate": generate, "grpo": grpo, "attribute": attribute,
    "preprocess": preprocess,
}

if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    protocol.main(CASES)
