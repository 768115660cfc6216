"""The results of an adaptation: metrics, warnings, predictions, and a picture of the confusion matrix."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...saving.whole_folders import write_atomically
from .baselines import BASELINES

# A picture of a confusion matrix with more labels is illegible.
_MAX_LABELS = 40


@dataclass
class Result:
    """The results of one training run.

    Attributes:
        seed: The seed of the head, the data order and dropout.
        metrics: The metrics of each split, by name.
        seconds: The duration of the training.
        score: The value that selects the best training run; larger is better.
        training: The fields of `Training` that the `Trainer` knows, for the model card.
        confusion: The confusion matrix, with true labels as rows and predicted labels as columns, on the test examples
            or, without them, on the validation examples.
        by_label: The metrics of each label on the same examples, for tasks that have them.
    """

    seed: int
    metrics: dict[str, dict[str, float]]
    seconds: float
    score: float
    training: dict[str, Any]
    confusion: list[list[int]] | None = None
    by_label: dict[str, dict[str, float]] | None = None


@dataclass
class Evaluation:
    """The evaluation of a model on the examples of a split, with more that `Result` describes.

    Attributes:
        metrics: The metrics.
        answers: Returns the answers of the model, and may compute them, so that the model must not change before it.
        seconds: The duration of the evaluation.
    """

    metrics: dict[str, float]
    answers: Callable[[], list[Any]]
    confusion: list[list[int]] | None = None
    by_label: dict[str, dict[str, float]] | None = None
    seconds: float = 0.0


@dataclass
class Results:
    """The results of all training runs of an adaptation.

    Attributes:
        task: The name of the task.
        tuning: The tuning method.
        masked: Whether half of the texts had masks in training.
        parameters: The number of parameters of the model.
        trained: The number of trained parameters.
        found: The hyperparameters that a search found, or that `--seconds` leaves time for.
        trainings: One result per seed.
        baselines: The metrics of each split before training and, for tasks that have them, of a constant answer (the
            most frequent label, or the mean of the numbers) and of a linear model of TF-IDF.
        metric: The metric that selects weights and models.
        labels: The names of the classes, in the order of `Result.confusion`.
        cut: How many texts and tokens of each split `--max_length` truncates.
        peak_memory: The peak memory of this process in bytes.
        calibration: What `calibration.json` says about the kept model, empty without a calibration.
        run: A digest of the arguments and examples that identifies a finished run.
        average: The result of the model with the averaged weights of all training runs, if there is one.
        choice: Why `--tuning auto` trained all weights, or only the head.
        label_errors: How many labels of the training examples look wrong, empty if they were not checked.
        labelling: What is known about the labels of texts that had none. The metrics of the validation split are then
            about these labels, and not reported.
        unlabelled: Whether more texts without labels helped, empty if there were none.
        made_pairs: The number of texts and of pairs in each split whose pairs were made from texts. The metrics of
            these splits are about such pairs.
        searched: The number of texts among which evaluations of embeddings search, or None if they do not.
    """

    task: str
    tuning: str
    masked: bool = False
    parameters: int = 0
    trained: int = 0
    found: dict[str, Any] = field(default_factory=dict)
    trainings: list[Result] = field(default_factory=list)
    baselines: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    metric: str = "loss"
    labels: list[str] = field(default_factory=list)
    cut: dict[str, dict[str, int]] = field(default_factory=dict)
    peak_memory: int = 0
    calibration: dict[str, Any] = field(default_factory=dict)
    run: str = ""
    average: Result | None = None
    choice: str = ""
    label_errors: dict[str, Any] = field(default_factory=dict)
    labelling: dict[str, Any] = field(default_factory=dict)
    unlabelled: dict[str, Any] = field(default_factory=dict)
    made_pairs: dict[str, dict[str, int]] = field(default_factory=dict)
    searched: int | None = None

    @property
    def kept(self) -> Result:
        """The result of the model that is kept: the average, if there is one, else the best."""
        return self.average or self.best

    @property
    def best(self) -> Result:
        """The best training run. Ties go to the smaller loss."""
        loss = [result.metrics["validation"].get("loss", 0.0) for result in self.trainings]
        return self.trainings[max(range(len(loss)), key=lambda i: (self.trainings[i].score, -loss[i]))]

    def spread(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Compute the mean and the standard deviation of each metric of each split."""
        spread: dict[str, dict[str, tuple[float, float]]] = {}
        for split in self.reported_splits:
            for name in self.trainings[0].metrics[split]:
                values = [result.metrics[split][name] for result in self.trainings]
                deviation = statistics.stdev(values) if len(values) > 1 else 0.0
                spread.setdefault(split, {})[name] = (statistics.mean(values), deviation)
        return spread

    @classmethod
    def read(cls, file: Path) -> Results:
        """Read the finished training runs of an interrupted adaptation."""
        fields = json.loads(file.read_text(encoding="utf-8"))
        average = None if fields.get("average") is None else Result(**fields["average"])
        trainings = [Result(**result) for result in fields["trainings"]]
        return cls(**{**fields, "trainings": trainings, "average": average})

    def as_record(self) -> str:
        """Serialise the results for `read`."""
        return json.dumps(asdict(self))

    def as_json(self) -> str:
        """Serialise the results for `results.json`."""
        record = {
            "task": self.task,
            "tuning": self.tuning,
            **({"choice_of_tuning": self.choice} if self.choice else {}),
            **({"labelling": {**self.labelling, "repeated_by_the_model": self.repeated}} if self.labelling else {}),
            **({"unlabelled": self.unlabelled} if self.unlabelled else {}),
            **({"made_pairs": self.made_pairs} if self.made_pairs else {}),
            **({"searched_texts": self.searched} if self.searched else {}),
            "masked_tuning": self.masked,
            "parameters": self.parameters,
            "trained_parameters": self.trained,
            "seconds": [round(result.seconds, 1) for result in self.trainings],
            "peak_memory": self.peak_memory,
            "hyperparameters_found": self.found,
            "seeds": [result.seed for result in self.trainings],
            "kept_seed": None if self.average else self.best.seed,
            **({"average": self._reported(self.average.metrics)} if self.average else {}),
            "run": self.run,
            "texts_cut": self.cut,
            "baselines": {name: self._reported(metrics) for name, metrics in self.baselines.items()},
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
        if self.calibration:
            record["calibration"] = self.calibration
        if self.label_errors:
            record["label_errors"] = self.label_errors
        if self.kept.by_label is not None:
            record["by_label"] = {"split": self.reported_split, "labels": self.kept.by_label}
        if self.kept.confusion is not None and self.reported_splits:
            record["confusion_matrix"] = {
                "split": self.reported_split,
                "labels": self.labels,
                "rows": "labels of the examples",
                "columns": "labels of the model",
                "counts": self.kept.confusion,
            }
        return json.dumps(record, indent=1)

    @property
    def reported_splits(self) -> list[str]:
        """The splits whose examples have labels that people gave."""
        return [split for split in self.kept.metrics if split != "validation" or not self.labelling]

    def _reported(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        return {split: found for split, found in metrics.items() if split in self.reported_splits}

    @property
    def repeated(self) -> float:
        """How often the kept model gives held-out texts the labels that they got from names."""
        return self.kept.metrics["validation"]["accuracy"]

    @property
    def reported_split(self) -> str:
        """The split whose metrics are reported: test if there is one, else validation."""
        return "test" if "test" in self.kept.metrics else "validation"

    def warnings(self) -> list[str]:
        """Return warnings that the user should see before using the model."""
        if not self.reported_splits:
            return []
        metric, first = self.metric, self.reported_splits[0]
        found = self.kept.metrics[first]
        if math.isnan(found[metric]):
            return [
                f"{metric} on the {first} examples is NaN, so the quality of the model is unknown: there are too "
                "few examples, or all answers are the same."
            ]
        # The score is the metric, negated if smaller is better. `copysign` also works for zero.
        sign = math.copysign(1, self.kept.score) * math.copysign(1, found[metric])
        or_full = "" if self.tuning == "full" else ", with --tuning full"
        warnings = []
        # A model of which only the head was fitted differs from that baseline by rounding.
        compared = [name for name in self.baselines if (name, self.tuning) != ("linear_head", "linear")]
        for name in compared:
            baseline, splits = BASELINES[name], self.baselines[name]
            for split, metrics in self._reported(self.kept.metrics).items():
                reached, value = metrics[metric], splits.get(split, {}).get(metric)
                if value is None:
                    continue
                # Scores that are equal as they are shown differ by how a processor rounds.
                reached, value = float(f"{reached:.4g}"), float(f"{value:.4g}")
                if reached == value and baseline.may_be_equal:
                    continue
                if name == "before_training" and sign > 0 and reached == value == 1:
                    warnings.append(
                        f"{metric} on the {split} examples is 1, also before training, so they do not show whether "
                        "training helps. Evaluate on more or harder examples."
                    )
                    break
                if sign * reached <= sign * value:
                    warnings.append(
                        f"{metric} on the {split} examples is {reached:.4g}, compared with {value:.4g} "
                        f"{baseline.in_words}: {baseline.advice.format(or_full=or_full)}"
                    )
                    break  # One warning for each baseline is enough.
        if found.get("accuracy") == 0 and not warnings:
            warnings.append(
                f"accuracy on the {first} examples is 0: the model has not learned the task yet; train for more "
                "epochs or with a higher --learning_rate."
            )
        # Cross-validated models were compared at their best temperatures.
        names = () if self.choice or self.labelling else ("before_training", "linear_head")
        starts = [self.baselines.get(name, {}) for name in names]
        before = min((start.get("validation", {}).get("loss", math.inf) for start in starts), default=math.inf)
        # A model that is more often right may be less sure of what is right, which calibration corrects.
        if (warnings or "linear_head" not in self.baselines) and found.get("loss", 0.0) > before:
            warnings.append(
                f"the loss on the validation examples is {found['loss']:.4g}, compared with {before:.4g} before "
                "training; try a lower --learning_rate or fewer epochs."
            )
        return warnings

    def as_text(self) -> str:
        """Format the metrics and warnings for the console."""
        average = ["averaged"] if self.average else []
        rows = [["", "", "trained", *average, *(BASELINES[name].head for name in self.baselines)]]
        for split, metrics in self.spread().items():
            for name, (mean, deviation) in metrics.items():
                several = f" ± {deviation:.4f}" if len(self.trainings) > 1 else ""
                others = (splits.get(split, {}).get(name) for splits in self.baselines.values())
                average = [f"{self.average.metrics[split][name]:.4f}"] if self.average else []
                rows.append(
                    [split, name, f"{mean:.4f}{several}", *average, *("" if x is None else f"{x:.4f}" for x in others)]
                )
        if not self.reported_splits:
            rows = [[f"The model gives {self.repeated:.0%} of the held-out texts the labels that they got from names."]]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        seconds = statistics.mean(result.seconds for result in self.trainings)
        lines.append(f"{self.trained:,} of {self.parameters:,} parameters trained in {seconds:.0f} s")
        return "\n".join([*lines, *(f"Warning: {warning}" for warning in self.warnings())])


@contextmanager
def errors_as_warnings(what: str) -> Iterator[None]:
    """Turn any error inside the block into a warning, because the model is already saved."""
    try:
        yield
    except Exception as error:
        print(f"Warning: {what} could not be written ({error!r}); the model is saved.", file=sys.stderr)


def write_predictions(file: Path, rows: Any, answers: Sequence[Any]) -> None:
    """Write the columns of the examples and a column `prediction` as JSON Lines."""
    lines = (
        json.dumps({**row, "prediction": answer}, ensure_ascii=False, default=str) + "\n"
        for row, answer in zip(rows, answers, strict=True)
    )
    write_atomically(file, lines)


def metrics_of(found: Mapping[str, float], prefix: str) -> dict[str, float]:
    """Return the metrics of an evaluation without the prefix, leaving out speeds and times."""
    times = ("runtime", "samples_per_second", "steps_per_second", "epoch", "model_preparation_time")
    names = {name.removeprefix(f"{prefix}_"): float(value) for name, value in found.items() if name.startswith(prefix)}
    return {name: value for name, value in names.items() if name not in times}


def plot_confusion(results: Results, file: Path) -> None:
    """Draw the confusion matrix of the kept model as a PNG, if there is one and it is small enough to read."""
    counts = results.kept.confusion
    if counts is None or not results.reported_splits or len(counts) > _MAX_LABELS:
        return
    from matplotlib.figure import Figure

    size = 2.5 + 0.45 * len(counts)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    # The colour shows the share within a row.
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, of_row in enumerate(counts):
        for column, count in enumerate(of_row):
            shade = "white" if shares[row][column] > 0.5 else "black" if count else "silver"
            axes.text(column, row, str(count), ha="center", va="center", color=shade)
    axes.set_xticks(range(len(counts)), _short(results.labels), rotation=45, rotation_mode="anchor", ha="right")
    axes.set_yticks(range(len(counts)), _short(results.labels))
    axes.set_xlabel("label of the model")
    axes.set_ylabel(f"label of the {results.reported_split} example")
    figure.savefig(file, dpi=150)


def _short(labels: Sequence[str]) -> list[str]:
    """Shorten long labels in the middle, and number those that would look the same."""
    # Matplotlib interprets dollar signs as formulas.
    short = [(label if len(label) <= 24 else f"{label[:15]}…{label[-8:]}").replace("$", r"\$") for label in labels]
    times = Counter(short)
    return [f"{label} ({index})" if times[label] > 1 else label for index, label in enumerate(short)]
