"""PyTorch's compiler for the other side, and greedy decoding as its users write it by hand."""

import torch
import torch._dynamo
import torch._inductor.config

# Every shape has code of its own.
torch._dynamo.config.recompile_limit = 64


def apply(form, function):
    """`function` as it is, compiled, or with matrix products chosen by trial as well."""
    if form == "eager":
        return function
    mode = {"compiled": "default", "autotuned": "max-autotune-no-cudagraphs"}[form]
    return torch.compile(function, mode=mode, dynamic=False)


def greedy(model, prompts, samples, new, banned, form):
    """A function that continues every prompt `samples` times by `new` tokens and gives the last ones.

    A prompt is computed once for all its samples. Weights are constants of the compiled code, which
    so keeps them in the order that its matrix products want. (With max-autotune the compiler had not
    finished one sequence after three minutes.)
    """
    from transformers import StaticCache

    torch._inductor.config.freezing = True
    length, rows = prompts.shape[1], prompts.shape[0] * samples
    mask = torch.zeros(model.config.text_config.vocab_size)
    mask[banned] = -torch.inf

    def first(ids):
        output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        layers = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
        return (output.logits[:, -1] + mask).argmax(-1, keepdim=True), layers

    def following(ids, cache):
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        return (logits[:, -1] + mask).argmax(-1, keepdim=True)

    first, following = apply(form, first), apply(form, following)
    cache = StaticCache(config=model.config, max_cache_len=length + new)
    text = model.config.text_config
    heads = text.num_key_value_heads
    cache.early_initialization(rows, heads, text.hidden_size // text.num_attention_heads, torch.float32, "cpu")

    def work():
        with torch.inference_mode():
            ids, layers = first(prompts)
            ids = ids.repeat_interleave(samples, 0)
            for layer, (keys, values) in zip(cache.layers, layers):
                for own, of_prompts in [(layer.keys, keys), (layer.values, values)]:
                    of_samples = own.view(-1, samples, *own.shape[1:])
                    of_samples[..., :length, :] = of_prompts.unsqueeze(1)
                layer.cumulative_length.fill_(length)
            for _ in range(new - 1):
                ids = following(ids, cache)
        return {"last": ids[:, 0].tolist()}

    return work
