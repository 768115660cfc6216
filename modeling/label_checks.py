"""Checks labels before anything is computed. A `ValueError` names the argument, its value and what is allowed.

Values are not checked during tracing or on the meta device, where there are none.

Shapes: B batch, S sequence.
"""

from typing import Literal

import torch
from transformers import PreTrainedConfig

from .checks import check_integers, check_tensor, has_values

# The label that losses ignore, as everywhere in torch and transformers.
IGNORED = -100

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


def check_class_labels(name: str, labels: torch.Tensor, size: int, limit: str, shape: tuple[int, ...]) -> None:
    """Check that class labels have the expected shape and are -100 (ignored) or in [0, size), which `limit` sets.

    A flat tensor, or one with a last dimension of 1, is accepted as well.
    """
    check_integers(name, labels)
    if tuple(labels.shape) not in (tuple(shape), (*shape, 1), (torch.Size(shape).numel(),)):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(labels.shape)}.")
    if not has_values(labels) or labels.numel() == 0:
        return
    labels = labels.long()  # In uint8, 156 equals -100.
    outside = (labels != IGNORED) & ((labels < 0) | (labels >= size))
    if bool(outside.any()):
        raise ValueError(
            f"{name} must be from 0 to {size - 1} ({limit}), or {IGNORED} to be ignored, got "
            f"{int(labels[outside].flatten()[0])}."
        )


def check_label_weights(weights: torch.Tensor | None, labels: torch.Tensor | None) -> None:
    """Check that the weights of labels are floating and have the shape of the labels."""
    if weights is None:
        return
    check_tensor("label_weights", weights)
    if labels is None:
        raise ValueError("label_weights needs labels.")
    if not weights.is_floating_point() or weights.shape != labels.shape:
        raise ValueError(
            f"label_weights must be floating and have the shape of labels, {tuple(labels.shape)}, got {weights.dtype} "
            f"of shape {tuple(weights.shape)}."
        )


def check_targets(name: str, labels: torch.Tensor, num_labels: int, problem_type: str | None, batch: int) -> None:
    """Check the targets of a regression or of a multi-label classification: one number for each output."""
    check_tensor(name, labels)
    expected = (batch, num_labels)
    if tuple(labels.shape) != expected and not (num_labels == 1 and tuple(labels.shape) == (batch,)):
        raise ValueError(
            f"{name} must have shape {expected} for problem_type={problem_type!r}, got {tuple(labels.shape)}."
        )
    if problem_type == "multi_label_classification" and has_values(labels):
        outside = (labels < 0) | (labels > 1)
        if bool(outside.any()):
            raise ValueError(
                f"{name} of a multi-label classification must be from 0 to 1, got "
                f"{labels[outside].flatten()[0].item()}."
            )


def check_classification_labels(
    labels: torch.Tensor, problem_type: ProblemType | None, num_labels: int, batch: int
) -> ProblemType:
    """Check the labels of texts.

    Returns:
        `problem_type`, or the type that the labels imply if it is None.
    """
    check_tensor("labels", labels)
    if problem_type is None:
        # As in transformers, labels of dtype bool mean a multi-label classification.
        whole = labels.dtype in (torch.int32, torch.int64)
        problem_type = "single_label_classification" if whole else "multi_label_classification"
        problem_type = "regression" if num_labels == 1 else problem_type
    if problem_type == "single_label_classification":
        check_class_labels("labels", labels, num_labels, "num_labels", (batch,))
    else:
        check_targets("labels", labels, num_labels, problem_type, batch)
    return problem_type


def check_answer_positions(
    name: str, positions: torch.Tensor, shape: tuple[int, int], attention_mask: torch.Tensor | None
) -> None:
    """Check the positions (B,) of the starts or ends of answers, which must not be at padding.

    Positions past the sequence are allowed, and ignored.
    """
    check_integers(name, positions)
    if positions.numel() != shape[0]:
        raise ValueError(f"{name} must have shape ({shape[0]},), got {tuple(positions.shape)}.")
    if not has_values(positions) or positions.numel() == 0:
        return
    index = positions.reshape(-1).long()
    wrong = index < 0
    if isinstance(attention_mask, torch.Tensor) and tuple(attention_mask.shape) == shape:
        token_mask = (attention_mask != 0).to(index.device)
        inside = (index < shape[1]) & token_mask.any(dim=1)
        wrong = wrong | (inside & ~token_mask.gather(1, index.clamp(0, shape[1] - 1)[:, None])[:, 0])
    if bool(wrong.any()):
        value = int(index[wrong][0])
        if value >= 0:
            raise ValueError(f"{name} must not be at padding, got {value}, which is padding in its row.")
        raise ValueError(
            f"{name} must be from 0 to {shape[1] - 1}, or larger for an answer outside the text, got {value}."
        )


def check_zero_shot_labels(labels: torch.Tensor, shape: tuple[int, int]) -> None:
    """Check labels of texts that are compared with C labels: (B, C) from 0 to 1, or -100; or (B,) indices."""
    check_tensor("labels", labels)
    if labels.dim() == 1:
        check_class_labels("labels", labels, shape[1], "number of labels", shape[:1])
        return
    if tuple(labels.shape) != shape:
        raise ValueError(
            f"labels must have shape {shape} with a number from 0 to 1 for each label of each text, or {shape[:1]} "
            f"with the index of its right label, got {tuple(labels.shape)}."
        )
    if has_values(labels):
        outside = (labels != IGNORED) & ((labels < 0) | (labels > 1))
        if bool(outside.any()):
            raise ValueError(
                f"labels must be from 0 to 1, or {IGNORED} to be ignored, got {labels[outside].flatten()[0].item()}."
            )


def check_numbers(name: str, numbers: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Check the numbers (B, S) of the words or labels of tokens."""
    check_integers(name, numbers)
    if tuple(numbers.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(numbers.shape)}.")
    if has_values(numbers) and numbers.numel() and not 0 <= int(numbers.min()) <= int(numbers.max()) <= shape[1]:
        raise ValueError(f"{name} must be from 0 to {shape[1]} (the number of tokens), got {numbers.tolist()}.")


def check_entity_labels(labels: torch.Tensor, num_words: list[int], num_labels: list[int]) -> None:
    """Check the first word, the last word and the label of entities, (B, E, 3), or -100 for rows of no entity."""
    check_integers("labels", labels)
    if labels.dim() != 3 or labels.shape[0] != len(num_words) or labels.shape[2] != 3:
        raise ValueError(
            f"labels must have shape ({len(num_words)}, entities, 3) with the first word, the last word and the label "
            f"of each entity, got {tuple(labels.shape)}."
        )
    for row, (entities, words, kinds) in enumerate(zip(labels.tolist(), num_words, num_labels, strict=True)):
        for entity in entities:
            first, last, label = entity
            if entity != [IGNORED] * 3 and not (0 <= first <= last < words and 0 <= label < kinds):
                raise ValueError(
                    f"labels must be a first word, a last word and a label of a text, or {IGNORED} three times; got "
                    f"{entity} for the text {row}, which has {words} words and {kinds} labels."
                )


def check_num_labels(name: str, config: PreTrainedConfig) -> int:
    """Check that a configuration has at least one label, as classification heads need, and return their number."""
    if config.num_labels is None or config.num_labels < 1:
        raise ValueError(f"{name} needs num_labels >= 1 in its configuration, got {config.num_labels}.")
    return config.num_labels
