"""The two heads that FlagEmbedding saves beside the encoder of BGE-M3, read and written without running any code.

FlagEmbedding (https://github.com/FlagOpen/FlagEmbedding, FlagEmbedding/finetune/embedder/encoder_only/m3) stores the
state of each of the two linear layers in a file of `torch.save`, and reads both files or none.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.initialization import no_init_weights
from transformers.utils import cached_file

from ...modeling import SequenceEncoderForRetrieval, SequenceEncoderModel
from ...modeling.given_weights import fill
from ..key_mapping import Tensors
from ..sidecar_files import folder_of, load_tokenizer
from ..source_models import transformer_folder
from .weight_files import check_stored, read_torch_save

# The file of each layer of `SequenceEncoderForRetrieval`.
HEAD_FILES = {"sparse_linear": "sparse_linear.pt", "colbert_linear": "colbert_linear.pt"}
# Tokens to which FlagEmbedding gives no weight.
_UNWEIGHTED = ("cls_token_id", "eos_token_id", "pad_token_id", "unk_token_id")
# Four times the layer of a hidden size of 4096 in float32.
_MAX_BYTES = 2**28


def read_heads(checkpoint: str | os.PathLike[str], hidden_size: int) -> Tensors | None:
    """Read the two heads beside the encoder of a checkpoint.

    Args:
        checkpoint: A folder or a Hub id.
        hidden_size: The hidden size of its encoder.

    Returns:
        The weights by their names in `SequenceEncoderForRetrieval`, or None if the checkpoint has no such files.

    Raises:
        ValueError: If there is only one of the two files, or a file contains anything but the weights of such a layer.
    """
    place = transformer_folder(checkpoint)
    # Without a connection, most encoders in the cache of the Hub have no record that they lack these files.
    quiet = {f"_raise_exceptions_for_{kind}": False for kind in ("gated_repo", "missing_entries", "connection_errors")}
    found = {layer: cached_file(place, file, **quiet) for layer, file in HEAD_FILES.items()}
    missing = [HEAD_FILES[layer] for layer, path in found.items() if path is None]
    if len(missing) == len(found):
        return None
    if missing:
        raise ValueError(
            f"{place} lacks {missing[0]}, which belongs to {' and '.join(HEAD_FILES.values())} of FlagEmbedding. "
            "Pass base_model=True or --base_model to convert only the encoder."
        )
    layers = {layer: _read_linear(Path(path), hidden_size) for layer, path in found.items() if path is not None}
    if (rows := len(layers["sparse_linear"]["bias"])) != 1:
        raise ValueError(f"{found['sparse_linear']} must be a layer with one output, got {rows}.")
    return {f"{layer}.{name}": tensor for layer, tensors in layers.items() for name, tensor in tensors.items()}


def add_heads(
    encoder: SequenceEncoderModel, heads: Tensors, tokenizer: PreTrainedTokenizerBase | None
) -> SequenceEncoderForRetrieval:
    """Return a model with the weights of an encoder, which it shares, and of two heads.

    Args:
        encoder: The encoder.
        heads: See `read_heads`. They get the dtype of the encoder, as in FlagEmbedding.
        tokenizer: The tokenizer, whose special tokens have no weight; None for those of the configuration.
    """
    config = encoder.config
    config.multi_vector_size = len(heads["colbert_linear.bias"])
    if config.multi_vector_size == config.hidden_size:
        config.multi_vector_size = None
    if tokenizer is not None:
        ids = {getattr(tokenizer, name, None) for name in _UNWEIGHTED}
        config.unweighted_token_ids = sorted(token for token in ids if token is not None)
    with no_init_weights():
        model = SequenceEncoderForRetrieval(config)
    heads = {name: tensor.to(encoder.device, encoder.dtype) for name, tensor in heads.items()}
    fill(model, {**encoder.state_dict(), **heads})
    if encoder.embedding_recipe is not None:
        model.embedding_recipe = encoder.embedding_recipe
    return model


def with_heads(model: PreTrainedModel, source: str | os.PathLike[str]) -> PreTrainedModel:
    """Return a model with the heads of its source, if it is an encoder and its source has them.

    Args:
        model: The model.
        source: The folder or the Hub id that it was converted from.

    Raises:
        ValueError: See `read_heads`.
    """
    if type(model) is not SequenceEncoderModel:
        return model
    heads = read_heads(source, model.config.hidden_size)
    if heads is None:
        return model
    folder = transformer_folder(folder_of(os.fspath(source)))
    return add_heads(model, heads, load_tokenizer(folder, model))


def heads_of(model: SequenceEncoderForRetrieval) -> Tensors:
    """Return copies of the weights of the two heads, by name."""
    return {
        name: tensor.detach().cpu().clone()
        for name, tensor in model.state_dict().items()
        if name.partition(".")[0] in HEAD_FILES
    }


def write_heads(folder: Path, heads: Tensors) -> None:
    """Write the files of two heads beside an encoder, as FlagEmbedding does.

    Args:
        folder: The folder of the encoder.
        heads: See `read_heads`.
    """
    for layer, file in HEAD_FILES.items():
        torch.save(OrderedDict((name, heads[f"{layer}.{name}"]) for name in ("weight", "bias")), folder / file)


def _read_linear(path: Path, hidden_size: int) -> Tensors:
    """Read the weights of a linear layer from a file of `torch.save`, without running code that it may contain."""
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise ValueError(f"{path} must have at most {_MAX_BYTES:,} bytes, got {size:,}.")
    state = read_torch_save(path, "the weights of a linear layer")
    if not isinstance(state, dict) or set(state) != {"weight", "bias"}:
        raise ValueError(f"{path} must contain a weight and a bias, got {_summary(state)}.")
    weight, bias = state["weight"], state["bias"]
    for name, tensor, dimensions in (("weight", weight, 2), ("bias", bias, 1)):
        check_stored(name, tensor, path)
        if tensor.dim() != dimensions:
            raise ValueError(f"{name} in {path} must have {dimensions} dimensions, got {tensor.dim()}.")
    if weight.shape[1] != hidden_size or weight.shape[0] != len(bias):
        raise ValueError(
            f"{path} does not fit an encoder with hidden_size={hidden_size}: its weight has the shape "
            f"{tuple(weight.shape)}, and its bias {tuple(bias.shape)}."
        )
    return {name: tensor.detach().contiguous() for name, tensor in state.items()}


def _summary(state: object) -> str:
    if isinstance(state, dict):
        return ", ".join(f"{name}: {type(value).__name__}" for name, value in list(state.items())[:5]) or "nothing"
    return f"a {type(state).__name__}"
