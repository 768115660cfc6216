"""What an adaptation leaves beside its model: the metrics of all trainings, and what the model card says."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..hub.model_card import Training

if TYPE_CHECKING:
    from .adaptation_arguments import AdaptedModelArguments


@dataclass
class Result:
    """One training.

    Attributes:
        seed: of the head, the order and dropout.
        metrics: of each split by their names.
        seconds: of training.
        score: by which the best of several is chosen; larger is better.
    """

    seed: int
    metrics: dict[str, dict[str, float]]
    seconds: float
    score: float


@dataclass
class Results:
    """All trainings of a run.

    Attributes:
        task: its name.
        tuning: how.
        parameters: of the model.
        trained: how many of them were trained.
        found: hyper-parameters that a search has chosen.
        trainings: with a seed each.
        peak_memory: the most bytes that this process had in use.
    """

    task: str
    tuning: str
    parameters: int = 0
    trained: int = 0
    found: dict[str, Any] = field(default_factory=dict)
    trainings: list[Result] = field(default_factory=list)
    peak_memory: int = 0

    @property
    def best(self) -> Result:
        """The training whose model is kept: of equals the one with the smaller loss."""
        loss = [result.metrics["validation"].get("loss", 0.0) for result in self.trainings]
        return self.trainings[max(range(len(loss)), key=lambda i: (self.trainings[i].score, -loss[i]))]

    def spread(self) -> dict[str, dict[str, tuple[float, float]]]:
        """(mean, standard deviation) of each metric of each split."""
        spread: dict[str, dict[str, tuple[float, float]]] = {}
        for split, metrics in self.trainings[0].metrics.items():
            for name in metrics:
                values = [result.metrics[split][name] for result in self.trainings]
                deviation = statistics.stdev(values) if len(values) > 1 else 0.0
                spread.setdefault(split, {})[name] = (statistics.mean(values), deviation)
        return spread

    @classmethod
    def read(cls, file: Path) -> Results:
        """The finished trainings of an interrupted run."""
        fields = json.loads(file.read_text(encoding="utf-8"))
        return cls(**{**fields, "trainings": [Result(**result) for result in fields["trainings"]]})

    def as_record(self) -> str:
        """What `read` reads."""
        return json.dumps(asdict(self))

    def as_json(self) -> str:
        """All of it."""
        told = {
            "task": self.task,
            "tuning": self.tuning,
            "parameters": self.parameters,
            "trained_parameters": self.trained,
            "seconds": [round(result.seconds, 1) for result in self.trainings],
            "peak_memory": self.peak_memory,
            "hyperparameters_found": self.found,
            "seeds": [result.seed for result in self.trainings],
            "kept_seed": self.best.seed,
            "metrics": {
                split: {
                    name: {
                        "mean": mean,
                        "deviation": deviation,
                        "values": [result.metrics[split][name] for result in self.trainings],
                    }
                    for name, (mean, deviation) in metrics.items()
                }
                for split, metrics in self.spread().items()
            },
        }
        return json.dumps(told, indent=1)

    def as_text(self) -> str:
        """A table for the console."""
        lines = []
        for split, metrics in self.spread().items():
            for name, (mean, deviation) in metrics.items():
                several = f" ± {deviation:.4f}" if len(self.trainings) > 1 else ""
                lines.append(f"{split:<11} {name:<24} {mean:.4f}{several}")
        seconds = statistics.mean(result.seconds for result in self.trainings)
        lines.append(f"{self.trained:,} of {self.parameters:,} parameters trained in {seconds:.0f} s")
        return "\n".join(lines)


def complete(
    training: Training, results: Results, origin: str, datasets: Mapping[str, str], task_type: str
) -> Training:
    """What is known of a training, with the metrics of this run: of the test split, if there is one.

    Args:
        training: what the `Trainer` knows.
        results: of all trainings.
        origin: the name of the encoder.
        datasets: the names of the examples of each split.
        task_type: the Hub's name of what the model does.
    """
    split = "test" if "test" in results.best.metrics else "validation"
    training.data = f"Adapted to {results.task} on {datasets['train']}, from {origin}."
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
        for name, value in results.best.metrics[split].items()
        if name != "loss"
    ]
    if len(results.trainings) > 1:
        told = ", ".join(f"{name} {mean:.4f} ± {sd:.4f}" for name, (mean, sd) in results.spread()[split].items())
        training.remarks = (
            f"Of {len(results.trainings)} trainings with different seeds this is the best by the validation examples; "
            f"all of them: {told}."
        )
    return training


def adapter_card(
    auto_class: str, arguments: AdaptedModelArguments, labels: list[str], with_base: bool, training: Training
) -> ModelCard:
    """The card of what peft has trained, alone.

    Args:
        auto_class: of the model that it adapts.
        arguments: what was trained.
        labels: in the order of the outputs.
        with_base: whether the encoder lies in `base`, beside the adapter's folder.
        training: how it went.
    """
    origin = "../base" if with_base else arguments.from_checkpoint
    of_the_hub = not Path(arguments.from_checkpoint).exists()
    data = ModelCardData(
        library_name="peft",
        base_model=arguments.from_checkpoint if of_the_hub else None,
        tags=["sequence-encoder", arguments.tuning],
    )
    options = f", id2label={dict(enumerate(labels))!r}" if labels else ""
    rows = "\n".join(f"| {result.metric_type} | {result.metric_value} |" for result in training.results)
    return ModelCard(
        f"""---
{data.to_yaml()}
---

# An adapter for {arguments.task}

{training.data} Trained with peft, as {arguments.tuning}.

```python
import sequence_encoder
from peft import PeftModel
from transformers import {auto_class}

# The paths are those from this folder.
encoder = {auto_class}.from_pretrained({origin!r}{options})
model = PeftModel.from_pretrained(encoder, ".")
```

| metric | value |
|---|---|
{rows}
"""
    )


def metrics_of(found: Mapping[str, float], prefix: str) -> dict[str, float]:
    """The metrics among what an evaluation returns, without its prefix."""
    times = ("runtime", "samples_per_second", "steps_per_second", "epoch", "model_preparation_time")
    names = {name.removeprefix(f"{prefix}_"): float(value) for name, value in found.items() if name.startswith(prefix)}
    return {name: value for name, value in names.items() if name not in times}
