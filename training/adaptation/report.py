"""What an adaptation leaves beside its model: the metrics of all trainings, and what the model card says."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ...hub.card import Training
from ...saving.whole_folders import write_whole

if TYPE_CHECKING:
    from .arguments import AdaptedModelArguments


class _Baseline(NamedTuple):
    """What the console calls a baseline: in the head of the table, and in a sentence."""

    head: str
    in_words: str


_BASELINES = {
    "before_training": _Baseline("before training", "before training"),
    "constant_answer": _Baseline("constant answer", "for always giving the same answer"),
}
# A picture with more of them cannot be read.
_MOST_LABELS = 40


@dataclass
class Result:
    """One training.

    Attributes:
        seed: of the head, the order and dropout.
        metrics: of each split by their names.
        seconds: of training.
        score: by which the best of several is chosen; larger is better.
        training: the fields of `Training` that the `Trainer` knows, for the model card.
        confusion: how often each label (rows) is taken for each other one (columns), in the test examples if there are
            any, else in those for validation.
    """

    seed: int
    metrics: dict[str, dict[str, float]]
    seconds: float
    score: float
    training: dict[str, Any]
    confusion: list[list[int]] | None = None


@dataclass
class Judgement:
    """How a model does on the examples of a split.

    Attributes:
        metrics: by their names.
        answers: to each example.
        confusion: as of `Result`.
    """

    metrics: dict[str, float]
    answers: list[Any]
    confusion: list[list[int]] | None = None


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
        baselines: the metrics of each split before the training and, where the task has such an answer, for always
            giving the same one: the most frequent label, or the mean of numbers.
        metric: the one by which weights and models are chosen.
        labels: the names of the classes, in the order of `Result.confusion`.
        cut: what `--max_length` leaves out of the texts of each split.
        peak_memory: the most bytes that this process had in use.
        run: a digest of what was asked for, by which a finished run is known.
    """

    task: str
    tuning: str
    parameters: int = 0
    trained: int = 0
    found: dict[str, Any] = field(default_factory=dict)
    trainings: list[Result] = field(default_factory=list)
    baselines: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    metric: str = "loss"
    labels: list[str] = field(default_factory=list)
    cut: dict[str, dict[str, int]] = field(default_factory=dict)
    peak_memory: int = 0
    run: str = ""

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
            "run": self.run,
            "texts_cut": self.cut,
            "baselines": self.baselines,
            "warnings": self.warnings(),
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
        if self.best.confusion is not None:
            told["confusion_matrix"] = {
                "split": self.judged_split,
                "labels": self.labels,
                "rows": "labels of the examples",
                "columns": "labels of the model",
                "counts": self.best.confusion,
            }
        return json.dumps(told, indent=1)

    @property
    def judged_split(self) -> str:
        """The split that says how good the model is."""
        return "test" if "test" in self.best.metrics else "validation"

    def warnings(self) -> list[str]:
        """What a user would want to know before using the model."""
        metric, found = self.metric, self.best.metrics["validation"]
        if math.isnan(found[metric]):
            return [
                f"{metric} on the validation examples is not a number, so that nothing tells how good the model is: "
                "they are too few, or all answers are the same."
            ]
        # The score is the value of the metric, or less it where less is better; zero has a sign as well.
        sign = math.copysign(1, self.best.score) * math.copysign(1, found[metric])
        warnings = []
        for name, splits in self.baselines.items():
            value = splits["validation"].get(metric)
            if value is not None and self.best.score <= sign * value:
                warnings.append(
                    f"{metric} on the validation examples is {found[metric]:.4g}, and {value:.4g} "
                    f"{_BASELINES[name].in_words}: the training has not helped."
                )
        before = self.baselines.get("before_training", {}).get("validation", {}).get("loss", math.inf)
        if found.get("loss", 0.0) > before:
            warnings.append(
                f"the loss on the validation examples is {found['loss']:.4g}, and {before:.4g} before training; try a "
                "lower --learning_rate, or fewer epochs."
            )
        return warnings

    def as_text(self) -> str:
        """A table for the console."""
        rows = [["", "", "trained", *(_BASELINES[name].head for name in self.baselines)]]
        for split, metrics in self.spread().items():
            for name, (mean, deviation) in metrics.items():
                several = f" ± {deviation:.4f}" if len(self.trainings) > 1 else ""
                others = (splits.get(split, {}).get(name) for splits in self.baselines.values())
                rows.append([split, name, f"{mean:.4f}{several}", *("" if x is None else f"{x:.4f}" for x in others)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        seconds = statistics.mean(result.seconds for result in self.trainings)
        lines.append(f"{self.trained:,} of {self.parameters:,} parameters trained in {seconds:.0f} s")
        return "\n".join([*lines, *(f"Warning: {warning}" for warning in self.warnings())])


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
    split = results.judged_split
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
    remarks = [f"{warning[0].upper()}{warning[1:]}" for warning in results.warnings()]
    if len(results.trainings) > 1:
        told = ", ".join(f"{name} {mean:.4f} ± {sd:.4f}" for name, (mean, sd) in results.spread()[split].items())
        remarks.append(
            f"Of {len(results.trainings)} trainings with different seeds this is the best by the validation examples; "
            f"all of them: {told}."
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
    """The card of what peft has trained, alone.

    Args:
        auto_class: of the model that it adapts.
        arguments: what was trained.
        labels: in the order of the outputs.
        with_base: whether the encoder lies in `base`, beside the adapter's folder.
        inside: whether the card lies in the adapter's folder, and not in the one around it.
        training: how it went.
        fields: of the encoder's card, which hold for the adapter too.
    """
    origin, adapter = "../base" if inside else "base", "." if inside else "adapter"
    if not with_base:
        origin = arguments.from_checkpoint
    of_the_hub = not Path(arguments.from_checkpoint).exists()
    data = ModelCardData(
        library_name="peft",
        base_model=arguments.from_checkpoint if of_the_hub else None,
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

{training.data} Trained with peft, as {arguments.tuning}.{f" {training.remarks}" if training.remarks else ""}

```python
import sequence_encoder
from peft import PeftModel
from transformers import {auto_class}

# The paths are those from the folder of this card. For a repository of the Hub, give its name, with
# {subfolders}.
encoder = {auto_class}.from_pretrained({origin!r}{options})
model = PeftModel.from_pretrained(encoder, {adapter!r})
```

| metric | value |
|---|---|
{rows}
"""
    )


def plot_confusion(results: Results, file: Path) -> None:
    """Draw the confusion matrix of the kept model as a PNG, if the task has one and its labels fit into a picture."""
    counts = results.best.confusion
    if counts is None or len(counts) > _MOST_LABELS:
        return
    from matplotlib.figure import Figure

    size = 2.5 + 0.45 * len(counts)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    # The colour is the share of the examples with this label.
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, of_row in enumerate(counts):
        for column, count in enumerate(of_row):
            shade = "white" if shares[row][column] > 0.5 else "black" if count else "silver"
            axes.text(column, row, str(count), ha="center", va="center", color=shade)
    axes.set_xticks(range(len(counts)), _short(results.labels), rotation=45, rotation_mode="anchor", ha="right")
    axes.set_yticks(range(len(counts)), _short(results.labels))
    axes.set_xlabel("label of the model")
    axes.set_ylabel(f"label of the {results.judged_split} example")
    figure.savefig(file, dpi=150)


def _short(labels: Sequence[str]) -> list[str]:
    """The labels, long ones without their middle, and numbered where nothing else would tell them apart."""
    # Dollar signs begin a formula.
    short = [(label if len(label) <= 24 else f"{label[:15]}…{label[-8:]}").replace("$", r"\$") for label in labels]
    times = Counter(short)
    return [f"{label} ({index})" if times[label] > 1 else label for index, label in enumerate(short)]


@contextmanager
def decorating(what: str) -> Iterator[None]:
    """Let nothing that decorates a finished model fail the run: warn, and go on."""
    try:
        yield
    except Exception as error:
        print(f"Warning: {what} could not be written ({error!r}); the model is saved.", file=sys.stderr)


def write_predictions(file: Path, rows: Any, answers: Sequence[Any]) -> None:
    """Write the columns of examples, and `prediction`, as JSON Lines."""
    lines = (
        json.dumps({**row, "prediction": answer}, ensure_ascii=False, default=str) + "\n"
        for row, answer in zip(rows, answers, strict=True)
    )
    write_whole(file, lines)


def metrics_of(found: Mapping[str, float], prefix: str) -> dict[str, float]:
    """The metrics among what an evaluation returns, without its prefix."""
    times = ("runtime", "samples_per_second", "steps_per_second", "epoch", "model_preparation_time")
    names = {name.removeprefix(f"{prefix}_"): float(value) for name, value in found.items() if name.startswith(prefix)}
    return {name: value for name, value in names.items() if name not in times}
