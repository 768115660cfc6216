"""Computes what the last layer of a model gets from its frozen encoder: the vectors of texts or tokens.

Shapes: N texts, or tokens with a label; D hidden.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader

from ...command_line.progress import Progress
from ...modeling.label_checks import IGNORED

Array = npt.NDArray[Any]


@torch.no_grad()
def frozen_vectors(model: Any, inputs: Any, collator: Callable[..., Any], args: Any) -> tuple[Array, Array]:
    """Run a model without dropout, and collect the inputs of its `classifier`.

    Args:
        model: The model, on any device.
        inputs: The encoded examples with their `labels`.
        collator: Makes batches of them.
        args: The arguments of the training: device, batch size and precision.

    Returns:
        The vectors (N, D), and their labels. Tokens without a label are left out.
    """
    found: list[torch.Tensor] = []
    hook = model.classifier.register_forward_pre_hook(lambda layer, given: found.append(given[0]))
    vectors, labels = [], []
    model.to(args.device).eval()
    # `Trainer` drops columns that the model does not take, too.
    taken = {*inspect.signature(model.forward).parameters, "labels"}
    inputs = inputs.remove_columns([name for name in inputs.column_names if name not in taken])
    # Texts of similar lengths need less padding.
    order = np.argsort([len(ids) for ids in inputs["input_ids"]], kind="stable")
    loader: Any = DataLoader(inputs.select(order), batch_size=args.per_device_eval_batch_size, collate_fn=collator)
    show = not args.disable_tqdm and args.process_index == 0
    try:
        with Progress("Encoding", len(inputs), "text", show=show) as progress:
            for batch in loader:
                known = batch.pop("labels")
                with torch.autocast(args.device.type, torch.bfloat16, enabled=bool(args.bf16)):
                    model(**{name: tensor.to(args.device) for name, tensor in batch.items()})
                given = found.pop().float().cpu()
                if given.dim() == 3:
                    kept = known != IGNORED
                    given, known = given[kept], known[kept]
                vectors.append(given.numpy())
                labels.append(known.numpy())
                progress.update(len(batch["input_ids"]))
    finally:
        hook.remove()
    stacked, known = np.concatenate(vectors), np.concatenate(labels)
    if len(stacked) != len(inputs):
        return stacked, known  # of tokens
    back = np.argsort(order)
    return stacked[back], known[back]
