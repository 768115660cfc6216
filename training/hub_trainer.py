"""A `Trainer` that writes this package's model cards, and the summary of a training run for such a card."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments, optimization
from transformers.modelcard import TrainingSummary, make_markdown_table

from ..hub.card.card import Training, model_card
from ..saving.auto_classes import model_class_of
from ..saving.card_mark import is_unedited, save_card
from ..saving.saved_code import write_code
from .hardware import device_name

# Evaluations log these values in addition to the metrics.
_NO_METRICS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "jit_compilation_time")
# In the cards of transformers' `Trainer`, which this one replaces.
_OF_TRAINER = "generated automatically according to the information the Trainer had access to"


def training_of(
    trainer: Trainer, dataset: str | None = None, task: str | None = None, left_out: tuple[str, ...] = ()
) -> Training:
    """Summarise the training of a `Trainer`: its hyperparameters, its duration and its results.

    The results are the metrics of the last evaluation, or of the best one with `load_best_model_at_end`. Without
    metrics, the result is the loss. Energy and emissions are included if codecarbon measured them
    (`report_to="codecarbon"`).

    Args:
        trainer: The trainer, after `train()`.
        dataset: The name of the evaluation texts.
        task: The Hub's name of the task. Defaults to the task of the model's head.
        left_out: Metrics that the table of the progress leaves out, by the starts of their names.
    """
    history = trainer.state.log_history
    # Without a licence, it would ask the Hub for the licence of the base model.
    summary = TrainingSummary.from_trainer(trainer, dataset=dataset, license="not asked for")
    # The summary writes "eval_f1_score" as "F1 Score".
    progress = [
        {name: value for name, value in line.items() if not name.lower().replace(" ", "_").startswith(left_out)}
        for line in summary.eval_lines or ()
    ]
    energy, emissions = _tracked(trainer)
    return Training(
        hyperparameters=_hyperparameters(trainer),
        progress=make_markdown_table(progress) or None,
        results=_results(trainer, dataset or next(filter(None, summary.dataset or ()), "evaluation texts"), task),
        hardware=_hardware(trainer.args),
        seconds=next((entry["train_runtime"] for entry in reversed(history) if "train_runtime" in entry), None),
        energy=energy,
        emissions=emissions,
    )


class HubTrainer(Trainer):
    """A `Trainer` that writes this package's model cards, and whose pushes always include the model's code.

    `Trainer` itself writes a card without the model's architecture, and its pushes during training include only the
    weights and the configuration. Resuming a finished training run does not train further. Everything else is as in
    `Trainer`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(_CodeForPushes())

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # `Trainer` compares the step count only after a step, so resuming a finished training would take one more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        # A checkpoint stores tied weights only once, so they are not missing.
        tied = getattr(self.model, "all_tied_weights_keys", {})
        load_result.missing_keys[:] = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result)

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Write `README.md` into the output folder, unless it already has one that somebody wrote or edited.

        Args:
            language: The language of the texts.
            license: The Hub's identifier of the licence.
            tags: Tags for the Hub's search.
            model_name: The title.
            finetuned_from: The model that this one was trained from.
            tasks: The Hub's name of the task.
            dataset_tags: The Hub ids of the datasets.
            dataset: The names of the evaluation texts.
            dataset_args: Not used.
        """
        if not self.is_world_process_zero():
            return
        folder = self.args.output_dir or ""
        path = Path(folder, "README.md")
        if path.exists() and not is_unedited(path) and _OF_TRAINER not in path.read_text("utf-8", errors="replace"):
            return
        model = self.accelerator.unwrap_model(self.model)
        assert isinstance(model, PreTrainedModel)
        card = model_card(
            model,
            self.hub_model_id or Path(folder).resolve().name,
            training_of(self, _first(dataset), _first(tasks)),
            name=model_name,
            license=license,
            language=language,
            base_model=finetuned_from,
            datasets=dataset_tags,
            tags=[*([tags] if isinstance(tags, str) else tags or []), "generated_from_trainer"],
        )
        save_card(path, card.content)


class _CodeForPushes(TrainerCallback):
    """A callback that writes the model's code into the output folder before `Trainer` pushes it."""

    def on_push_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            write_code(Path(args.output_dir or ""), kwargs["model"].config)


