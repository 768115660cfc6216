"""The results of an evaluation: dataclasses for the model and each file."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..saving.version import __version__
from .cascade import Cascade
from .label_errors import LabelErrors
from .metrics import Estimate
from .shift.estimates import PREFERRED
from .shift.label_correction import Matching
from .shift.label_shift import LabelShift
from .shift.shift import InputShift


@dataclass(frozen=True)
class FileEvaluation:
    """What was found out about the texts of a file.

    Attributes:
        name: The name of the file.
        texts: The number of texts.
        labelled: Whether it has labels.
        metrics: The metrics of the task, and the calibration error and the Brier score of the confidences.
        right: The share of right answers: labels, tags of words, or answers to questions.
        confidence: The mean confidence of the answers.
        risk_coverage_area: The area under the risk-coverage curve.
        risk_coverage: The curve, as pairs of coverage and risk.
        reliability: The bins of a reliability diagram.
        sets: For each coverage of a calibrated model, the share of true labels, kinds of entities or answers that the
            sets contain, and their mean size.
        unfamiliarity_auroc: How well the unfamiliarity of a calibrated model tells the file from home.
        confidence_auroc: How well a low confidence tells the file from home.
        estimates: Estimates of `right` that use no labels of the file.
        input_shift: Whether the texts differ from home.
        label_shift: Whether the shares of the labels do.
        corrected_accuracy: The accuracy with scores that are corrected for the estimated shares of the labels.
        matched_accuracy: The accuracy if the model gives each label as often as it occurs at home.
        label_shares: The true shares of the labels.
        matching: Why the shares of the labels should be matched, or None if they should not.
        label_errors: The labels at home that are probably wrong, for classification with one label per text.
        cascade: The accuracy and the speed of the model with a larger one for texts that it is not sure of.
    """

    name: str
    texts: int
    labelled: bool
    confidence: float
    metrics: dict[str, Estimate] = field(default_factory=dict)
    right: Estimate | None = None
    risk_coverage_area: float | None = None
    risk_coverage: list[tuple[float, float]] = field(default_factory=list)
    reliability: list[dict[str, float]] = field(default_factory=list)
    sets: dict[str, dict[str, float]] = field(default_factory=dict)
    unfamiliarity_auroc: float | None = None
    confidence_auroc: float | None = None
    estimates: dict[str, float] = field(default_factory=dict)
    input_shift: InputShift | None = None
    label_shift: LabelShift | None = None
    corrected_accuracy: float | None = None
    matched_accuracy: float | None = None
    label_shares: list[float] | None = None
    matching: Matching | None = None
    label_errors: LabelErrors | None = None
    cascade: Cascade | None = None

    @property
    def estimate(self) -> float | None:
        """The preferred estimate of the share of right answers."""
        return next((self.estimates[name] for name in PREFERRED if name in self.estimates), None)


@dataclass(frozen=True)
class Findings:
    """The evaluation of a model on several files, the first of which is home.

    Attributes:
        model: The name of the model.
        task: The name of its task.
        labels: The names of its labels.
        files: What was found out about each file.
        seed: The seed of the bootstrap and of the classifiers.
        command: The command that made the evaluation, empty in Python.
        then: The name of the larger model, if there is one.
        version: The version of this package.
    """

    model: str
    task: str
    labels: list[str]
    files: list[FileEvaluation]
    seed: int
    command: str = ""
    then: str = ""
    version: str = __version__

    def __getitem__(self, name: str) -> FileEvaluation:
        """Return what was found out about a file."""
        return {each.name: each for each in self.files}[name]
