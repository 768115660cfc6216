"""Checks fields that all configurations of transformers share, before transformers uses them."""

# No `from __future__ import annotations` here, for the same reason as in the configurations.
from collections.abc import Mapping
from typing import Any

from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

from ..saving.loading import check_dtype

logger = logging.get_logger(__name__)

# Transformers makes a dictionary entry for each label: many more would exhaust the memory before any weight exists.
MAX_LABELS = 10_000_000


class CheckedConfig(PreTrainedConfig):
    """A configuration that refuses an invalid `dtype`, `id2label` or `num_labels`."""

    def __post_init__(self, **kwargs: Any) -> None:
        for name, value in (("dtype", self.dtype), ("torch_dtype", kwargs.get("torch_dtype"))):
            check_dtype(name, value)
        if self.id2label is not None:
            _check_id2label(self.id2label)
        super().__post_init__(**kwargs)

    @property
    def num_labels(self) -> int | None:
        """Number of labels in `id2label`, as in transformers."""
        return super().num_labels

    @num_labels.setter
    def num_labels(self, num_labels: int) -> None:
        check_number_of_labels("num_labels", num_labels)
        # Python has no `super().num_labels = ...`.
        PreTrainedConfig.num_labels.fset(self, num_labels)  # type: ignore[attr-defined]


def check_number_of_labels(name: str, number: Any) -> None:
    """Check that a number of labels is an integer from 0 to `MAX_LABELS`."""
    if not isinstance(number, int) or not 0 <= number <= MAX_LABELS:
        raise ValueError(f"{name} must be an integer from 0 to {MAX_LABELS:,}, got {number!r}.")


def _check_id2label(id2label: Any) -> None:
    if not isinstance(id2label, Mapping):
        raise ValueError(f"id2label must be a dict from indices to names, got a {type(id2label).__name__}.")
    check_number_of_labels("The length of id2label", len(id2label))
    for key in id2label:
        try:
            index = int(key)
        except (TypeError, ValueError):
            index = -1
        if not 0 <= index < MAX_LABELS:
            raise ValueError(f"id2label has the index {key!r}; indices must be integers from 0 to {MAX_LABELS - 1:,}.")
    if missing := sorted(set(range(len(id2label))) - {int(key) for key in id2label}):
        logger.warning(f"id2label has {len(id2label)} labels, but none for the index {missing[0]}.")
