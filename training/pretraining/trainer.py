"""Build the `Trainer` of a pretraining run: its number of steps, schedule, optimizer, metrics and checkpoints."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, set_seed
from transformers.trainer_utils import SchedulerType

from ...command_line.console import show_table
from ...data.packs import EvaluationWindows, PackedWindows
from ...data.streams import PackedStream
from ..checkpoints import (
    CompleteCheckpointsCallback,
    CurrentSettingsCallback,
    RestoreRandomStateCallback,
    last_complete_checkpoint,
    step_of,
)
from ..hardware import product_speed
from ..hub_trainer import HubTrainer
from ..optimizer import MuonWithAdamW
from ..tensor_parallel import TensorParallelCheckpoints, tensor_parallel_size
from ..trials import affordable_steps, planned_once, trial_arguments
from ..weight_averages import ExponentialMovingAverage, TowardsStart
from .arguments import RATE
from .diffusion_bound import BoundWindows
from .objective_kinds import KINDS
from .objective_metrics import ObjectiveMetrics
from .objectives import PretrainingCollator
from .run import Pretraining, PretrainingArguments

# The default learning rate falls between these numbers of steps, from 5e-3 to 1e-3.
_RATE_STEPS = (320, 8000)
BUDGET, TRIAL = "budget.json", "trial"


def packs_per_step(args: PretrainingArguments) -> int:
    """Return the number of packs per step over all processes."""
    apart = args.world_size // tensor_parallel_size()
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * apart


def make_trainer(
    run: Pretraining,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    collator: PretrainingCollator,
    train: PackedWindows | PackedStream,
    held_out: EvaluationWindows | BoundWindows | None,
) -> HubTrainer:
    """Build the `Trainer` of a run, and complete its training arguments in place."""
    args = run.args
    per_step = packs_per_step(args)
    steps = args.max_steps
    if isinstance(train, PackedWindows) and steps <= 0:
        steps = math.ceil(args.num_train_epochs * len(train) / per_step)
    train.plan(steps * per_step)
    checkpoint = last_complete_checkpoint(run.output) if args.resume else None
    if isinstance(train, PackedStream):
        # The stream itself seeks to its position, in every process.
        args.ignore_data_skip = True
        cast(Any, args.accelerator_config).dispatch_batches = False
        train.start_at(per_step * step_of(checkpoint) if checkpoint else 0)
    settle_rates(args, steps)
    complete_schedule(args, steps)
    resolve_intervals(args, steps)
    if args.ddp_find_unused_parameters is None:
        # The search for unused weights takes time. Only the head for masked tokens can be unused, without that loss.
        args.ddp_find_unused_parameters = not run.objectives.mlm_weight
    # Accelerate would convert the logits to float32, on a GPU, too.
    cast(Any, model).returns_training_logits = False
    kind = KINDS[run.objectives.objective]
    metrics = ObjectiveMetrics(
        operations_per_token(model, run),
        args.world_size * product_speed(torch.bfloat16 if args.bf16 else torch.float32),
    )
    trainer = kind.trainer(
        model,
        args,
        train_dataset=train,
        eval_dataset=held_out,
        data_collator=collator,
        processing_class=tokenizer,
        compute_metrics=kind.metrics(held_out),
        preprocess_logits_for_metrics=kind.sums,
        callbacks=weight_callbacks(run, model, checkpoint),
        optimizer_cls_and_kwargs=muon(model, args) if args.muon else None,
    )
    if trainer.is_fsdp_enabled and trainer.accelerator.mixed_precision == "bf16":
        # Accelerate would also round the number of labels that divides the loss, and the sums of gradients.
        cast(Any, trainer.accelerator.state.fsdp_plugin).mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    metrics.watch(trainer)
    show_table(trainer, columns(run))
    if checkpoint is not None and isinstance(train, PackedStream):
        trainer.add_callback(RestoreRandomStateCallback(checkpoint, trainer))
    args.resume_from_checkpoint = str(checkpoint) if checkpoint else None
    return trainer


def settle_rates(args: PretrainingArguments, steps: int) -> None:
    """Set the learning rate and the weight decay of a new encoder that trains with Muon, unless the user set them.

    Updates make a matrix grow, and weight decay makes it shrink. The size at which the two balance depends only on the
    ratio of learning rate and weight decay (Kosson et al., 2024, arXiv 2305.17212), so the decay is proportional to the
    rate. The rate falls with the square root of the number of steps (benchmarks/RESULTS.md has the measurements).
    """
    if args.learning_rate is None:
        counted = min(max(steps, _RATE_STEPS[0]), _RATE_STEPS[1])
        args.learning_rate = float(f"{RATE * math.sqrt(_RATE_STEPS[0] / counted):.2g}")
    if args.weight_decay is None:
        args.weight_decay = args.learning_rate / RATE


def complete_schedule(args: PretrainingArguments, steps: int) -> None:
    """Set the length of a trapezoidal schedule's decay, and its 1-sqrt form (Hägele et al., 2024)."""
    if args.lr_scheduler_type == SchedulerType.WARMUP_STABLE_DECAY:
        decay = min(math.ceil(args.lr_decay_share * steps), steps - args.get_warmup_steps(steps))
        defaults = {"num_decay_steps": decay, "decay_type": "1-sqrt"}
        args.lr_scheduler_kwargs = {**defaults, **cast("dict[str, Any]", args.lr_scheduler_kwargs or {})}


