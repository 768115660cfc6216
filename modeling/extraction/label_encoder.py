"""The separate encoder of labels of bi-encoders for span extraction, with its own tokenizer.

Its labels need no room in the inputs, and their vectors do not depend on the text, as in GLiNER's bi-encoders
(Stepanov & Shtopko, 2024, https://arxiv.org/abs/2406.12925).

Shapes: C labels, T tokens of the longest label, H channels of this encoder, D of the head.
"""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..modeling_sequence_encoder import SequenceEncoderModel
from ..pooling import POOLINGS

# The subfolder of a saved model with the tokenizer.
TOKENIZER_FOLDER = "label_tokenizer"


class LabelEncoder(nn.Module):
    """An encoder of labels: the mean over their tokens, projected if the head has another number of channels.

    Args:
        config: The configuration of the encoder.
        channels: Number of channels of the head.
    """

    def __init__(self, config: Any, channels: int) -> None:
        super().__init__()
        self.model = SequenceEncoderModel(config, add_pooling_layer=False)
        same = config.hidden_size == channels
        self.projection = None if same else nn.Linear(config.hidden_size, channels)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the vectors of labels, (C, D).

        Args:
            input_ids: (C, T).
            attention_mask: (C, T).
        """
        states = self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True).last_hidden_state
        vectors: torch.Tensor = POOLINGS["mean"](states, attention_mask.to(states.device) != 0)
        return vectors if self.projection is None else self.projection(vectors)


def read_label_tokenizer(name: str | os.PathLike[str], options: dict[str, Any]) -> PreTrainedTokenizerBase:
    """Load the tokenizer of labels beside a model.

    Args:
        name: The folder or Hub id of the model.
        options: Arguments of its `from_pretrained`.
    """
    hub = {key: options[key] for key in ("revision", "token", "cache_dir", "local_files_only") if key in options}
    parts = (options.get("subfolder"), TOKENIZER_FOLDER)
    return AutoTokenizer.from_pretrained(name, subfolder="/".join(filter(None, parts)), **hub)


def write_label_tokenizer(tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Save the tokenizer of labels beside a model, if it has one."""
    if tokenizer is not None:
        tokenizer.save_pretrained(folder / TOKENIZER_FOLDER)
