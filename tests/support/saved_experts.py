"""Random LoRA experts in peft's format."""

import numpy as np

from lab.adapters import peft_folder
from lab.adapters.library import SavedExpert
from lab.core import atomic_io

LAYERS = {"encoder.layer.0.attention.self.query": (12, 10), "encoder.layer.0.attention.self.value": (12, 10)}


def save(folder, rank=3, seed=0, alpha=6.0, layers=LAYERS, zero=False, **config):
    """A random LoRA expert in peft's format."""
    draw = np.random.default_rng(seed)
    arrays = {}
    for name, (inputs, outputs) in layers.items():
        arrays[f"base_model.model.{name}.lora_A.weight"] = draw.normal(size=(rank, inputs)).astype(np.float32)
        b = np.zeros((outputs, rank)) if zero else draw.normal(size=(outputs, rank))
        arrays[f"base_model.model.{name}.lora_B.weight"] = b.astype(np.float32)
    atomic_io.write_arrays(folder / peft_folder.WEIGHTS, arrays, {"format": "pt"})
    written = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "base_model_name_or_path": "minilm"} | config
    atomic_io.write_json(folder / peft_folder.CONFIG, written)
    return SavedExpert(folder)
