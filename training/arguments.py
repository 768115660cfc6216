"""Checks and adjustments of `TrainingArguments` that all commands with a trainer share."""

from __future__ import annotations

import json
import math
from typing import Any, cast

import torch
from huggingface_hub import get_token
from huggingface_hub.errors import HfHubHTTPError
from transformers import SchedulerType, Trainer, TrainingArguments, get_scheduler
from transformers.integrations.integration_utils import get_reporting_integration_callbacks
from transformers.training_args import OptimizerNames

from ..command_line import UsageError
from ..command_line.extras import require, require_reporters
from ..inference.bfloat16 import faster_in_bfloat16
from .hardware import has_accelerator

# The errors of a failed push. Connection errors are not OSErrors, but share the second base class of HfHubHTTPError.
HUB_ERRORS: tuple[type[Exception], ...] = (HfHubHTTPError.__mro__[1], OSError)


def check_fixed(arguments: TrainingArguments, **fixed: Any) -> None:
    """Check that the arguments of `Trainer` to which a command allows only one value have it.

    Raises:
        UsageError: If an argument has another value.
    """
    for name, allowed in fixed.items():
        if getattr(arguments, name) != allowed:
            raise UsageError(f"--{name} must be {allowed}, got {getattr(arguments, name)}.")


def settle_device(arguments: TrainingArguments) -> None:
    """Select the CPU if there is no accelerator, and bfloat16 if it is faster and the user chose no precision."""
    # `Trainer` accepts bfloat16 on a CPU only with use_cpu=True.
    arguments.use_cpu = arguments.use_cpu or not has_accelerator()
    if arguments.bf16 is None:
        arguments.bf16 = not arguments.fp16 and faster_in_bfloat16()


# `Trainer` accepts lower values silently, and then fails or trains nothing.
_AT_LEAST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "eval_accumulation_steps": 1,
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": 1,
    "save_total_limit": 0,
    "warmup_steps": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "neftune_noise_alpha": 0,
}
_ABOVE_ZERO = ("learning_rate", "adam_epsilon", "logging_steps", "eval_steps", "save_steps")
_BELOW_ONE = ("adam_beta1", "adam_beta2", "label_smoothing_factor")
_SEEDS = ("seed", "data_seed")


def check_training_arguments(args: TrainingArguments) -> None:
    """Check values and libraries that `Trainer` itself checks too late or not at all.

    Call this before `TrainingArguments.__post_init__`, which reports some of these errors less clearly.

    Raises:
        UsageError: If a value is not allowed, or if a library is not installed.
    """
    bounds: dict[str, tuple[str, float, float]] = {
        name: (f"at least {least}", least, math.inf) for name, least in _AT_LEAST.items()
    }
    above_zero = ("above 0", math.ulp(0.0), math.inf)
    bounds |= dict.fromkeys(_ABOVE_ZERO, above_zero)
    bounds |= dict.fromkeys(_BELOW_ONE, ("at least 0 and below 1", 0, math.nextafter(1.0, 0.0)))
    bounds |= dict.fromkeys(_SEEDS, ("from 0 to 4294967295", 0, 2**32 - 1))
    if args.max_steps == -1:
        bounds["num_train_epochs"] = above_zero
    else:
        bounds["max_steps"] = ("at least 1, or -1 to train for --num_train_epochs", 1, math.inf)
    for name, (allowed, least, most) in bounds.items():
        value = getattr(args, name)
        # The comparison is written so that NaN fails.
        if value is not None and not (least <= value <= most and value < math.inf):
            raise UsageError(f"--{name} must be {allowed}, got {value}.")
    _check_libraries(args)


def check_schedule(args: TrainingArguments, **completed: Any) -> None:
    """Check the learning rate schedule, which `Trainer` creates only after the data is read.

    `completed` are the values that the command will add to `--lr_scheduler_kwargs`.

    Raises:
        UsageError: If the schedule or its arguments are invalid.
    """
    asked = cast("dict[str, Any]", args.lr_scheduler_kwargs or {})
    # `pretrain` and `distill` set the learning rate later.
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.learning_rate or 1.0)
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, 0, 10**6, {**completed, **asked})
    except (ValueError, TypeError) as error:
        shown = f", --lr_scheduler_kwargs {json.dumps(asked)}" if asked else ""
        raise UsageError(
            f"--lr_scheduler_type {SchedulerType(args.lr_scheduler_type).value}{shown}: {error}"
        ) from error


def _check_libraries(args: TrainingArguments) -> None:
    names = [args.report_to] if isinstance(args.report_to, str) else args.report_to or []
    require_reporters(names)
    for name in names:
        if name not in ("none", "all"):
            try:
                # A callback checks for its library when it is created. `Trainer` does that after the data is read.
                for callback in get_reporting_integration_callbacks(name):
                    callback()
            except (ValueError, ImportError, RuntimeError) as error:
                raise UsageError(f"--report_to {name}: {error}") from error
    if args.push_to_hub and not (args.hub_token or get_token()):
        raise UsageError("--push_to_hub needs a token of the Hub: log in with `hf auth login`, or set HF_TOKEN.")
    if args.deepspeed:
        require("--deepspeed", "deepspeed")
    if args.use_liger_kernel:
        require("--use_liger_kernel", "liger_kernel")
    try:
        Trainer.get_optimizer_cls_and_kwargs(args)
    except ImportError as error:
        raise UsageError(f"--optim {args.optim}: {error}") from error
    except ValueError as error:
        # These optimizers need the model, which does not exist yet.
        if not OptimizerNames(args.optim).value.startswith(("lomo", "adalomo", "galore", "apollo")):
            raise UsageError(f"--optim {args.optim}: {error}") from error
