"""The files of static encoders, which sentence-transformers and model2vec also read: their table and a few fields."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from .text_encoding.embedding_recipe import EmbeddingRecipe, Normalize

# The name of the table in the files, and in the model.
_TABLE, _WEIGHT = "embeddings", "embed_tokens.weight"
TABLE_MAPPING = {rf"^{_TABLE}$": _WEIGHT}


def rename_table(module: Any, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
    """Accept the name of the table in the files. This is a hook of `load_state_dict`."""
    if _TABLE in state_dict and not prefix:
        state_dict[_WEIGHT] = state_dict.pop(_TABLE)


def forget_renaming(model: Any) -> None:
    """Forget that the table may have been renamed, which transformers would undo, also in models with a head."""
    kept = [each for each in getattr(model, "_weight_conversions", None) or [] if _WEIGHT not in each.target_patterns]
    model._weight_conversions = kept or None


def write_static_files(folder: Path, recipe: EmbeddingRecipe) -> None:
    """Give the table the name that other libraries read, and `config.json` the fields that model2vec reads.

    Args:
        folder: The folder of a saved static encoder, whose table is in floating numbers.
        recipe: How texts become vectors.
    """
    weights = folder / "model.safetensors"
    tensors = load_file(weights) if weights.is_file() else {}
    if tensors.keys() == {_WEIGHT}:
        save_file({_TABLE: tensors[_WEIGHT]}, weights, metadata={"format": "pt"})
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config |= {"normalize": recipe.after[-1:] == (Normalize(),), "max_length": recipe.max_length}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
