"""llama.cpp's side of the decoding cases: batched greedy decoding of many sequences, in f32.

    python llama.py generate CHECKPOINT [KEY=VALUE ...]

Its file of the model is made from the text part of the checkpoint: on text alone, Qwen2.5-VL's
language model is Qwen2's.
"""

import ctypes
import json
import os
import tempfile
from pathlib import Path

import llama_cpp
import numpy

import protocol
from protocol import serve, vision_ids, word

# Tokens of a call for prompts, llama.cpp's default.
TOKENS = 512

TENSORS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}


def write(checkpoint, path):
    """The text part of a checkpoint as a GGUF file in f32; words stay numbers."""
    from gguf import GGUFWriter
    from safetensors.numpy import load_file

    config = json.loads((Path(checkpoint) / "config.json").read_text())
    file = GGUFWriter(path, "qwen2")
    file.add_context_length(config["max_position_embeddings"])
    file.add_embedding_length(config["hidden_size"])
    file.add_feed_forward_length(config["intermediate_size"])
    file.add_block_count(config["num_hidden_layers"])
    file.add_head_count(config["num_attention_heads"])
    file.add_head_count_kv(config["num_key_value_heads"])
    file.add_layer_norm_rms_eps(config["rms_norm_eps"])
    file.add_rope_freq_base(config["rope_theta"])
    file.add_vocab_size(config["vocab_size"])
    file.add_tokenizer_model("none")
    for name, values in load_file(Path(checkpoint) / "model.safetensors").items():
        if name == "model.embed_tokens.weight":
            file.add_tensor("token_embd.weight", values)
        elif name == "model.norm.weight":
            file.add_tensor("output_norm.weight", values)
        elif name.startswith("model.layers."):
            layer, _, rest = name.removeprefix("model.layers.").partition(".")
            part, _, kind = rest.rpartition(".")
            file.add_tensor(f"blk.{layer}.{TENSORS[part]}.{kind}", values)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return config


def batch(tokens, positions, sequences, wanted):
    """A llama_batch; `sequences` has those of every token, `wanted` whether its logits are."""
    count = len(tokens)
    made = llama_cpp.llama_batch_init(count, 0, max(map(len, sequences)))
    made.n_tokens = count
    for index in range(count):
        made.token[index], made.pos[index], made.logits[index] = tokens[index], positions[index], wanted[index]
        made.n_seq_id[index] = len(sequences[index])
        for place, sequence in enumerate(sequences[index]):
            made.seq_id[index][place] = sequence
    return made


def generate(checkpoint, settings):
    """Prompts in calls of about TOKENS tokens; then one call a step for all sequences.

    Form `unified` has one cache whose prompts are shared by their samples; in form `streams` every
    sequence has a cache of its own, into which its prompt's is copied. `flash` is 0 or 1.
    """
    prompts, samples, prompt, new = (int(settings[key]) for key in ("prompts", "samples", "prompt", "new"))
    rows, unified = prompts * samples, settings["form"] == "unified"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        config = write(checkpoint, path)
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    options = llama_cpp.llama_context_default_params()
    options.n_ctx = prompts * prompt + rows * new if unified else rows * (prompt + new)
    options.n_batch = options.n_ubatch = max(TOKENS, rows, prompt)
    options.n_seq_max, options.kv_unified = rows, unified
    options.n_threads = options.n_threads_batch = int(os.environ["OMP_NUM_THREADS"])
    options.type_k = options.type_v = llama_cpp.GGML_TYPE_F32
    options.flash_attn_type = int(settings["flash"])
    context = llama_cpp.llama_init_from_model(model, options)
    memory = llama_cpp.llama_get_memory(context)

    each = max(1, options.n_batch // prompt)
    firsts = []
    for start in range(0, prompts, each):
        chosen = range(start, min(start + each, prompts))
        places = [(row, column) for row in chosen for column in range(prompt)]
        own = [[row * samples + sample for sample in range(samples if unified else 1)] for row, _ in places]
        firsts.append(batch([word(*place) for place in places], [column for _, column in places], own,
                            [column == prompt - 1 for _, column in places]))
    following = batch([0] * rows, [0] * rows, [[row] for row in range(rows)], [True] * rows)
    tokens = numpy.ctypeslib.as_array(following.token, (rows,))
    positions = numpy.ctypeslib.as_array(following.pos, (rows,))
    banned, vocabulary = vision_ids(config), config["vocab_size"]

    def decode(given, outputs):
        if llama_cpp.llama_decode(context, given) != 0:
            raise RuntimeError("llama_decode failed")
        scores = ctypes.cast(llama_cpp.llama_get_logits(context), ctypes.POINTER(ctypes.c_float))
        scores = numpy.ctypeslib.as_array(scores, (outputs, vocabulary))
        scores[:, banned] = -numpy.inf
        return scores.argmax(-1)

    def work():
        llama_cpp.llama_memory_clear(memory, False)
        found = [decode(given, given.n_tokens // prompt) for given in firsts]
        tokens[:] = numpy.concatenate(found).repeat(samples)
        if not unified:
            for row in range(rows):
                if row % samples:
                    llama_cpp.llama_memory_seq_cp(memory, row - row % samples, row, -1, -1)
        for step in range(new - 1):
            positions[:] = prompt + step
            tokens[:] = decode(following, rows)
        return {"last": tokens.tolist()}

    serve("generate", work)


if __name__ == "__main__":
    protocol.main({"generate": generate})
