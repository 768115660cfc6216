"""Turns a `TaskAdapter` into the classifier of this package that computes the same logits."""

from __future__ import annotations

import copy
from typing import Any

from transformers.initialization import no_init_weights

from ..modeling import SequenceEncoderForSequenceClassification, SequenceEncoderModel, TaskAdapter


def classifier_of(adapter: TaskAdapter, encoder: SequenceEncoderModel) -> SequenceEncoderForSequenceClassification:
    """Return a classifier with the weights of a `TaskAdapter`, which are not copied.

    In training, the encoder of the classifier is not frozen, and its dropout is that of its configuration.

    Args:
        adapter: The `TaskAdapter`.
        encoder: Its encoder, converted if necessary.
    """
    config: Any = copy.deepcopy(encoder.config)
    # The adapter pools the vectors of the last layer, without the pooler that the encoder may have.
    config.pooling, config.pooler_act, config.classifier_head = adapter.config.pooling, None, "linear"
    config.id2label, config.label2id = adapter.config.id2label, adapter.config.label2id
    config.problem_type, config.logit_calibration = adapter.config.problem_type, None
    with no_init_weights():
        classifier = SequenceEncoderForSequenceClassification(config)
    tensors = {f"model.{name}": tensor for name, tensor in encoder.state_dict().items()}
    for name, tensor in adapter.classifier.state_dict().items():
        tensors[f"classifier.{name}"] = tensor.to(encoder.dtype)
    expected = classifier.state_dict().keys()
    classifier.load_state_dict({name: tensors[name] for name in expected}, assign=True)
    # Buffers are not among the weights. They were created on the CPU.
    placed: Any = classifier
    placed.to(encoder.device).eval()
    return classifier
