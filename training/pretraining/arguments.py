"""The options of `sequence-encoder pretrain` for the model and the training, and their defaults for each preset.

Nothing here imports torch, so that the command line reports mistakes at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ...command_line import UsageError
from ...command_line.extras import require, require_reporters
from ...command_line.options import OVERWRITE, REPORT_TO, SECONDS, SEED, TRUE_OR_FALSE, option
from ...command_line.parser import Command, check_used
from ...data.corpus import CorpusArguments
from .objective_arguments import DISABLED, OBJECTIVES, Objectives

OUTPUT = "pretrained"
# The folder in the output folder for what an interrupted run needs to resume.
SCRATCH = "_pretraining"
# In that folder.
SAVED_ARGUMENTS = "arguments.json"
_NOT_SAVED = ("output_dir", "resume", "overwrite")
_YES: tuple[list[str], ...] = ([], ["true"], ["t"], ["yes"], ["y"], ["1"])

# Layers and hidden sizes of Turc et al. (2019). Heads have 64 channels. The intermediate size is four times the hidden
# size, and for gated networks two thirds of that, which gives the same number of parameters.
SIZES = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
    "large": (24, 1024),
}

# Pairs of an argument and another one beside which it has no effect.
_NEW_TOKENIZER_OPTIONS = ("vocab_size", "algorithm", "lowercase")
_NOT_USED_WITH = (
    *((name, "model") for name in ("preset", "size", *_NEW_TOKENIZER_OPTIONS)),
    *((name, "tokenizer") for name in _NEW_TOKENIZER_OPTIONS),
    ("seconds", "max_steps"),
)

# What says how long a run trains.
_DURATIONS = ("seconds", "max_steps", "num_train_epochs")

# Five special tokens, and either one character in WordPiece's two forms or all bytes.
_SMALLEST_VOCABULARIES = {"wordpiece": 7, "byte_level_bpe": 261}

# Training defaults of the presets. Post-norm layers need a low learning rate and a long warmup. `settle_rates`
# sets the rate of a preset that has none here.
_POST_NORM: dict[str, Any] = {"learning_rate": 5e-4, "warmup_steps": 0.1, "muon": False}
TRAINING_DEFAULTS: dict[str, dict[str, Any]] = {
    "vanilla": _POST_NORM,
    "bert": _POST_NORM,
    "modernbert": {"warmup_steps": 0.02, "muon": True},
}
# The highest default learning rate with Muon, and the weight decay of runs whose rate `settle_rates` does not set.
RATE, _WEIGHT_DECAY = 5e-3, 0.01
# AdamW alone needs a lower learning rate than Muon.
_ADAMW_RATE = 1e-3
# Defaults for continued pretraining: a low learning rate, and no objective that the checkpoint may never have had, to
# preserve what it has learned.
CONTINUED_DEFAULTS: dict[str, Any] = {"learning_rate": 5e-4, "warmup_steps": 0.1, "muon": True, "bow_weight": 0.0}


@dataclass
class ModelArguments:
    """The encoder to train, its tokenizer, and the lengths of its inputs.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "model"

    model: str | None = option(
        "Folder or Hub id of the model to continue pretraining, with its tokenizer, instead of a new one of "
        "--preset and --size.",
        None,
    )
    preset: str = option("Architecture.", "modernbert", choices=list(TRAINING_DEFAULTS))
    size: str = option("Number of layers and hidden size.", "mini", choices=list(SIZES))
    config_overrides: str | None = option(
        "Fields of the configuration, such as num_hidden_layers=6,norm=rms_norm.", None
    )
    tokenizer: str | None = option(
        "Folder or Hub id of the tokenizer (default: a new one, trained on the corpus).", None
    )
    vocab_size: int = option("Vocabulary size of the new tokenizer.", 30522)
    algorithm: str = option("Algorithm of the new tokenizer.", "wordpiece", choices=["wordpiece", "byte_level_bpe"])
    lowercase: bool = option("Let the new tokenizer lowercase texts.", False)
    max_length: int = option("Maximum number of tokens of a text; longer texts are split into windows.", 512)
    max_tokens: int = option("Maximum number of tokens in a batch: a pack of windows.", 8192)

    def __post_init__(self) -> None:
        if self.max_length < 5:
            raise UsageError(f"--max_length must be at least 5, got {self.max_length}.")
        # No computer has memory for more.
        for name, most in (("max_length", 10**6), ("max_tokens", 10**8), ("vocab_size", 10**7)):
            if (value := getattr(self, name)) > most:
                raise UsageError(f"--{name} must be at most {most:,}, got {value}.")
        if self.max_tokens < self.max_length:
            raise UsageError(f"--max_tokens must be at least --max_length {self.max_length}, got {self.max_tokens}.")
        if self.model is not None and (self.tokenizer or self.config_overrides):
            raise UsageError(
                "MODEL has its own tokenizer and configuration; leave out --tokenizer and --config_overrides."
            )
        least = _SMALLEST_VOCABULARIES.get(self.algorithm, 0)
        if self.tokenizer is None and self.model is None and self.vocab_size < least:
            raise UsageError(
                f"--vocab_size must be at least {least} for --algorithm {self.algorithm}, got {self.vocab_size}."
            )
        if overrides := self.overrides():
            self._check_overrides(overrides)

    def _check_overrides(self, overrides: dict[str, Any]) -> None:
        from huggingface_hub.errors import StrictDataclassError

        from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig

        for name in sorted(overrides.keys() - {each.name for each in fields(SequenceEncoderConfig)}):
            raise UsageError(
                f"--config_overrides {name}: SequenceEncoderConfig has no such field; its documentation lists the "
                "fields."
            )
        for name in sorted(each for each in overrides if each.endswith("_token_id")):
            raise UsageError(f"--config_overrides {name}: the tokenizer sets this field; omit it.")
        try:
            SequenceEncoderConfig.from_preset(self.preset, **self.config_fields())
        except (StrictDataclassError, ValueError, TypeError) as error:
            # The first line of a StrictDataclassError only names the check that failed.
            reason = error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error
            raise UsageError(f"--config_overrides {self.config_overrides}: {reason}") from error

    def overrides(self) -> dict[str, Any]:
        """Parse the configuration fields of `--config_overrides`.

        Raises:
            UsageError: If a part has no value.
        """
        found: dict[str, Any] = {}
        for part in filter(None, (self.config_overrides or "").split(",")):
            name, equals, value = part.partition("=")
            if not equals:
                raise UsageError(f"--config_overrides must have the form 'name=value,name=value', got {part!r}.")
            try:
                found[name.strip()] = json.loads(value)
            except ValueError:
                found[name.strip()] = {"True": True, "False": False, "None": None}.get(value, value)
        return found

    def config_fields(self) -> dict[str, Any]:
        """Return the configuration fields that the size and the overrides set."""
        from ...configuration.presets import PRESETS

        layers, hidden = SIZES[self.size]
        overrides = self.overrides()
        gated = overrides.get("feed_forward", PRESETS[self.preset].get("feed_forward", "mlp")) == "glu"
        sizes = {
            "num_hidden_layers": layers,
            "hidden_size": hidden,
            "num_attention_heads": hidden // 64,
            "intermediate_size": 64 * round(8 / 3 * hidden / 64) if gated else 4 * hidden,
            # Sentence order has few labels per batch. With mean pooling, their noise would reach every masked token.
            "pooling": "cls",
        }
        return {**sizes, **overrides}


