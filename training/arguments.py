"""What the recipes check about the arguments of `Trainer`, and settle before it reads them."""

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
from .hardware import faster_in_bfloat16, has_accelerator

# What a push fails with. The errors of connections are not OSErrors; their base class is the second of HfHubHTTPError.
HUB_ERRORS: tuple[type[Exception], ...] = (HfHubHTTPError.__mro__[1], OSError)


def check_fixed(arguments: TrainingArguments, **fixed: Any) -> None:
    """Checks the arguments of `Trainer` that a recipe leaves no choice for.

    Raises:
        UsageError: if one has another value.
    """
    for name, allowed in fixed.items():
        if getattr(arguments, name) != allowed:
            raise UsageError(f"--{name} must be {allowed}, got {getattr(arguments, name)}.")


def settle_device(arguments: TrainingArguments) -> None:
    """Means the CPU where there is nothing else, and bfloat16 where that is faster and nothing else was said."""
    # `Trainer` takes bfloat16 on a CPU only where it is told that the CPU is meant.
    arguments.use_cpu = arguments.use_cpu or not has_accelerator()
    if arguments.bf16 is None:
        arguments.bf16 = not arguments.fp16 and faster_in_bfloat16()


# What `Trainer` takes without a word and fails on later, or trains nothing with.
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
    """Check values that `Trainer` accepts and fails on later, and libraries that it looks for only when it needs them.

    Call it before `TrainingArguments.__post_init__`, which fails on some of these in its own words.

    Raises:
        UsageError: for a value that is not allowed, or a library that is not installed.
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
        # Written so that NaN fails.
        if value is not None and not (least <= value <= most and value < math.inf):
            raise UsageError(f"--{name} must be {allowed}, got {value}.")
    _check_libraries(args)


def check_schedule(args: TrainingArguments, **completed: Any) -> None:
    """Check that there can be such a schedule of the learning rate; `Trainer` makes it once the data is read.

    Args:
        args: after `TrainingArguments.__post_init__`.
        completed: what the recipe will add to `--lr_scheduler_kwargs`.

    Raises:
        UsageError: if there cannot.
    """
    asked = cast("dict[str, Any]", args.lr_scheduler_kwargs or {})
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.learning_rate)
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
                # A callback looks for its library when it is made. `Trainer` makes it after the data is read.
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
        # These need the model, which is not there yet.
        if not OptimizerNames(args.optim).value.startswith(("lomo", "adalomo", "galore", "apollo")):
            raise UsageError(f"--optim {args.optim}: {error}") from error
