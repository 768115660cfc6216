"""Train a `TaskAdapter`: encode each text once, and train a linear classifier on the vectors.

Shapes: B batch, S sequence, D hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, cast

import torch
from torch.utils.data import DataLoader
from transformers.utils import logging

from ..data.argument_checks import check_count
from ..modeling.attention.masks import mask_of_padding
from ..modeling.checks import check_tensor
from ..modeling.heads.task_adapter import TaskAdapter
from ..modeling.label_checks import check_classification_labels


def train_adapted_model(
    model: TaskAdapter,
    train_loader: DataLoader[Any],
    epochs: int,
    learning_rate: float,
) -> list[float]:
    """Train the classifier of a `TaskAdapter` with AdamW, and print the mean loss of each epoch.

    Training uses Accelerate, with the available device and the processes that `accelerate launch` starts. The
    frozen encoder always gives a text the same vector, so each process encodes a text once and keeps its vector in
    memory.

    Args:
        model: The model, which is trained in place and moved to the device.
        train_loader: The loader, which must yield batches of tensors in one of these forms:

            - `(input_ids, attention_mask, targets)`, with shapes (B, S), (B, S) and (B,);
            - `(input_ids, targets)`;
            - a dictionary of inputs with `labels` or `label`, such as the data collators of transformers return;
            - `(inputs, targets)`, where `inputs` is such a dictionary.

            In a batch without `attention_mask`, padding is where `input_ids` equal the `pad_token_id` of the encoder's
            configuration. Without that id, there is no padding.
        epochs: The number of passes over the loader.
        learning_rate: The learning rate of AdamW.

    Returns:
        The mean loss of each epoch.

    Raises:
        ValueError: If an argument is invalid, or a batch has an unsupported form.
    """
    # Imported here because the package exports this function, and models do not need Accelerate.
    from accelerate import Accelerator

    _check(model, train_loader, epochs, learning_rate)
    accelerator = Accelerator()
    optimizer = torch.optim.AdamW(model.classifier.parameters(), lr=learning_rate)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    loader = accelerator.prepare_data_loader(train_loader)
    known: dict[bytes, torch.Tensor] = {}
    losses = []
    prepared.train()
    for epoch in range(epochs):
        # (sum of losses, number of texts)
        total = torch.zeros(2, device=accelerator.device)
        shows_progress = accelerator.is_main_process and logging.get_verbosity() <= logging.WARNING
        bar = logging.tqdm(loader, desc=f"epoch {epoch + 1} of {epochs}", leave=False, disable=not shows_progress)
        for batch in bar:
            if batch is None:
                break  # Older releases of Accelerate yield None if there are no batches.
            inputs, labels = _split(batch, model)
            check_classification_labels(labels, model.config.problem_type, model.classifier.out_features, len(labels))
            loss = prepared(features=_features(model, inputs, known), labels=labels).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            total += torch.stack([loss.detach() * len(labels), torch.tensor(float(len(labels)), device=loss.device)])
        total = cast(torch.Tensor, accelerator.reduce(total))
        if not total[1]:
            raise ValueError("train_loader must yield at least one batch, got none.")
        losses.append(float(total[0] / total[1]))
        accelerator.print(f"epoch {epoch + 1} of {epochs}: mean loss {losses[-1]:.4f}")
    return losses


def _features(model: TaskAdapter, inputs: Mapping[str, torch.Tensor], known: dict[bytes, torch.Tensor]) -> torch.Tensor:
    """Return the vectors (B, D) of a batch, and add those of new texts to `known`."""
    keys = _keys(inputs)
    new = [index for index, key in enumerate(keys) if key not in known]
    if new:
        vectors = model.features(**{name: tensor[new] for name, tensor in inputs.items()}).detach()
        vectors = vectors.to("cpu", torch.promote_types(vectors.dtype, torch.float32))
        known.update(zip((keys[index] for index in new), vectors, strict=True))
    return torch.stack([known[key] for key in keys]).to(inputs["input_ids"].device)


def _keys(inputs: Mapping[str, torch.Tensor]) -> list[bytes]:
    """Return a key for each text of a batch that does not depend on the padding after the text.

    Padding and masked tokens before the last token are part of the key, because they can shift positions.
    """
    arrays: dict[str, Any] = {name: inputs[name].detach().cpu().numpy() for name in sorted(inputs)}
    mask = arrays.get("attention_mask")
    keys = []
    for index in range(len(inputs["input_ids"])):
        digest = blake2b(digest_size=16)
        end = None if mask is None else int(max(mask[index].nonzero()[0], default=-1)) + 1
        for name, values in arrays.items():
            digest.update(name.encode())
            digest.update(values[index][:end].tobytes())
        keys.append(digest.digest())
    return keys


def _check(model: TaskAdapter, train_loader: DataLoader[Any], epochs: int, learning_rate: float) -> None:
    if not isinstance(model, TaskAdapter):
        raise ValueError(f"model must be a TaskAdapter, got a {type(model).__name__}; wrap it: TaskAdapter(model).")
    if not isinstance(train_loader, DataLoader):
        raise ValueError(f"train_loader must be a torch DataLoader, got a {type(train_loader).__name__}.")
    check_count(epochs, "epochs")
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be above 0, got {learning_rate}.")


def _split(batch: Any, model: TaskAdapter) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Split a batch into the encoder's inputs, with a mask if padding can be inferred, and the labels."""
    inputs: dict[str, Any]
    if isinstance(batch, Mapping):
        inputs = dict(batch)
        labels = inputs.pop("labels", inputs.pop("label", None))
        if labels is None:
            raise ValueError(f"train_loader must yield labels, got {', '.join(inputs)}.")
    elif isinstance(batch, list | tuple) and len(batch) in (2, 3):
        *given, labels = batch
        if len(given) == 1 and isinstance(given[0], Mapping):
            inputs = dict(given[0])
        else:
            inputs = dict(zip(("input_ids", "attention_mask"), given, strict=False))
    else:
        got = f"{len(batch)} values" if isinstance(batch, list | tuple) else f"a {type(batch).__name__}"
        raise ValueError(
            "train_loader must yield dictionaries, (input_ids, attention_mask, targets), (input_ids, targets) or "
            f"(inputs, targets), got {got}."
        )
    ids: Any = inputs.get("input_ids")
    mask = inputs.pop("attention_mask", None)
    check_tensor("input_ids", ids)
    if mask is None:
        mask = mask_of_padding(ids, model.encoder.config.pad_token_id)
    return {**inputs, **({} if mask is None else {"attention_mask": _checked_mask(mask, ids)})}, labels


def _checked_mask(mask: Any, ids: torch.Tensor) -> torch.Tensor:
    """Convert a mask of any type to integers."""
    check_tensor("attention_mask", mask)
    if mask.shape != ids.shape:
        raise ValueError(
            f"attention_mask must have the shape of input_ids, {tuple(ids.shape)}, got {tuple(mask.shape)}."
        )
    whole = mask.long()
    if not torch.equal(whole.to(mask.dtype), mask) or bool(((whole != 0) & (whole != 1)).any()):
        raise ValueError(
            f"attention_mask must be 0 at padding and 1 elsewhere, got values from {mask.min()} to {mask.max()}."
        )
    return whole
