"""How commands read their arguments: dataclasses through `HfArgumentParser`, a file of settings, fitting defaults."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from transformers import HfArgumentParser, Trainer, TrainingArguments
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from . import UsageError
from .extras import require
from .hardware import faster_in_bfloat16, has_accelerator

Defaults = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def parse_arguments(
    command: str, description: str, kinds: tuple[type, ...], arguments: list[str], defaults: Defaults
) -> tuple[Any, ...]:
    """Reads a command line: first, if at all, a file of YAML or JSON, whose values the arguments after it replace.

    Args:
        command: its name.
        description: what it does.
        kinds: dataclasses, whose fields are the arguments.
        arguments: what was typed.
        defaults: other defaults than those of the fields, for what was given in the file and on the command line.

    Returns:
        One of each of the dataclasses.

    Raises:
        UsageError: for names and values that are not allowed.
    """
    settings: dict[str, Any] = {}
    if arguments and not arguments[0].startswith("-"):
        settings, arguments = read_settings(Path(arguments[0])), arguments[1:]
    parser = HfArgumentParser(
        cast(Any, kinds),
        prog=f"sequence-encoder {command}",
        usage=f"sequence-encoder {command} [settings.yaml or .json] [--name value ...]",
        description=description,
        allow_abbrev=False,
    )
    settings = _checked(settings, parser)
    given = {**settings, **_given(parser, arguments)}
    parser.set_defaults(**{**defaults(given), **settings})
    for action in parser._actions:
        # `parse_args` would ask for what the file gives.
        action.required = action.required and action.dest not in settings
    try:
        *found, left_over = parser.parse_args_into_dataclasses(arguments, return_remaining_strings=True)
    except (ValueError, TypeError) as error:
        raise UsageError(error) from error
    if left_over:
        names = [name for action in parser._actions for name in action.option_strings]
        close = difflib.get_close_matches(left_over[0], names, n=1)
        hint = f"did you mean {close[0]}?" if close else "see --help for those that there are."
        raise UsageError(f"there is no argument {left_over[0]}; {hint}")
    return tuple(found)


def _checked(settings: dict[str, Any], parser: HfArgumentParser) -> dict[str, Any]:
    """The settings of a file by the names of the fields."""
    names = {name.lstrip("-"): action.dest for action in parser._actions for name in action.option_strings}
    settings = {names.get(name, name): value for name, value in settings.items() if value is not None}
    known = set(names.values()) - {"help"}
    if unknown := sorted(settings.keys() - known):
        raise UsageError(f"there are no arguments {', '.join(unknown)}; see --help for those that there are.")
    for action in parser._actions:
        value = settings.get(action.dest)
        # Defaults are not held against the choices.
        if action.choices and value is not None and value not in action.choices:
            raise UsageError(f"{action.dest} must be one of {', '.join(map(str, action.choices))}, got {value}.")
        if action.nargs == "+" and value is not None and not isinstance(value, list):
            settings[action.dest] = [value]
        # The parser reads what is text.
        if action.type is int and isinstance(value, float | bool):
            raise UsageError(f"{action.dest} must be a whole number, got {value!r}.")
    return settings


def _given(parser: HfArgumentParser, arguments: list[str]) -> dict[str, Any]:
    """What the command line says, without defaults; nothing if it asks for help, which shows them."""
    if {"-h", "--help"} & set(arguments):
        return {}
    before = [(action, action.default, action.required) for action in parser._actions]
    for action, _, _ in before:
        action.default, action.required = argparse.SUPPRESS, False
    try:
        return vars(parser.parse_known_args(arguments)[0])
    finally:
        for action, default, required in before:
            action.default, action.required = default, required


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


def read_settings(file: Path) -> dict[str, Any]:
    """A mapping from a file of YAML or JSON.

    Raises:
        UsageError: if there is none in it.
        OSError: if it cannot be read.
    """
    import yaml

    if file.suffix not in (".json", ".yaml", ".yml"):
        raise UsageError(f"settings must be a file of .yaml, .yml or .json, got {file}.")
    try:
        # JSON is YAML too.
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{file} must hold names and values, got {type(settings).__name__}.")
    return settings


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
    bounds = {name: (f"at least {least}", least, math.inf) for name, least in _AT_LEAST.items()}
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


def _check_libraries(args: TrainingArguments) -> None:
    names = [args.report_to] if isinstance(args.report_to, str) else args.report_to or []
    for name in names:
        if name == "tensorboard":
            require("--report_to tensorboard", "tensorboard", extra="train")
        elif name not in ("none", "all"):
            try:
                # A callback looks for its library when it is made. `Trainer` makes it after the data is read.
                for callback in get_reporting_integration_callbacks(name):
                    callback()
            except (ValueError, ImportError, RuntimeError) as error:
                raise UsageError(f"--report_to {name}: {error}") from error
    if args.deepspeed:
        require("--deepspeed", "deepspeed")
    if args.use_liger_kernel:
        require("--use_liger_kernel", "liger_kernel")
    try:
        Trainer.get_optimizer_cls_and_kwargs(args)
    except ImportError as error:
        raise UsageError(f"--optim {args.optim}: {error}") from error
    except ValueError:
        # Some optimizers need the model, which is not there yet.
        pass