def resolve_intervals(args: PretrainingArguments, steps: int) -> None:
    """Convert intervals from shares to steps, because `Trainer` saves steps and compares them when a run resumes."""
    for name in ("logging_steps", "eval_steps", "save_steps"):
        value = getattr(args, name)
        if value is not None and value < 1:
            setattr(args, name, math.ceil(value * steps))


def columns(run: Pretraining) -> list[str]:
    """Return the logged values that the console shows as columns."""
    trained, evaluated = KINDS[run.objectives.objective].columns(run.objectives)
    evaluated = [f"eval_{name}" for name in evaluated] if run.args.eval_strategy != "no" else []
    return [*trained, *evaluated, "tokens_per_second"]


def weight_callbacks(run: Pretraining, model: PreTrainedModel, checkpoint: Path | None) -> list[Any]:
    """Return the callbacks that average weights or write into checkpoints. The one that marks these comes last."""
    callbacks: list[Any] = [CurrentSettingsCallback()]
    if run.args.ema_decay is not None:
        callbacks.append(ExponentialMovingAverage(run.args.ema_decay, checkpoint))
    if run.args.start_share:
        # A resumed training loads the weights of its checkpoint later.
        start = [weight.detach().clone() for weight in cast(nn.Module, model).parameters()]
        callbacks.append(TowardsStart(start, run.args.start_share))
    if tensor_parallel_size() > 1:
        run.args.save_only_model = True
        callbacks.append(TensorParallelCheckpoints())
    return [*callbacks, CompleteCheckpointsCallback(run.args)]


def muon(model: PreTrainedModel, args: PretrainingArguments) -> tuple[Any, dict[str, Any]]:
    """Return the optimizer class and its arguments, in the form that `Trainer` takes."""
    return MuonWithAdamW, {
        "model": model,
        "lr": args.learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "eps": args.adam_epsilon,
        "weight_decay": args.weight_decay,
    }


def operations_per_token(model: PreTrainedModel, run: Pretraining) -> float:
    """Estimate the floating-point operations of training per token: matrix products, forward and backward.

    The backward pass takes twice as many as the forward pass. A token attends to half of a window on average, and only
    masked tokens are multiplied with the vocabulary.
    """
    config: Any = model.config
    # The weights that layers share count once for each layer.
    layers = cast(Any, model.base_model)._layers_in_order()
    inside = sum(weight.numel() for layer in layers for weight in layer.parameters() if weight.ndim == 2)
    attention = config.num_hidden_layers * config.hidden_size * run.model.max_length
    vocabulary = config.vocab_size * config.prediction_dim * run.objectives.masked_share
    return 6 * (inside + attention + vocabulary)


def keep_to_seconds(
    run: Pretraining, train: PackedWindows, trainer_of: Callable[[Pretraining], Trainer], started: float
) -> None:
    """Set the number of steps to what `--seconds` leaves time for, but no more than those of `--num_train_epochs`.

    A resumed run keeps its number of steps, because its schedule and its checkpoints belong to it.

    Args:
        run: The run, whose `max_steps` is set.
        train: What it trains on.
        trainer_of: Builds a trainer with a copy of the model.
        started: When the run started, by `time.perf_counter`.
    """
    file, args = run.scratch / BUDGET, run.args
    kept = planned_once(file, args.should_save, lambda: {"steps": _affordable_steps(run, train, trainer_of, started)})
    args.max_steps = kept["steps"]


def _affordable_steps(
    run: Pretraining, train: PackedWindows, trainer_of: Callable[[Pretraining], Trainer], started: float
) -> int:
    args = run.args
    trial = trial_arguments(args, run.scratch / TRIAL)
    trial.resume = trial.push_to_hub = trial.load_best_model_at_end = False
    trial.ema_decay, trial.start_share = None, 0.0
    most = math.ceil(args.num_train_epochs * len(train) / packs_per_step(args))
    # The model is evaluated again after the training.
    steps = affordable_steps(trainer_of(dataclasses.replace(run, args=trial)), args, most, started, more=1)
    # The trial must not change what the run draws.
    set_seed(args.seed)
    return steps
