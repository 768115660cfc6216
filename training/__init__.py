"""Training of encoders. Nothing here is needed to use a trained encoder."""

from __future__ import annotations

from ..command_line.lazy_exports import lazy_exports

_MODULES = {
    "Bound": "pretraining.diffusion_bound",
    "HubTrainer": "hub_trainer",
    "Objectives": "pretraining.objective_arguments",
    "PretrainingCollator": "pretraining.objectives",
    "diffusion_bound": "pretraining.diffusion_bound",
    "training_of": "hub_trainer",
}
__all__ = [*_MODULES]
__getattr__ = lazy_exports(__name__, _MODULES)