def _first(names: str | list[str] | None) -> str | None:
    return names if isinstance(names, str) else next(iter(names or ()), None)


def _results(trainer: Trainer, dataset: str, task: str | None) -> list[EvalResult]:
    """Return the metrics, for each evaluation dataset if there are several."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    state, evaluated = trainer.state, trainer.eval_dataset
    prefixes = {f"eval_{name}_": name for name in evaluated} if isinstance(evaluated, dict) else {"eval_": dataset}
    results = []
    for prefix, name in prefixes.items():
        entries = [entry for entry in state.log_history if f"{prefix}loss" in entry or f"{prefix}runtime" in entry]
        if trainer.args.load_best_model_at_end and state.best_global_step is not None:
            entries = [entry for entry in entries if entry["step"] == state.best_global_step]
        numbers = {
            key.removeprefix(prefix): value
            for key, value in (entries[-1].items() if entries else ())
            if key.startswith(prefix) and key.removeprefix(prefix) not in _NO_METRICS
        }
        if len(numbers) > 1:
            numbers.pop("loss", None)
        results += [
            EvalResult(
                task_type=task or model_class_of(model).hub_task,
                dataset_type=re.sub(r"[^\w.-]+", "-", name.lower()),
                dataset_name=name,
                metric_type=metric,
                metric_value=round(value, 4),
            )
            for metric, value in numbers.items()
            if isinstance(value, int | float) and math.isfinite(value)
        ]
    return results


def _hyperparameters(trainer: Trainer) -> dict[str, Any]:
    args, state = trainer.args, trainer.state
    optimizer: Any = trainer.optimizer
    optimizer = getattr(optimizer, "optimizer", optimizer)
    dtype = str(next(iter(trainer.accelerator.unwrap_model(trainer.model).parameters())).dtype).removeprefix("torch.")
    mixed = "bfloat16" if args.bf16 else "float16" if args.fp16 else None
    values: dict[str, Any] = {
        "steps": state.global_step,
        "epochs": None if state.epoch is None else round(state.epoch, 2),
        "examples a step": args.train_batch_size * args.world_size * args.gradient_accumulation_steps,
    }
    if optimizer is not None:
        groups = optimizer.param_groups
        values["optimizer"] = type(optimizer).__name__
        values["learning rate"] = _several(group.get("initial_lr", group["lr"]) for group in groups)
        values["weight decay"] = _several(group.get("weight_decay", 0) for group in groups)
    values |= {
        "schedule": _schedule(trainer),
        "precision": f"{dtype}, mixed with {mixed}" if mixed else dtype,
        "label smoothing": args.label_smoothing_factor or None,
        "processes": args.world_size if args.world_size > 1 else None,
        "seed": args.seed,
    }
    return {name: value for name, value in values.items() if value is not None}


def _schedule(trainer: Trainer) -> str | None:
    """Return the name of the schedule, or None if `TrainingArguments` does not determine it."""
    scheduler: Any = trainer.lr_scheduler
    functions = getattr(getattr(scheduler, "scheduler", scheduler), "lr_lambdas", ())
    made_by = {getattr(function, "func", function).__module__ for function in functions}
    named = trainer.args.lr_scheduler_type
    return str(getattr(named, "value", named)) if made_by == {optimization.__name__} else None


def _several(values: Any) -> str:
    return ", ".join(dict.fromkeys(f"{float(value):g}" for value in values))


def _hardware(args: TrainingArguments) -> str:
    return device_name() if args.world_size == 1 else f"{args.world_size} processes, {device_name()} each"


def _tracked(trainer: Trainer) -> tuple[float | None, float | None]:
    """Return the energy in kWh and the CO₂ equivalents in kg that codecarbon measured, or (None, None)."""
    for callback in trainer.callback_handler.callbacks:
        data = getattr(getattr(callback, "tracker", None), "final_emissions_data", None)
        if data is not None:
            return data.energy_consumed, data.emissions
    return None, None
