"""Which matrices of an encoder peft adapts where nobody names any: all of its layers, for every head."""

import sys
from typing import Any

# Of LoRA and its kin: as much is learned with all matrices of a layer as with any choice of them, and more than with
# those of attention alone (Biderman et al., 2024, "LoRA Learns Less and Forgets Less").
_MATRICES = ["qkv_proj", "o_proj", "up_proj", "gate_up_proj", "down_proj"]
# IA³ scales keys, values, and what is between the two products of the feed-forward (Liu et al., 2022). The first two
# are in one matrix with the queries here, and scaling a query scales the key that it is multiplied by.
_SCALED, _SCALED_INPUTS = ["qkv_proj", "down_proj"], ["down_proj"]


def register_with_peft(model_type: str) -> None:
    """Names the matrices in the tables of peft, if it is imported; what a user has put there stays."""
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
        # Those of LoRA and its kin; others tune biases or norms.
        elif name.endswith("_TARGET_MODULES_MAPPING") and {"query", "value"} <= set(table["bert"]):
            table.setdefault(model_type, _MATRICES)
