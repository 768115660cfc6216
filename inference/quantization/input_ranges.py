"""Records the range of each channel of a layer's inputs, and a sample of the inputs.

Shapes: K inputs of a layer, R recorded rows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ...data.batching import token_batches
from ...data.documentation import STANDARD_LIBRARY, docstrings_of, find_libraries
from ...data.padded_inputs import padded_inputs
from ...data.windows import sentences
from ...modeling import (
    SequenceEncoderForMultipleChoice,
    SequenceEncoderModel,
    SequenceEncoderPreTrainedModel,
)
from ...modeling.attention.masks import lowest_score

# Rows of each layer's input to keep. More hardly change which scales are found.
ROWS = 1024
# Number of texts by default, and of files of the standard library to take them from.
_TEXTS, _FILES = 384, 80
_BATCH_TOKENS = 2048


@dataclass
class Inputs:
    """The inputs that a layer has received.

    Attributes:
        lowest: (K,) the least value of each channel.
        highest: (K,) the largest value of each channel.
        rows: (R, K) some of the inputs.
    """

    lowest: torch.Tensor
    highest: torch.Tensor
    rows: torch.Tensor


def default_texts() -> list[str]:
    """Return English sentences from the documentation of Python's standard library, in random order."""
    files = sorted(find_libraries()[STANDARD_LIBRARY])
    random.Random(0).shuffle(files)
    found = [sentence for path in files[:_FILES] for doc in docstrings_of(path) for sentence in sentences(doc)]
    return random.Random(0).sample(found, min(_TEXTS, len(found)))


def record_inputs(
    encoder: SequenceEncoderModel,
    names: Sequence[str],
    ids: Sequence[Sequence[int]],
    done: Callable[[int], None] = lambda texts: None,
) -> dict[str, Inputs]:
    """Run the encoder on texts, and return what each of some linear layers receives.

    Args:
        encoder: The encoder, in evaluation mode.
        names: The names of the layers.
        ids: The token ids of each text.
        done: It is called with the number of texts after each batch.
    """
    recorded: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    ranges: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def hook_for(name: str) -> Callable[..., None]:
        def record(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            rows = arguments[0].detach().reshape(-1, arguments[0].shape[-1]).float()
            low, high = rows.amin(0), rows.amax(0)
            if name in ranges:
                low, high = torch.minimum(low, ranges[name][0]), torch.maximum(high, ranges[name][1])
            ranges[name] = (low, high)
            missing = ROWS - sum(map(len, recorded[name]))
            if missing > 0:
                # From the whole batch, which starts with the shortest texts.
                recorded[name].append(rows[:: max(1, len(rows) // (ROWS // 8))][:missing].clone())

        return record

    with ExitStack() as stack, torch.no_grad():
        for name in names:
            handle = encoder.get_submodule(name).register_forward_pre_hook(hook_for(name))
            stack.callback(handle.remove)
        for inputs in _batches(ids, encoder.config.pad_token_id):
            encoder(**inputs)
            done(len(inputs["input_ids"]))
    return {name: Inputs(*ranges[name], torch.cat(recorded[name])) for name in names if name in ranges}


def _batches(ids: Sequence[Sequence[int]], pad_token_id: int | None) -> Iterator[dict[str, torch.Tensor]]:
    for batch in token_batches([len(text) for text in ids], _BATCH_TOKENS):
        yield padded_inputs([{"input_ids": ids[index]} for index in batch], pad_token_id)


@torch.no_grad()
def outputs_of(
    model: SequenceEncoderPreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], ids: Any
) -> list[torch.Tensor]:
    """Return a vector for each text: that of `encode`, or the logits of a head in a row.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        texts: The texts.
        ids: Their token ids.
    """
    if isinstance(model, SequenceEncoderModel):
        vectors = model.encode(texts, tokenizer, convert_to_tensor=True, show_progress_bar=False)
        return list(cast(torch.Tensor, vectors).float())
    rows = []
    for text in ids:
        row = torch.tensor([text])
        row = row[None] if isinstance(model, SequenceEncoderForMultipleChoice) else row
        outputs: Mapping[str, Any] = model(input_ids=row, attention_mask=torch.ones_like(row), return_dict=True)
        logits = [value.float().flatten() for name, value in outputs.items() if name.endswith("logits")]
        numbers = torch.cat(logits)
        # Heads give the lowest number to what a text does not have.
        rows.append(numbers[numbers > lowest_score(numbers.dtype)])
    return rows


def mean_cosine(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> float:
    """Return the mean cosine of pairs of vectors, or the cosine of all numbers at once if each has one or two channels.

    The cosine of single numbers is 1 or -1, and so is that of the logits of two labels if these are opposite numbers.
    """
    if all(len(vector) <= 2 for vector in expected):
        expected, found = [torch.cat(list(expected))], [torch.cat(list(found))]
    pairs = zip(expected, found, strict=True)
    return float(torch.stack([torch.cosine_similarity(one, other, dim=0) for one, other in pairs]).mean())
