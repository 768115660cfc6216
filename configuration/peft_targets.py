"""The default target modules for peft: all matrices of the layers, with every head."""

import sys
from typing import Any

# For LoRA and similar methods. Adapting all matrices of a layer is at least as good as any subset, and better than
# adapting attention alone (Biderman et al., 2024, "LoRA Learns Less and Forgets Less").
_MATRICES = ["qkv_proj", "o_proj", "up_proj", "gate_up_proj", "down_proj", "convolution.dense"]
# IA³ scales the keys, the values and the inner activations of the feed-forward network (Liu et al., 2022). Here, keys
# and values share a matrix with the queries. Scaling a query is the same as scaling the key it is multiplied by.
_SCALED, _SCALED_INPUTS = ["qkv_proj", "down_proj"], ["down_proj"]


def register_with_peft(model_type: str) -> None:
    """Add the default target modules of a model type to peft's tables, if peft is imported.

    Entries that a user has set are not changed.
    """
    constants: Any = sys.modules.get("peft.utils.constants")
    if constants is None:
        return
    for name, table in vars(constants).items():
        if not (name.startswith("TRANSFORMERS_MODELS_TO_") and isinstance(table, dict)) or "bert" not in table:
            continue
        if name.endswith("IA3_FEEDFORWARD_MODULES_MAPPING"):
            table.setdefault(model_type, _SCALED_INPUTS)
        elif name.endswith("IA3_TARGET_MODULES_MAPPING"):
            table.setdefault(model_type, _SCALED)
        # Tables of methods that adapt matrices; the others tune biases or norms.
        elif name.endswith("_TARGET_MODULES_MAPPING") and {"query", "value"} <= set(table["bert"]):
            table.setdefault(model_type, _MATRICES)
