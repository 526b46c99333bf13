"""Checkpoints of the same architecture in other sizes, with random weights.

    python sizes.py FOLDER OUT HIDDEN LAYERS
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path


def write(folder, out, hidden, layers):
    """Heads keep their size, so the number of heads grows with the width."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    shutil.copytree(folder, out)
    config = json.loads((out / "config.json").read_text())
    factor = hidden // config["hidden_size"]
    for name in ["hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"]:
        config[name] *= factor
    config["num_hidden_layers"] = config["max_window_layers"] = layers
    config["vision_config"]["out_hidden_size"] = hidden
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_dict(config))
    model.save_pretrained(out)
    # transformers writes the sizes of the text in a part of their own.
    (out / "config.json").write_text(json.dumps(config))
    text = model.model.language_model.parameters()
    print(sum(parameter.numel() for parameter in text))


def make(folder, out, hidden, layers):
    """Writes it in a process of its own, which ends with what it loaded; the number of parameters of its text."""
    command = [sys.executable, __file__, *map(str, [folder, out, hidden, layers])]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


if __name__ == "__main__":
    source, target, *sizes = sys.argv[1:]
    write(Path(source), Path(target), *map(int, sizes))
