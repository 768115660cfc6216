"""The options of `sequence-encoder pretrain` for the model and the training, and their defaults for each preset.

Nothing here imports torch, so that the command line reports mistakes at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ...command_line import UsageError
from ...command_line.extras import require
from ...command_line.parser import CommandLine, check_used
from ...data.corpus import CorpusArguments
from .objective_arguments import OBJECTIVES, Objectives

# The folder in the output folder for what an interrupted run needs to resume.
SCRATCH = "_pretraining"

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
    *((name, "from_checkpoint") for name in ("preset", "size", *_NEW_TOKENIZER_OPTIONS)),
    *((name, "tokenizer") for name in _NEW_TOKENIZER_OPTIONS),
)

# Five special tokens, and either one character in WordPiece's two forms or all bytes.
_SMALLEST_VOCABULARIES = {"wordpiece": 7, "byte_level_bpe": 261}

# Training defaults of the presets. Post-norm layers need a low learning rate and a long warmup.
_POST_NORM: dict[str, Any] = {"learning_rate": 5e-4, "warmup_steps": 0.1, "muon": False}
TRAINING_DEFAULTS: dict[str, dict[str, Any]] = {
    "vanilla": _POST_NORM,
    "bert": _POST_NORM,
    "modernbert": {"learning_rate": 5e-3, "warmup_steps": 0.02, "muon": True},
}
# AdamW alone needs a lower learning rate than Muon.
_ADAMW_RATE = 1e-3
# Defaults for continued pretraining: a low learning rate, to preserve what the checkpoint has learned.
CONTINUED_DEFAULTS: dict[str, Any] = {"learning_rate": 5e-4, "warmup_steps": 0.1, "muon": True}


@dataclass
class ModelArguments:
    """The encoder to train, its tokenizer, and the lengths of its inputs.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "model"

    preset: str = field(default="modernbert", metadata={"help": "Architecture.", "choices": list(TRAINING_DEFAULTS)})
    size: str = field(default="mini", metadata={"help": "Number of layers and hidden size.", "choices": list(SIZES)})
    config_overrides: str | None = field(
        default=None, metadata={"help": "Configuration fields, such as 'num_hidden_layers=6,norm=rms_norm'."}
    )
    from_checkpoint: str | None = field(
        default=None,
        metadata={
            "aliases": ["--from"],
            "help": "Encoder to continue pretraining, with its tokenizer: a folder or a Hub id. Replaces --preset, "
            "--size and --vocab_size.",
        },
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Tokenizer: a folder or a Hub id. By default, a new one is trained on the corpus."},
    )
    vocab_size: int = field(default=30522, metadata={"help": "Vocabulary size of the new tokenizer."})
    algorithm: str = field(
        default="wordpiece",
        metadata={"help": "Algorithm of the new tokenizer.", "choices": ["wordpiece", "byte_level_bpe"]},
    )
    lowercase: bool = field(default=False, metadata={"help": "Make the new tokenizer lowercase texts."})
    max_length: int = field(default=512, metadata={"help": "Maximum number of tokens in a window."})
    max_tokens: int = field(default=8192, metadata={"help": "Maximum number of tokens in a pack of windows."})

    def __post_init__(self) -> None:
        if self.max_length < 5:
            raise UsageError(f"--max_length must be at least 5, got {self.max_length}.")
        # No computer has memory for more.
        for name, most in (("max_length", 10**6), ("max_tokens", 10**8), ("vocab_size", 10**7)):
            if (value := getattr(self, name)) > most:
                raise UsageError(f"--{name} must be at most {most:,}, got {value}.")
        if self.max_tokens < self.max_length:
            raise UsageError(f"--max_tokens must be at least --max_length {self.max_length}, got {self.max_tokens}.")
        if self.from_checkpoint is not None and (self.tokenizer or self.config_overrides):
            raise UsageError(
                "--from comes with its own tokenizer and configuration; omit --tokenizer and --config_overrides."
            )
        least = _SMALLEST_VOCABULARIES.get(self.algorithm, 0)
        if self.tokenizer is None and self.from_checkpoint is None and self.vocab_size < least:
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

    output_dir: str | None = field(
        default="pretrained", metadata={"help": "Folder to save the model and its checkpoints in."}
    )
    resume: bool = field(default=False, metadata={"help": "Continue from the last checkpoint in the output folder."})
    overwrite: bool = field(default=False, metadata={"help": "Start over and delete what an earlier run wrote."})
    muon: bool = field(
        default=True, metadata={"help": "Train matrices with Muon and other weights with AdamW instead of --optim."}
    )
    lr_decay_share: float = field(
        default=0.3, metadata={"help": "Share of the steps, at the end, over which the learning rate decays."}
    )
    ema_decay: float | None = field(
        default=None,
        metadata={"help": "Save an exponential moving average of the weights with this decay."},
    )
    per_device_train_batch_size: int = field(default=1, metadata={"help": "Training batch size per device, in packs."})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "Evaluation batch size per device."})
    num_train_epochs: float = field(default=10.0, metadata={"help": "Number of epochs."})
    learning_rate: float = field(default=5e-3, metadata={"help": "Peak learning rate."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay; norms and biases are exempt."})
    adam_beta2: float = field(default=0.98, metadata={"help": "Second beta of AdamW."})
    lr_scheduler_type: str = field(
        default="warmup_stable_decay",
        metadata={"help": "Schedule: warmup_stable_decay (a trapezoid), cosine, linear and others."},
    )
    warmup_steps: float = field(default=0.02, metadata={"help": "Warmup steps, or their share of all steps."})
    bf16: bool | None = field(
        default=None, metadata={"help": "Autocast to bfloat16; the default depends on the hardware."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps between logs, or their share of all steps."})
    eval_steps: float | None = field(
        default=0.1, metadata={"help": "Steps between evaluations, or their share of all steps."}
    )
    save_steps: float = field(default=0.1, metadata={"help": "Steps between checkpoints, or their share of all steps."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must be False."})
    train_sampling_strategy: str = field(
        default="sequential", metadata={"help": "Must be 'sequential': the packs are already shuffled."}
    )
    report_to: list[str] = field(  # with another type, `HfArgumentParser` would read only one name
        default_factory=lambda: ["tensorboard"],
        metadata={"help": "Loggers: tensorboard, trackio, codecarbon (energy), others, or none."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of the weights, the data order and the masks."})


def check_libraries(options: PretrainingOptions) -> None:
    """Check that all optional libraries that the run needs are installed.

    Raises:
        MissingLibraryError: If one of them is missing.
    """
    # Tensorboard is the default, so a message about `--report_to` would name an option that the user has not typed.
    reporters = ["tensorboard"] if "tensorboard" in options.report_to else []
    require("pretrain", "datasets", "matplotlib", *reporters, extra="train")


def _defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of the preset, or those of continued pretraining."""
    check_used(given, _NOT_USED_WITH)
    objective = given.get("objective", Objectives.objective)
    for name in OBJECTIVES.get(objective, ()):
        if name in given and not (name == "sop_weight" and given[name] == 0):
            raise UsageError(f"--{name} has no effect with --objective {objective}; leave one of them out.")
    preset = given.get("preset", ModelArguments.preset)
    continued = given.get("from_checkpoint") is not None
    defaults = dict(CONTINUED_DEFAULTS if continued else TRAINING_DEFAULTS.get(preset, {}))
    if "optim" in given:
        # An explicit --optim takes precedence.
        defaults["muon"] = False
    if not given.get("muon", defaults.get("muon", True)):
        defaults["learning_rate"] = min(defaults.get("learning_rate", _ADAMW_RATE), _ADAMW_RATE)
    if given.get("eval_documents"):
        defaults["eval_strategy"] = "steps"
    return defaults


COMMAND_LINE = CommandLine(
    "pretrain",
    "Pretrain an encoder to predict masked tokens and sentence order, or to write.",
    '--corpus "texts/*.txt" --size mini --output_dir pretrained',
    (ModelArguments, CorpusArguments, Objectives, PretrainingOptions),
    with_trainer=True,
    defaults=_defaults,
    left_out=lambda given: ("remove_unused_columns", "train_sampling_strategy"),
)
