"""PyTorch's scaled dot product attention on the shapes of `iapo battery attention`, as TFLOP/s.

    python benches/cuda/attention.py [--cpu] [--short]
"""

import argparse
import json
import time

import torch
from torch.nn.functional import scaled_dot_product_attention

TIMES = 5


def shapes(short):
    """Name, sequences, their length, whether causal, heads, key-value heads, head size."""
    if short:
        return [
            ("decoder 128", 1, 128, True, 16, 2, 128),
            ("windows 2 x 64", 2, 64, False, 16, 16, 80),
        ]
    return [
        ("decoder 1024", 1, 1024, True, 16, 2, 128),
        ("decoder 4096", 1, 4096, True, 16, 2, 128),
        ("decoder 12288", 1, 12288, True, 16, 2, 128),
        ("windows 44 x 64", 44, 64, False, 16, 16, 80),
        ("picture 2800", 1, 2800, False, 16, 16, 80),
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--short", action="store_true")
    args = parser.parse_args()
    device, dtype = ("cpu", torch.float32) if args.cpu else ("cuda", torch.bfloat16)
    wait = (lambda: None) if args.cpu else torch.cuda.synchronize
    figures = []
    for name, batch, length, causal, heads, kv_heads, dim in shapes(args.short):
        q, k, v = (
            torch.randn(batch, count, length, dim, device=device, dtype=dtype, requires_grad=True)
            for count in (heads, kv_heads, kv_heads)
        )
        pairs = batch * length * length / (2 if causal else 1)
        product = 2 * pairs * heads * dim
        ahead = back = float("inf")
        for _ in range(TIMES):
            wait()
            start = time.perf_counter()
            out = scaled_dot_product_attention(
                q, k, v, is_causal=causal, enable_gqa=heads != kv_heads
            )
            wait()
            ahead = min(ahead, time.perf_counter() - start)
            loss = out.sum()
            wait()
            start = time.perf_counter()
            loss.backward()
            wait()
            back = min(back, time.perf_counter() - start)
        for way, taken, products in [("forward", ahead, 2), ("backward", back, 5)]:
            rate = products * product / taken / 1e12
            figures.append({"name": f"{name}, {way}", "value": rate, "unit": "TFLOP/s"})
    print(json.dumps({"torch": torch.__version__, "device": device, "figures": figures}, indent=2))


if __name__ == "__main__":
    main()
