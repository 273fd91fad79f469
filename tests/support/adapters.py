"""LoRA adapters with random numbers, in PEFT's format."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

import quernstone

TINY = Path(quernstone.__file__).parent / "checkpoints" / "tiny" / "embedding"


def write_adapter(folder, *, base=str(TINY), seed=0, **fields):
    """Write an adapter of one projection."""
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps({**config, **fields}))
    generator = torch.Generator().manual_seed(seed)
    at = "base_model.model.layers.0.mlp.down_proj."
    tensors = {
        f"{at}lora_A.weight": torch.randn(2, 768, generator=generator) * 0.1,
        f"{at}lora_B.weight": torch.randn(256, 2, generator=generator) * 0.1,
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder
