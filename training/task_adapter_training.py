"""Training of a `TaskAdapter`: each text is encoded once, and every further epoch is one of a linear classifier.

Shapes: B batch, S sequence, D hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch.utils.data import DataLoader
from transformers.utils import logging

from ..modeling.checks import check_classification_labels
from ..modeling.task_adapter import TaskAdapter
from .feature_cache import FeatureCache


def train_adapted_model(
    model: TaskAdapter,
    train_loader: DataLoader[Any],
    epochs: int,
    learning_rate: float,
    *,
    memory_bytes: int = 2**30,
    disk_bytes: int = 2**34,
) -> list[float]:
    """Trains the classifier of a `TaskAdapter` with AdamW, and reports the mean loss of each epoch.

    On Accelerate: on whatever device there is, and in as many processes as `accelerate launch` starts. The encoder is
    frozen and gives a text the same vector each time, so that what was encoded is kept, by its tokens: the result is
    that of encoding again, however the loader shuffles.

    Args:
        model: is trained in place, and moved to the device.
        train_loader: gives dictionaries of tensors, with `labels` (B,), or `label`, among them, as data collators of
            transformers make them; or pairs of inputs and labels.
        epochs: how often the loader is gone through.
        learning_rate: of AdamW.
        memory_bytes: of vectors that each process keeps in memory.
        disk_bytes: of those that it keeps on the disk beyond that; what fits neither is encoded again each time.

    Returns:
        The mean loss of each epoch.

    Raises:
        ValueError: for arguments that are not allowed, or a batch without labels.
    """
    # Not at the top, since the package shows this function where only models are needed.
    from accelerate import Accelerator

    _check(model, epochs, learning_rate)
    accelerator = Accelerator()
    optimizer = torch.optim.AdamW(model.classifier.parameters(), lr=learning_rate)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    loader = accelerator.prepare_data_loader(train_loader)
    cache = FeatureCache(lambda inputs: model.features(**inputs), memory_bytes, disk_bytes)
    losses = []
    prepared.train()
    try:
        for epoch in range(epochs):
            # (sum of losses, number of texts)
            total = torch.zeros(2, device=accelerator.device)
            bar = logging.tqdm(
                loader, desc=f"epoch {epoch + 1} of {epochs}", leave=False, disable=not _shows(accelerator)
            )
            for batch in bar:
                inputs, labels = _split(batch)
                check_classification_labels(labels, model.config, model.classifier.out_features, len(labels))
                loss = prepared(features=cache(inputs), labels=labels).loss
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                total += torch.stack(
                    [loss.detach() * len(labels), torch.tensor(float(len(labels)), device=loss.device)]
                )
            total = cast(torch.Tensor, accelerator.reduce(total))
            losses.append(float(total[0] / total[1]))
            accelerator.print(f"epoch {epoch + 1} of {epochs}: mean loss {losses[-1]:.4f}")
    finally:
        cache.close()
    return losses


def _check(model: TaskAdapter, epochs: int, learning_rate: float) -> None:
    if not isinstance(model, TaskAdapter):
        raise ValueError(f"model must be a TaskAdapter, got a {type(model).__name__}; make one of it: TaskAdapter(it).")
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}.")
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be above 0, got {learning_rate}.")


def _split(batch: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The inputs of the encoder and the labels.

    Raises:
        ValueError: if there are no labels.
    """
    if isinstance(batch, Mapping):
        inputs = dict(batch)
        labels = inputs.pop("labels", inputs.pop("label", None))
    elif isinstance(batch, list | tuple) and len(batch) == 2 and isinstance(batch[0], Mapping):
        inputs, labels = dict(batch[0]), batch[1]
    else:
        raise ValueError(f"train_loader must give dictionaries, or pairs of inputs and labels, got {type(batch)}.")
    if labels is None:
        raise ValueError(f"train_loader must give labels, got {', '.join(inputs)}.")
    return inputs, labels


def _shows(accelerator: Any) -> bool:
    return accelerator.is_main_process and logging.get_verbosity() <= logging.WARNING
