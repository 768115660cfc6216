"""Reads the folders of sentence-transformers' sparse and late-interaction encoders.

They contain the modules of a `SparseEncoder` with `SpladePooling` or of a `MultiVectorEncoder`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...modeling.text_encoding.embedding_recipe import Dense, EmbeddingRecipe, Normalize
from ...modeling.text_encoding.recipe_files import (
    SETTINGS,
    Module,
    check_names,
    read_dense,
    read_json,
    read_modules,
    read_transformer,
)
from ...saving.module_list import MODULE_LIST

_TOKENS = "token_embeddings"
_POOLINGS, _ACTIVATIONS, _STRATEGIES = ("max", "sum"), ("relu", "log1p_relu"), ("min", "fixed")


@dataclass(frozen=True)
class SparseRecipe:
    """How a sparse encoder (SPLADE, Formal et al., 2021) makes weights of the vocabulary of its logits.

    Attributes:
        texts: How it reads texts.
        pooling: "max" or "sum", over the tokens of a text.
        logarithms: How often the logarithm is taken of what is not negative.
        most: The number of weights to keep, the largest; None for all.
    """

    texts: EmbeddingRecipe
    pooling: str
    logarithms: int
    most: int | None


@dataclass(frozen=True)
class Expansion:
    """Tokens at the end of short queries (ColBERT, Khattab and Zaharia, 2020).

    Attributes:
        length: The number of tokens that a query has at least.
        token: The token to add; None for the mask.
        cuts: Whether longer queries are truncated to this length.
    """

    length: int
    token: str | None
    cuts: bool


@dataclass(frozen=True)
class TokenRecipe:
    """How a late-interaction encoder makes a vector of each token.

    Attributes:
        texts: How it reads texts.
        steps: The steps after the encoder, in this order.
        left_out: Tokens without a vector.
        left_out_of: Of which texts they are left out, "query" or "document".
        lengths: The number of tokens to truncate queries and documents to, by these two names; None for the limit of
            `texts`.
        expansion: How queries are made longer; None if they are not.
    """

    texts: EmbeddingRecipe
    steps: tuple[Normalize | Dense, ...]
    left_out: tuple[str, ...]
    left_out_of: tuple[str, ...]
    lengths: Mapping[str, int | None]
    expansion: Expansion | None


def read_settings(folder: Path) -> dict[str, Any]:
    """Read `config_sentence_transformers.json`, or return an empty dict if there is no such file.

    Raises:
        ValueError: If it is damaged.
    """
    return read_json(_finder(folder)(SETTINGS))


def read_sparse_recipe(folder: Path) -> SparseRecipe:
    """Read the recipe of a `SparseEncoder`.

    Raises:
        ValueError: If it has anything that is not supported, or is damaged.
    """
    settings = read_settings(folder)
    first, *others = _modules(folder)
    fields = read_transformer(_transformer(first), "fill-mask", "logits")
    if len(others) != 1 or others[0].kind != "SpladePooling":
        raise next((each for each in others if each.kind != "SpladePooling"), first).refuse()
    config = others[0].config()
    pooling, activation = config.get("pooling_strategy", "max"), config.get("activation_function", "relu")
    for name, value, allowed in (
        ("pooling_strategy", pooling, _POOLINGS),
        ("activation_function", activation, _ACTIVATIONS),
    ):
        if value not in allowed:
            raise ValueError(f"it does not support SpladePooling with {name}={value!r}")
    most = _at_least_one("max_active_dims", settings.get("max_active_dims"))
    return SparseRecipe(EmbeddingRecipe(**fields, settings=settings), pooling, activation.count("log1p") + 1, most)


def read_token_recipe(folder: Path) -> TokenRecipe:
    """Read the recipe of a `MultiVectorEncoder`.

    Raises:
        ValueError: If it has anything that is not supported, or is damaged.
    """
    settings = read_settings(folder)
    first, *others = _modules(folder)
    config = _transformer(first)
    fields = read_transformer(config)
    steps: list[Normalize | Dense] = []
    mask: Mapping[str, Any] = {}
    for module in others:
        if module.kind == "Dense":
            steps.append(read_dense(module, _TOKENS))
        elif module.kind == "Normalize":
            check_names("Normalize", module.config(), _TOKENS)
            steps.append(Normalize())
        elif module.kind == "MultiVectorMask":
            mask = module.config()
        else:
            raise module.refuse()
    if mask.get("keep_only_token_ids"):
        raise ValueError("it does not support MultiVectorMask with keep_only_token_ids")
    tasks = mask.get("skiplist_tasks")
    if tasks is None or isinstance(tasks, str):
        tasks = [tasks or "document"]
    return TokenRecipe(
        EmbeddingRecipe(**fields, settings=settings),
        tuple(steps),
        tuple(mask.get("skiplist_words") or ()),
        tuple(tasks),
        {task: _at_least_one(f"{task}_length", config.get(f"{task}_length")) for task in ("query", "document")},
        _expansion(config.get("query_expansion")),
    )


def _expansion(config: Mapping[str, Any] | None) -> Expansion | None:
    if config is None:
        return None
    if not config.get("attend"):
        raise ValueError(
            "it does not support query_expansion with attend=False, since a SequenceEncoder leaves out tokens that "
            "others do not attend to"
        )
    strategy, length = config.get("strategy"), _at_least_one("the length of query_expansion", config.get("length"))
    if strategy not in _STRATEGIES or length is None:
        raise ValueError(f"it does not support query_expansion with strategy={strategy!r} and length={length!r}")
    return Expansion(length, config.get("token"), strategy == "fixed")


def _at_least_one(name: str, value: Any) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return value


def _modules(folder: Path) -> list[Module]:
    modules = read_modules(_finder(folder))
    if not modules:
        raise ValueError(f"{MODULE_LIST} has no modules")
    return modules


def _transformer(module: Module) -> dict[str, Any]:
    """Return the settings of the first module."""
    if module.kind not in ("Transformer", "MLMTransformer"):
        raise module.refuse()
    # Its name in older versions, for a head for masked language modelling.
    task = {"transformer_task": "fill-mask"} if module.kind == "MLMTransformer" else {}
    return {**task, **module.transformer_config()}


def _finder(folder: Path) -> Callable[[str], str | None]:
    return lambda name: str(folder / name) if (folder / name).is_file() else None
