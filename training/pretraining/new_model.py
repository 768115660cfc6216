"""Create or load the tokenizer and the model that `sequence-encoder pretrain` starts from.

The token vectors of a new encoder start from the tokens that stand near each other in its texts. Training would spend
its first steps on learning which tokens occur together, and counting them takes seconds. The vectors are singular
vectors of the positive mutual information of tokens (Levy et al., 2015, "Improving Distributional Similarity with
Lessons Learned from Word Embeddings").

Shapes: T tokens, V vocabulary, E channels of the embeddings.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ...command_line import UsageError
from ...command_line.progress import Progress
from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ...conversion.sidecar_files import read_tokenizer
from ...data.packs import PackedWindows
from ...modeling import SequenceEncoderForMaskedLM, SequenceEncoderForPreTraining, SequenceEncoderPreTrainedModel
from ...tokenizer.tokenization_sequence_encoder import SequenceEncoderTokenizer
from ..encoders import set_special_tokens
from .arguments import ModelArguments
from .objective_arguments import Objectives

# Documents to train a tokenizer on. More documents hardly change it.
_TOKENIZER_TEXTS = 200_000
# More tokens take longer, and hardly change the vectors of frequent ones.
_MOST_TOKENS = 5_000_000
# How far apart two tokens count as neighbours. A pair counts by the inverse of its distance.
_REACH = 5
# The exponent of the frequencies of neighbours, so that pairs with a rare one do not count too much.
_SMOOTHING = 0.75
# Iterations of the singular value decomposition, and channels that it computes beyond those that are kept.
_ITERATIONS, _OVERSAMPLING = 4, 8


def make_tokenizer(
    arguments: ModelArguments, texts: Iterable[str], given: PreTrainedTokenizerBase | None = None
) -> PreTrainedTokenizerBase:
    """Load the tokenizer that the user named, unless it is given, or train one on the first texts.

    Raises:
        UsageError: If it cannot be loaded or trained.
    """
    try:
        if arguments.tokenizer is None:
            print(f"Training a tokenizer of at most {arguments.vocab_size:,} tokens.", flush=True)
            return SequenceEncoderTokenizer.train_from_iterator(
                islice(texts, _TOKENIZER_TEXTS),
                vocab_size=arguments.vocab_size,
                algorithm=arguments.algorithm,
                lowercase=arguments.lowercase,
                model_max_length=arguments.max_length,
                # The trainer would show five bars, even without a terminal.
                show_progress=False,
            )
        tokenizer = read_tokenizer(arguments.tokenizer) if given is None else copy.deepcopy(given)
    except UsageError:
        raise
    except (ValueError, OSError) as error:
        name = "--vocab_size, --corpus" if arguments.tokenizer is None else f"--tokenizer {arguments.tokenizer}"
        raise UsageError(f"{name}: {error}") from error
    tokenizer.model_max_length = arguments.max_length
    return tokenizer


def new_model(
    arguments: ModelArguments, objectives: Objectives, tokenizer: PreTrainedTokenizerBase
) -> SequenceEncoderPreTrainedModel:
    """Create an encoder with random weights and the heads that the objectives need.

    Raises:
        UsageError: If the vocabulary is too small for the tokenizer, or the encoder has too few positions.
    """
    fields: dict[str, Any] = {
        "type_vocab_size": 2 if objectives.sop_weight else 0,
        "max_position_embeddings": arguments.max_length,
        **arguments.config_fields(),
    }
    config = SequenceEncoderConfig.from_preset(arguments.preset, tokenizer=tokenizer, **fields)
    if config.vocab_size < len(tokenizer):
        raise UsageError(
            f"--config_overrides vocab_size={config.vocab_size}: the tokenizer has {len(tokenizer)} tokens; train a "
            "smaller one with --vocab_size."
        )
    check_max_length(config, arguments, "the encoder")
    return model_class(objectives)(config)


def load_converted_model(
    folder: Path, arguments: ModelArguments, objectives: Objectives, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    """Load the model that `save_as_sequence_encoder` saved, with the heads that the objectives need.

    Raises:
        UsageError: If the encoder has too few positions.
    """
    model = model_class(objectives).from_pretrained(folder)
    tokens: Any = {name: getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "mask")}
    set_special_tokens(model.config, **tokens)
    check_max_length(model.config, arguments, str(arguments.model))
    return model


def check_max_length(config: PreTrainedConfig, arguments: ModelArguments, named: str) -> None:
    """Check that an encoder, as errors name it, has positions for windows of `--max_length` tokens.

    Raises:
        UsageError: If it has too few.
    """
    limit = config.max_position_embeddings
    if config.position_embedding == "learned" and arguments.max_length > limit:
        raise UsageError(
            f"--max_length must be at most {limit}, the positions that {named} has, got {arguments.max_length}."
        )


def model_class(objectives: Objectives) -> type[SequenceEncoderPreTrainedModel]:
    """Return the model class with the heads that the objectives need."""
    return SequenceEncoderForPreTraining if objectives.sop_weight else SequenceEncoderForMaskedLM


@torch.no_grad()
def start_from_neighbours(model: PreTrainedModel, packs: PackedWindows, show_progress: bool = True) -> None:
    """Replace the random vectors of the tokens that occur in texts, if there are more of them than channels.

    The new vectors all have the mean length of the random ones. The state of the random numbers does not change.

    Args:
        model: A new encoder, with or without heads.
        packs: The windows that it will train on, in a `datasets.Dataset`.
        show_progress: Whether to show the progress if this takes longer than two seconds.
    """
    table = cast(nn.Embedding, model.get_input_embeddings()).weight
    with Progress("Computing the first token vectors", show=show_progress), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        information = _mutual_information(_tokens_of(packs), len(table))
        known = torch.zeros(len(table), dtype=torch.bool)
        known[information.indices()[0]] = True
        channels = table.shape[1]
        if int(known.sum()) <= channels + _OVERSAMPLING:
            return
        found, sizes, _ = torch.svd_lowrank(information, channels + _OVERSAMPLING, _ITERATIONS)
    vectors = found[known, :channels] * sizes[:channels].sqrt()
    table[known] = F.normalize(vectors - vectors.mean(0), dim=1) * table.norm(dim=1).mean()


def _tokens_of(packs: PackedWindows) -> torch.Tensor:
    """Return the tokens (T,) of evenly spread windows, with as many -1 between two windows as a pair can be apart."""
    chosen = packs.windows.select(range(0, len(packs.windows), math.ceil(packs.tokens / _MOST_TOKENS)))
    gap = np.full(_REACH, -1)
    return torch.from_numpy(np.concatenate([part for window in chosen for part in (window["input_ids"], gap)])).long()


def _mutual_information(tokens: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Return the positive mutual information of each token and each of its neighbours, (V, V) sparse."""
    codes, counts = [], []
    for distance in range(1, _REACH + 1):
        first, second = tokens[:-distance], tokens[distance:]
        low, high = torch.minimum(first, second), torch.maximum(first, second)
        found, times = (low * vocabulary + high)[low >= 0].unique(return_counts=True)
        codes.append(found)
        counts.append(times.float() / distance)
    places = torch.stack([torch.cat(codes) // vocabulary, torch.cat(codes) % vocabulary])
    once = _sparse(places, torch.cat(counts), vocabulary)
    pairs = _sparse(torch.cat([once.indices(), once.indices().flip(0)], 1), once.values().repeat(2), vocabulary)
    (rows, columns), values = pairs.indices(), pairs.values()
    frequencies = torch.zeros(vocabulary).index_add(0, rows, values)
    smoothed = frequencies.pow(_SMOOTHING)
    information = (values * smoothed.sum() / (frequencies[rows] * smoothed[columns])).log()
    positive = information > 0
    places = pairs.indices()[:, positive]
    return torch.sparse_coo_tensor(
        places, information[positive], pairs.shape, check_invariants=False, is_coalesced=True
    )


def _sparse(indices: torch.Tensor, values: torch.Tensor, size: int) -> torch.Tensor:
    """Return a square sparse matrix with the sums of the values at each place."""
    return torch.sparse_coo_tensor(indices, values, (size, size), check_invariants=False).coalesce()
