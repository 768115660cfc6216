"""What the pipelines of calibrated models have in common: their arguments, and the models that they leave to others."""

from typing import Any

from ...modeling.calibration.calibration import calibration_of
from ...modeling.calibration.outputs import check_refusal


class CalibratedPipelineMixin:
    """Mixin for a subclass of a pipeline of transformers, with the arguments `coverage` and `abstain_below`.

    A class inherits from this mixin and from the pipeline of transformers, which it is for models of other packages.

    Attributes:
        calibration: The calibration of the model, or None.
    """

    calibration: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Return transformers' own pipeline for models of other packages."""
        # A user's subclass stays what it is.
        is_ours = cls.__bases__[0] is CalibratedPipelineMixin
        if is_ours and not hasattr(kwargs.get("model"), "calibration"):
            return cls.__bases__[1](*args, **kwargs)
        pipeline: Any = object.__new__(cls)
        return pipeline

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.calibration = calibration_of(kwargs["model"])
        super().__init__(*args, **kwargs)

    def _sanitize_parameters(
        self, coverage: float | None = None, abstain_below: float | None = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        inherited: Any = super()
        before, forward, after = inherited._sanitize_parameters(**kwargs)
        given = {"coverage": coverage, "abstain_below": abstain_below}
        given = {name: value for name, value in given.items() if value is not None}
        check_refusal(self.calibration, **given)
        return before, forward, {**after, **given}
