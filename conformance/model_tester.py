"""The model tester that transformers' mixins need, which is the same for all model families."""

from __future__ import annotations

import torch
from subjects import TINY, Subject
from tests.test_modeling_common import ids_tensor, random_attention_mask
from transformers import PreTrainedConfig


class EncoderTester:
    """Tiny configurations of a subject, and batches for their models.

    Args:
        subject: The family of models to test.
        with_dropout: Whether the configurations have dropout.
    """

    is_training = True
    batch_size = 13
    seq_length = 7
    num_choices = 4
    vocab_size = TINY["vocab_size"]
    hidden_size = TINY["hidden_size"]
    num_hidden_layers = TINY["num_hidden_layers"]
    num_attention_heads = TINY["num_attention_heads"]

    def __init__(self, subject: Subject, with_dropout: bool = True) -> None:
        self.subject = subject
        self.with_dropout = with_dropout
        # The training mixins look here for the model with a loss over the vocabulary.
        self.causal_lm_class = subject.classes["ForMaskedLM"]

    def get_config(self) -> PreTrainedConfig:
        """Return a tiny configuration."""
        config = self.subject.make_config()
        if not self.with_dropout:
            for name in [name for name, value in vars(config).items() if "dropout" in name and value]:
                setattr(config, name, 0.0)
        return config

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
        """Return a tiny configuration and a batch (batch_size, seq_length) with masked tokens at any position."""
        config, shape = self.get_config(), [self.batch_size, self.seq_length]
        inputs = {"input_ids": ids_tensor(shape, self.vocab_size), "attention_mask": random_attention_mask(shape)}
        if segments := getattr(config, "type_vocab_size", 0):
            inputs["token_type_ids"] = ids_tensor(shape, segments)
        return config, inputs

    def pretraining_labels(self) -> dict[str, torch.Tensor]:
        """Return the labels of both objectives, under the family's name of the second one."""
        second = "sentence_order_label" if self.subject.counterpart else "next_sentence_label"
        zeros = torch.zeros(self.batch_size, self.seq_length, dtype=torch.long)
        return {"labels": zeros, second: zeros[:, 0]}