@dataclass
class PretrainingOptions:
    """Training options that `TrainingArguments` lacks, and those whose defaults differ here."""

    _argument_group_name = "training"

    output_dir: str | None = option("Folder to write the model and its checkpoints to.", OUTPUT)
    resume: bool = option("Continue an interrupted run.", False)
    overwrite: bool = option(default=False, **OVERWRITE)
    muon: bool = option("Train matrices with Muon and all other weights with AdamW, instead of --optim.", True)
    lr_decay_share: float = option(
        "Share of the steps over which the learning rate decays at the end of training.", 0.3
    )
    ema_decay: float | None = option("Save an exponential moving average of the weights with this decay.", None)
    start_share: float = option(
        "Share of the weights before the training in the final ones, so that --model keeps more of what it could do.",
        0.0,
    )
    per_device_train_batch_size: int = option("Training batch size per device, in packs.", 1)
    per_device_eval_batch_size: int = option("Evaluation batch size per device.", 32)
    seconds: float | None = option(default=None, **SECONDS)
    num_train_epochs: float = option("Number of epochs, or the largest number with --seconds.", 10.0)
    learning_rate: float | None = option(
        "Peak learning rate (default: for a new encoder with Muon, 5e-3 at up to 320 steps, and less for more; 5e-4 "
        "with --model or post-norm layers; otherwise 1e-3).",
        None,
    )
    weight_decay: float | None = option(
        "Weight decay; norms and biases are exempt (default: 200 times the learning rate for a new encoder with Muon, "
        "and otherwise 0.01).",
        None,
    )
    adam_beta2: float = option("Second beta of AdamW.", 0.98)
    lr_scheduler_type: str = option(
        "Learning rate schedule: warmup_stable_decay (a trapezoid), cosine, linear and others.",
        "warmup_stable_decay",
        metavar="SCHEDULE",
    )
    warmup_steps: float = option("Number of warmup steps, or a share of all steps.", 0.02)
    bf16: bool | None = option("Autocast to bfloat16 (default: if the hardware is fast at it).", None, **TRUE_OR_FALSE)
    logging_steps: float = option("Number of steps between logs, or a share of all steps.", 10)
    eval_steps: float | None = option("Number of steps between evaluations, or a share of all steps.", 0.1)
    save_steps: float = option("Number of steps between checkpoints, or a share of all steps.", 0.1)
    save_total_limit: int | None = option("Number of checkpoints to keep.", 2)
    remove_unused_columns: bool = option("Must be False.", False)
    train_sampling_strategy: str = option("Must be 'sequential': the packs are already shuffled.", "sequential")
    report_to: list[str] = option(default=["none"], **REPORT_TO)
    seed: int = option(default=0, **SEED)


