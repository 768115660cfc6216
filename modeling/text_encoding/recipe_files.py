"""Reads and writes embedding recipes in the file formats of sentence-transformers.

The files are `modules.json`, a folder for each module, `sentence_bert_config.json` and
`config_sentence_transformers.json`.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from ...saving.module_list import MODULE_LIST, STATIC_MODULE, read_module_list
from ...saving.optional_files import HUB_OPTIONS, optional_files
from ..pooling import check_pooling
from .embedding_recipe import ACTIVATIONS, Dense, EmbeddingRecipe, Normalize

logger = logging.get_logger(__name__)

SETTINGS = "config_sentence_transformers.json"
# Older versions named the file after the encoder.
_ENCODERS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
LENGTHS = tuple(f"sentence_{encoder}_config.json" for encoder in _ENCODERS)
# In the order in which sentence-transformers concatenates the results.
_POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
_MODULE = "sentence_transformers.models."
_KIND = "SentenceTransformer"
_VECTORS = "sentence_embedding"
# What the first module computes for the next one, by the keys that describe it.
_TOKENS = {"module_output_name": "token_embeddings", "method": "forward"}
_STATES = "last_hidden_state"
# Options of the tokenizer and the configuration that do not change the vectors, or that the recipe follows, like the
# length.
_LOADING_OPTIONS = (*HUB_OPTIONS, "subfolder", "trust_remote_code", "use_auth_token")
_TOKENIZER_OPTIONS = ("model_max_length", "use_fast", "padding_side")
_CONFIG_OPTIONS = ("attn_implementation", "dtype", "torch_dtype", "use_cache")
_Find = Callable[[str], str | None]


@dataclass(frozen=True)
class Module:
    """A module that `modules.json` lists.

    Attributes:
        kind: The name of its class.
        path: Its subfolder, or "" for the folder itself.
        find: Returns the path of a file of the folder, or None if there is no such file.
    """

    kind: str
    path: str
    find: _Find

    def file(self, name: str) -> str | None:
        """Return the path of one of its files, or None if there is no such file."""
        return self.find(str(PurePosixPath(self.path) / name))

    def config(self, name: str = "config.json") -> dict[str, Any]:
        """Read one of its JSON files; an empty dict if there is no such file."""
        return read_json(self.file(name))

    def transformer_config(self) -> dict[str, Any]:
        """Read the settings of a module for an encoder, whose file has several names."""
        return next(filter(None, map(self.config, LENGTHS)), {})

    def refuse(self) -> ValueError:
        """Return the error for a module that is not supported."""
        return ValueError(f"it does not support the module {self.kind} in {self.path or 'the folder itself'}")


def recipe_of(model: PreTrainedModel) -> EmbeddingRecipe | None:
    """Return the recipe of a model, or else of the folder that it was loaded from, or None without a recipe."""
    base: Any = model.base_model
    if hasattr(base, "embedding_recipe"):
        return cast("EmbeddingRecipe | None", base.embedding_recipe)
    # Since 5.24, transformers does not store the commit of a model from the Hub.
    commit = getattr(model.config, "_commit_hash", None)
    return read_recipe(model.name_or_path, revision=commit) if model.name_or_path else None


def read_recipe(name: str | os.PathLike[str], subfolder: str = "", **options: Any) -> EmbeddingRecipe | None:
    """Read the embedding recipe of a folder.

    Args:
        name: The folder of an encoder, or a Hub id.
        subfolder: The subfolder of the encoder.
        **options: Arguments of `from_pretrained`, of which those for the Hub are used.

    Returns:
        The recipe, or None if there is no `modules.json` or it has no pooling. If the folder describes something that
        is not supported, the recipe has an `obstacle`.
    """
    name = os.fspath(name)
    if os.path.isdir(name):
        # Older versions of sentence-transformers saved the encoder in a subfolder, next to `modules.json`.
        name, subfolder = os.path.split(os.path.abspath(os.path.join(name, subfolder)))
    find_file = optional_files(name, **options)
    if find_file is None:
        return None
    encoder = PurePosixPath(subfolder)

    def find_in(root: PurePosixPath) -> _Find:
        return lambda file: find_file(str(root / file))

    find_outside = find_in(encoder.parent)
    try:
        modules = read_modules(find_outside) if encoder.name else []
    except ValueError:
        modules = []  # A `modules.json` that sentence-transformers did not write.
    inside = not modules or modules[0].path != encoder.name
    find = find_in(encoder) if inside else find_outside
    try:
        return _read(read_modules(find) if inside else modules, find)
    except (OSError, ValueError, TypeError, KeyError) as error:
        where = os.path.join(name, encoder if inside else encoder.parent)
        return EmbeddingRecipe(obstacle=f"encode cannot follow {MODULE_LIST} of {where}: {error}")


def write_recipe_of(model: Any, folder: Path, there: Path) -> None:
    """Write the recipe of a model, if it saves one.

    Args:
        model: The model.
        folder: The folder to write into.
        there: The folder that the files are moved to, which may have files already.
    """
    # SentenceTransformer writes its settings, which may be newer, before it saves the encoder.
    has_settings = (there / SETTINGS).is_file()
    recipe = recipe_of(model) if model._saves_recipe else None
    static = False
    if is_table(model):
        recipe, static = recipe or EmbeddingRecipe(), True
    if recipe is not None:
        write_recipe(folder, recipe, model.config.hidden_size, not has_settings, static)
    elif (there / MODULE_LIST).is_file():
        logger.warning(f"{there / MODULE_LIST} is unchanged, and encode follows it with this model.")


def is_table(model: Any) -> bool:
    """Return whether a model is a static encoder whose table is not in eight bits and has no adapter."""
    return getattr(model, "is_static", False) and type(model.embed_tokens) is nn.Embedding


def write_recipe(
    folder: Path, recipe: EmbeddingRecipe, hidden_size: int, with_settings: bool = True, static: bool = False
) -> None:
    """Write the files of a recipe, in the format that all versions of sentence-transformers read.

    Args:
        folder: The folder of the encoder.
        recipe: The recipe. If it has an obstacle, a warning is logged and nothing is written.
        hidden_size: The hidden size of the encoder.
        with_settings: Whether to write `config_sentence_transformers.json`.
        static: Whether the encoder is a table, which sentence-transformers has a module for.
    """
    if recipe.obstacle is not None:
        logger.warning(
            f"{recipe.obstacle}. Only the encoder is saved; copy {MODULE_LIST}, the folders that it names, "
            f"{LENGTHS[0]} and {SETTINGS} yourself."
        )
        return
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    if static and recipe.pooling == ("mean",):
        modules = [("", STATIC_MODULE)]
    first = len(modules)
    modules += [
        (f"{index}_{type(step).__name__}", type(step).__name__) for index, step in enumerate(recipe.after, first)
    ]
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": _MODULE + kind}
        for index, (path, kind) in enumerate(modules)
    ]
    _write_json(folder / MODULE_LIST, listed)
    if first > 1:
        _write_json(folder / "1_Pooling" / "config.json", _pooling_config(recipe, hidden_size))
    lengths = {} if recipe.max_length is None else {"max_seq_length": recipe.max_length}
    _write_json(folder / LENGTHS[0], {**lengths, "do_lower_case": recipe.lowercase})
    if recipe.settings and with_settings:
        _write_json(folder / SETTINGS, recipe.settings)
    for (path, _), step in zip(modules[first:], recipe.after, strict=True):
        if isinstance(step, Dense):
            _write_dense(folder / path, step)


def read_modules(find: _Find) -> list[Module]:
    """Read the list of modules in a folder, which is empty if there is no `modules.json`.

    Args:
        find: Returns the path of a file of the folder, or None if there is no such file.

    Raises:
        ValueError: If a module is not from sentence-transformers, or the file is damaged.
    """
    listed, modules = find(MODULE_LIST), []
    for module in [] if listed is None else read_module_list(Path(listed)):
        package, _, kind = module["type"].rpartition(".")
        if not package.startswith("sentence_transformers"):
            raise ValueError(f"it does not support the module {module['type']}")
        modules.append(Module(kind, module["path"], find))
    return modules


def _read(modules: list[Module], find: _Find) -> EmbeddingRecipe | None:
    if not modules:
        return None
    fields: dict[str, Any] = {}
    after: list[Normalize | Dense] = []
    first, pools = "Transformer", 1
    if modules[0].kind == STATIC_MODULE:
        # It includes the pooling.
        first, pools, fields = STATIC_MODULE, 0, {"pooling": ("mean",)}
    for index, module in enumerate(modules):
        if (module.kind == first) != (index == 0):
            raise module.refuse()
        if module.kind == first:
            fields |= read_transformer(module.transformer_config())
        elif module.kind == "Pooling" and index == pools:
            fields |= _read_pooling(module.config())
        elif module.kind == "Normalize" and index > pools:
            check_names(module.kind, module.config())
            after.append(Normalize())
        elif module.kind == "Dense" and index > pools:
            after.append(read_dense(module))
        # Dropout has no effect in evaluation mode.
        elif module.kind != "Dropout":
            raise module.refuse()
    settings = read_json(find(SETTINGS))
    if (kind := settings.get("model_type", _KIND)) != _KIND:
        raise ValueError(f"{SETTINGS} describes a {kind}, not a {_KIND}")
    kept = settings.get("truncate_dim")
    if kept is not None and (type(kept) is not int or kept < 1):
        raise ValueError(f"truncate_dim in {SETTINGS} must be an integer of at least 1, got {kept!r}")
    return EmbeddingRecipe(**fields, after=tuple(after), settings=settings) if "pooling" in fields else None


def read_transformer(
    config: Mapping[str, Any], task: str = "feature-extraction", output: str = _STATES
) -> dict[str, Any]:
    """Read the settings of the first module.

    Args:
        config: The content of its file, one of `LENGTHS`.
        task: The task that it must have.
        output: The output of the encoder that it must take.

    Returns:
        The fields `max_length` and `lowercase` of an `EmbeddingRecipe`.

    Raises:
        ValueError: If something is not supported.
    """
    if config.get("processing_kwargs"):
        raise ValueError(f"it does not support processing_kwargs={config['processing_kwargs']}")
    if (found := config.get("transformer_task", "feature-extraction")) != task:
        raise ValueError(f"it does not support transformer_task={found!r}")
    of_texts = (config.get("modality_config") or {}).get("text") or {}
    for key, expected in {**_TOKENS, "method_output_name": output}.items():
        if (found := of_texts.get(key, config.get(key))) not in (None, expected):
            raise ValueError(f"it does not support {key}={found!r}")
    # Older versions use the first name of each, which takes precedence.
    tokenizer = config.get("tokenizer_args", config.get("processor_kwargs")) or {}
    changes = config.get("config_args", config.get("config_kwargs")) or {}
    for kind, options, harmless in (("tokenizer", tokenizer, _TOKENIZER_OPTIONS), ("config", changes, _CONFIG_OPTIONS)):
        if unknown := {name: value for name, value in options.items() if name not in (*harmless, *_LOADING_OPTIONS)}:
            raise ValueError(f"it does not support {unknown} for the {kind}")
    length = tokenizer.get("model_max_length", config.get("max_seq_length"))
    return {"max_length": length, "lowercase": bool(config.get("do_lower_case"))}


def _read_pooling(config: Mapping[str, Any]) -> dict[str, Any]:
    modes = config.get("pooling_mode") or [mode for mode, key in _POOLING_KEYS.items() if config.get(key)] or "mean"
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    for mode in modes:
        check_pooling(mode)
    return {"pooling": modes, "include_prompt": bool(config.get("include_prompt", True))}


def _pooling_config(recipe: EmbeddingRecipe, hidden_size: int) -> dict[str, Any]:
    modes = recipe.pooling
    config: dict[str, Any] = {"word_embedding_dimension": hidden_size}
    if modes == tuple(mode for mode in _POOLING_KEYS if mode in modes):
        config |= {key: mode in modes for mode, key in _POOLING_KEYS.items()}
    else:
        # Older versions do not support any other order.
        config["pooling_mode"] = list(modes)
    # Older versions do not support this key either.
    return config if recipe.include_prompt else {**config, "include_prompt": False}


def check_names(kind: str, config: Mapping[str, Any], name: str = _VECTORS) -> None:
    """Check that a module reads and writes the vectors of a name.

    Raises:
        ValueError: If it does not.
    """
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, name):
            raise ValueError(f"it does not support a {kind} module with {key}={config[key]!r}")


def read_dense(module: Module, name: str = _VECTORS) -> Dense:
    """Read a dense layer.

    Args:
        module: The module.
        name: The name of the vectors that it must read and write.

    Raises:
        ValueError: If something is not supported.
    """
    config, weights = module.config(), module.file("model.safetensors")
    check_names("Dense", config, name)
    if config.get("use_residual"):
        raise ValueError("it does not support a Dense module with use_residual=True")
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if activation not in ACTIVATIONS:
        raise ValueError(f"it does not support a Dense module with activation_function={activation!r}")
    if weights is None:
        raise ValueError("the weights of its Dense module must be in model.safetensors; pickled ones are not read")
    tensors = load_file(weights)
    return Dense(tensors["linear.weight"], tensors.get("linear.bias"), activation)


def _write_dense(folder: Path, step: Dense) -> None:
    outputs, inputs = step.weight.shape
    has_bias = step.bias is not None
    sizes = {"in_features": inputs, "out_features": outputs, "bias": has_bias}
    _write_json(folder / "config.json", {**sizes, "activation_function": step.activation})
    tensors = {"linear.weight": step.weight} | ({"linear.bias": step.bias} if step.bias is not None else {})
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


def read_json(path: str | os.PathLike[str] | None) -> dict[str, Any]:
    """Return the content of a JSON file, or an empty dict if there is no file.

    Raises:
        ValueError: If it is not a JSON object.
    """
    content = {} if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path} must contain a JSON object, got {content!r}")
    return content


def _write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2), encoding="utf-8")
