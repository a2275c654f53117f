"""Which layers low-rank experts adapt by default."""

from collections.abc import Sequence

# What peft does not know yet.
MORE_TARGETS = {"modernbert": ["Wqkv"], "distilbert": ["q_lin", "v_lin"], "camembert": ["query", "value"], "mpnet": ["q", "v"]}


def low_rank(model_type: str) -> Sequence[str] | None:
    """Endings of the names of the layers that LoRA adapts in this type of model, as a rule queries and values; None: unknown."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_TARGETS

    return PEFT_TARGETS.get(model_type) or MORE_TARGETS.get(model_type)