def check_libraries(options: PretrainingOptions) -> None:
    """Check that all optional libraries that the run needs are installed.

    Raises:
        MissingLibraryError: If one of them is missing.
    """
    require("pretrain", "datasets", "matplotlib", extra="train")
    require_reporters(options.report_to)


def _defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of the preset, or those of continued pretraining."""
    check_used(given, _NOT_USED_WITH)
    objective = given.get("objective", Objectives.objective)
    for name in OBJECTIVES.get(objective, ()):
        if name in given and not (name in DISABLED and given[name] == 0):
            raise UsageError(f"--{name} has no effect with --objective {objective}; leave one of them out.")
    preset = given.get("preset", ModelArguments.preset)
    continued = given.get("model") is not None
    if given.get("start_share") and not continued:
        raise UsageError("--start_share needs --model, since the weights of a new encoder are not worth keeping.")
    defaults = dict(CONTINUED_DEFAULTS if continued else TRAINING_DEFAULTS.get(preset, {}))
    if "optim" in given:
        # An explicit --optim takes precedence.
        defaults["muon"] = False
    muon = given.get("muon", defaults.get("muon", True))
    if not muon:
        defaults["learning_rate"] = min(defaults.get("learning_rate", _ADAMW_RATE), _ADAMW_RATE)
    if objective == "diffusion":
        defaults.setdefault("learning_rate", RATE)
    if "learning_rate" in defaults:
        defaults["weight_decay"] = _WEIGHT_DECAY
    if given.get("eval_documents"):
        defaults["eval_strategy"] = "steps"
    return defaults


def with_saved_arguments(arguments: list[str]) -> list[str]:
    """Complete a command line that has `--resume` with the arguments of the interrupted run. Others stay as they are.

    An option that says how long to train replaces all such options of the interrupted run.

    Raises:
        UsageError: If there is no such run, and no corpus to start a new one.
    """
    given = by_name(arguments)
    if [value.lower() for value in given.get("resume", ["no"])] not in _YES:
        return arguments
    output = Path(*given.get("output_dir", [OUTPUT]))
    file = output / SCRATCH / SAVED_ARGUMENTS
    if file.exists():
        try:
            earlier = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(f"{file} is damaged ({error}); start over with --overwrite.") from error
        forgotten = {*given, *(_DURATIONS if any(name in given for name in _DURATIONS) else ())}
        given = {name: values for name, values in earlier.items() if name not in forgotten} | given
    elif "corpus" not in given:
        raise UsageError(
            f"--resume found no interrupted run in {output}. Set --output_dir to its folder, or --corpus to the "
            "texts of a new run."
        )
    return [part for name, values in given.items() for part in (f"--{name}", *values)]


def by_name(arguments: list[str]) -> dict[str, list[str]]:
    """Group a command line by argument. The last occurrence of an argument wins."""
    found: dict[str, list[str]] = {}
    name = ""
    for part in arguments:
        if part.startswith("--"):
            name, equals, value = part[2:].partition("=")
            name = name.replace("-", "_")
            found.pop(name, None)
            found[name] = [value] if equals else []
        else:
            found.setdefault(name, []).append(part)
    return found


def serialize_arguments(arguments: list[str]) -> str:
    """Serialise the arguments for `with_saved_arguments`, except those that only apply to this invocation."""
    kept = {name: values for name, values in by_name(arguments).items() if name not in _NOT_SAVED}
    return json.dumps(kept, indent=1)


PRETRAIN = Command(
    "pretrain",
    "Pretrain an encoder on any corpus, with masked language modelling and sentence order or with masked diffusion.",
    '--corpus "texts/*.txt" --size mini --output_dir pretrained',
    (ModelArguments, CorpusArguments, Objectives, PretrainingOptions),
    completed=with_saved_arguments,
    check=lambda model, corpus, objectives, options: check_libraries(options),
    with_trainer=True,
    defaults=_defaults,
    left_out=lambda given: ("remove_unused_columns", "train_sampling_strategy"),
)
