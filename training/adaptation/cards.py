"""What the cards of adapted models say: the results of the adaptation, and how to load an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ...cards.card import Training
from ...command_line.counts import counted
from .baselines import BASELINES
from .report import Results

if TYPE_CHECKING:
    from .arguments import AdaptedModelArguments


def complete(
    training: Training, results: Results, origin: str, datasets: Mapping[str, str], task_type: str
) -> Training:
    """Complete the card data of a training run with the results of the adaptation.

    Args:
        training: The data that the `Trainer` knows, which is changed in place.
        results: The results of all training runs.
        origin: The name of the encoder.
        datasets: The name of the dataset of each split.
        task_type: The Hub's name of the task.

    Returns:
        `training`, with the metrics of the test split or, without one, the validation split.
    """
    split = results.reported_split
    without = ", without a label," if results.labelling else ""
    training.data = f"Adapted to {results.task} on {datasets['train']}{without or ','} from {origin}."
    training.progress = None
    training.hyperparameters = {
        **training.hyperparameters,
        **results.found,
        "tuning": results.tuning,
        "trained parameters": f"{results.trained:,} of {results.parameters:,}",
    }
    training.results = [
        EvalResult(
            task_type=task_type,
            dataset_type="local",
            dataset_name=f"{datasets.get(split, datasets['train'])}, {split}",
            metric_type=name,
            metric_value=round(value, 4),
        )
        for name, value in results.kept.metrics[split].items()
        if name != "loss" and results.reported_splits
    ]
    remarks = [str(found["summary"]) for found in (results.labelling, results.unlabelled) if found]
    remarks += [results.choice] if results.choice else []
    remarks += [f"{warning[0].upper()}{warning[1:]}" for warning in results.warnings()]
    if results.label_errors.get("suspicious"):
        checked = counted(results.label_errors["checked"], "label")
        remarks.append(f"{results.label_errors['suspicious']:,} of {checked} of the training examples look wrong.")
    compared = [
        f"{BASELINES[name].head} {found[split][results.metric]:.4g}"
        for name, found in results.baselines.items()
        if results.metric in found.get(split, {}) and results.reported_splits
    ]
    if compared:
        remarks.append(f"Baselines, by {results.metric} on the {split} examples: {'; '.join(compared)}.")
    if len(results.trainings) > 1 and results.reported_splits:
        summary = ", ".join(f"{name} {mean:.4f} ± {sd:.4f}" for name, (mean, sd) in results.spread()[split].items())
        kept = "the best of" if results.average is None else "the average of the weights of"
        selected = "" if results.average else ", selected on the validation examples"
        remarks.append(
            f"This is {kept} {len(results.trainings)} training runs with different seeds{selected}. Mean and standard "
            f"deviation of all: {summary}."
        )
    training.remarks = " ".join(remarks) or None
    return training


def adapter_card(
    auto_class: str,
    arguments: AdaptedModelArguments,
    labels: list[str],
    with_base: bool,
    inside: bool,
    training: Training,
    fields: Mapping[str, Any],
) -> ModelCard:
    """Build the card of a PEFT adapter.

    Args:
        auto_class: The Auto class of the adapted model.
        arguments: The arguments of the adaptation.
        labels: The labels in the order of the outputs.
        with_base: Whether the encoder is in `base`, next to the adapter's folder.
        inside: Whether the card goes into the adapter's folder rather than its parent.
        training: The data and results of the training.
        fields: The fields of the encoder's card that also apply to the adapter.

    Returns:
        The card.
    """
    origin, adapter = "../base" if inside else "base", "." if inside else "adapter"
    if not with_base:
        origin = arguments.model
    of_the_hub = not Path(arguments.model).exists()
    data = ModelCardData(
        library_name="peft",
        base_model=arguments.model if of_the_hub else None,
        tags=["sequence-encoder", arguments.tuning],
        **fields,
    )
    options = f", id2label={dict(enumerate(labels))!r}" if labels else ""
    subfolders = "subfolder='base' and subfolder='adapter'" if with_base else "subfolder='adapter'"
    rows = "\n".join(f"| {result.metric_type} | {result.metric_value} |" for result in training.results)
    return ModelCard(
        f"""---
{data.to_yaml()}
---

# An adapter for {arguments.task}

{training.data} Trained with PEFT ({arguments.tuning}).{f" {training.remarks}" if training.remarks else ""}

```python
import sequence_encoder
from peft import PeftModel
from transformers import {auto_class}

# Paths are relative to the folder of this card. For a Hub repository, pass its name with
# {subfolders}.
encoder = {auto_class}.from_pretrained({origin!r}{options})
model = PeftModel.from_pretrained(encoder, {adapter!r})
```

| metric | value |
|---|---|
{rows}
"""
    )
