"""The name of the table of a static encoder in its files, by which sentence-transformers and model2vec find it."""

from typing import Any

# The name of the table in the files, and in the model.
TABLE, WEIGHT = "embeddings", "embed_tokens.weight"
TABLE_MAPPING = {rf"^{TABLE}$": WEIGHT}


def rename_table(module: Any, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
    """Accept the name of the table in the files. This is a hook of `load_state_dict`."""
    if TABLE in state_dict and not prefix:
        state_dict[WEIGHT] = state_dict.pop(TABLE)


def forget_renaming(model: Any) -> None:
    """Forget that the table may have been renamed, which transformers would undo, also in models with a head."""
    kept = [each for each in getattr(model, "_weight_conversions", None) or [] if WEIGHT not in each.target_patterns]
    model._weight_conversions = kept or None
