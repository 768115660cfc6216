"""Writes the files of static encoders, which sentence-transformers and model2vec also read."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from .static_names import TABLE, WEIGHT
from .text_encoding.embedding_recipe import EmbeddingRecipe, Normalize
from .text_encoding.recipe_files import is_table


def write_static_files(model: Any, folder: Path, there: Path) -> None:
    """Give a static encoder's table the name that other libraries read, and `config.json` the fields for model2vec.

    Args:
        model: Any model.
        folder: The folder that it was saved to.
        there: The folder that the files are moved to.
    """
    if not is_table(model):
        return
    recipe = model.embedding_recipe or EmbeddingRecipe()
    weights = folder / "model.safetensors"
    tensors = load_file(weights) if weights.is_file() else {}
    if tensors.keys() == {WEIGHT}:
        save_file({TABLE: tensors[WEIGHT]}, weights, metadata={"format": "pt"})
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config |= {"normalize": recipe.after[-1:] == (Normalize(),), "max_length": recipe.max_length}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
