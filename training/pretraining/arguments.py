"""The options of `sequence-encoder pretrain`: what is trained, on what, how; and their defaults for each preset.

Nothing here imports torch, so that mistakes on the command line are refused at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ...command_line import UsageError
from ...command_line.extras import require, require_reporters
from ...command_line.parser import CommandLine, check_used
from ...data.corpus import CorpusArguments
from .objective_arguments import Objectives

# In the output folder, for what is needed to go on after an interruption.
SCRATCH = "_pretraining"

# Layers and channels of the sizes of Turc et al. (2019). A head has 64 channels, a feed-forward network four times as
# many as the layer, and a gated one two thirds of that, which makes as many parameters.
SIZES = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
    "large": (24, 1024),
}

# Arguments that another one leaves without a use.
_OF_NEW_TOKENIZERS = ("vocab_size", "algorithm", "lowercase")
_NOT_USED_WITH = (
    *((name, "from_checkpoint") for name in ("preset", "size", *_OF_NEW_TOKENIZERS)),
    *((name, "tokenizer") for name in _OF_NEW_TOKENIZERS),
)

# Five special tokens, and one character in WordPiece's two forms, or all bytes.
_SMALLEST_VOCABULARIES = {"wordpiece": 7, "byte_level_bpe": 261}

# What the presets are trained with where nothing else is said. Post-norm layers need small steps and a long warmup.
_POST_NORM: dict[str, Any] = {"learning_rate": 5e-4, "warmup_steps": 0.1, "muon": False}
TRAINING_DEFAULTS: dict[str, dict[str, Any]] = {
    "vanilla": _POST_NORM,
    "bert": _POST_NORM,
    "modernbert": {"learning_rate": 5e-3, "warmup_steps": 0.02, "muon": True},
}
# AdamW alone is trained with smaller steps than Muon.
_ADAMW_RATE = 1e-3
# What a checkpoint goes on with: small steps, which leave it what it has learned.
CONTINUED_DEFAULTS: dict[str, Any] = {"learning_rate": 5e-4, "warmup_steps": 0.1, "muon": True}


@dataclass
class ModelArguments:
    """Which encoder is trained.

    Raises:
        UsageError: for values that are not allowed.
    """

    _argument_group_name = "model"

    preset: str = field(default="modernbert", metadata={"help": "Architecture.", "choices": list(TRAINING_DEFAULTS)})
    size: str = field(default="mini", metadata={"help": "Layers and channels.", "choices": list(SIZES)})
    config_overrides: str | None = field(
        default=None, metadata={"help": "Fields of the configuration: 'num_hidden_layers=6,norm=rms_norm'."}
    )
    from_checkpoint: str | None = field(
        default=None,
        metadata={
            "aliases": ["--from"],
            "help": "Encoder to train further, with its tokenizer: a folder or a Hub id. Replaces --preset, --size "
            "and --vocab_size.",
        },
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "Folder or Hub id; by default a new one is trained on the corpus."}
    )
    vocab_size: int = field(default=30522, metadata={"help": "Tokens of the new tokenizer."})
    algorithm: str = field(
        default="wordpiece",
        metadata={"help": "Algorithm of the new tokenizer.", "choices": ["wordpiece", "byte_level_bpe"]},
    )
    lowercase: bool = field(default=False, metadata={"help": "Make the new tokenizer drop case."})
    max_length: int = field(default=512, metadata={"help": "Tokens of the longest window."})
    max_tokens: int = field(default=8192, metadata={"help": "Tokens of a pack, which holds many windows."})

    def __post_init__(self) -> None:
        if self.max_length < 5:
            raise UsageError(f"--max_length must be at least 5, got {self.max_length}.")
        # More than any computer has memory for.
        for name, most in (("max_length", 10**6), ("max_tokens", 10**8), ("vocab_size", 10**7)):
            if (value := getattr(self, name)) > most:
                raise UsageError(f"--{name} must be at most {most:,}, got {value}.")
        if self.max_tokens < self.max_length:
            raise UsageError(f"--max_tokens must be at least --max_length {self.max_length}, got {self.max_tokens}.")
        if self.from_checkpoint is not None and (self.tokenizer or self.config_overrides):
            raise UsageError(
                "--from brings its own tokenizer and configuration; leave out --tokenizer and --config_overrides."
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
                f"--config_overrides {name}: there is no such field of the configuration; SequenceEncoderConfig lists "
                "them."
            )
        for name in sorted(each for each in overrides if each.endswith("_token_id")):
            raise UsageError(f"--config_overrides {name}: the tokenizer says it; leave it out.")
        try:
            SequenceEncoderConfig.from_preset(self.preset, **self.config_fields())
        except (StrictDataclassError, ValueError, TypeError) as error:
            # The first line of a StrictDataclassError only names the check that failed.
            reason = error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error
            raise UsageError(f"--config_overrides {self.config_overrides}: {reason}") from error

    def overrides(self) -> dict[str, Any]:
        """The fields of `--config_overrides`."""
        found: dict[str, Any] = {}
        for part in filter(None, (self.config_overrides or "").split(",")):
            name, equals, value = part.partition("=")
            if not equals:
                raise UsageError(f"--config_overrides must be like 'name=value,name=value', got {part!r}.")
            try:
                found[name.strip()] = json.loads(value)
            except ValueError:
                found[name.strip()] = {"True": True, "False": False, "None": None}.get(value, value)
        return found

    def config_fields(self) -> dict[str, Any]:
        """The fields of the configuration that size and overrides give."""
        from ...configuration.presets import PRESETS

        layers, hidden = SIZES[self.size]
        overrides = self.overrides()
        gated = overrides.get("feed_forward", PRESETS[self.preset].get("feed_forward", "mlp")) == "glu"
        sizes = {
            "num_hidden_layers": layers,
            "hidden_size": hidden,
            "num_attention_heads": hidden // 64,
            "intermediate_size": 64 * round(8 / 3 * hidden / 64) if gated else 4 * hidden,
            # Sentence order has few labels a batch; through the mean their noise would reach every masked token.
            "pooling": "cls",
        }
        return {**sizes, **overrides}


@dataclass
class PretrainingOptions:
    """How it is trained: what `Trainer` does not have, and what it has with other defaults."""

    _argument_group_name = "training"

    output_dir: str | None = field(default="pretrained", metadata={"help": "Folder for the model and its checkpoints."})
    resume: bool = field(default=False, metadata={"help": "Continue from the last checkpoint in the output folder."})
    overwrite: bool = field(default=False, metadata={"help": "Start anew and remove what an earlier run left there."})
    muon: bool = field(
        default=True, metadata={"help": "Train matrices with Muon and the rest with AdamW, instead of --optim."}
    )
    lr_decay_share: float = field(
        default=0.3, metadata={"help": "Last share of the training, in which the rate falls."}
    )
    ema_decay: float | None = field(
        default=None,
        metadata={"help": "Save an average of the weights, in which the past has this share."},
    )
    per_device_train_batch_size: int = field(default=1, metadata={"help": "Packs per device and step."})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "Windows per device in an evaluation."})
    num_train_epochs: float = field(default=10.0, metadata={"help": "Passes over the corpus."})
    learning_rate: float = field(default=5e-3, metadata={"help": "The highest learning rate."})
    weight_decay: float = field(default=0.01, metadata={"help": "Decay of all weights but norms and biases."})
    adam_beta2: float = field(default=0.98, metadata={"help": "Second beta of AdamW."})
    lr_scheduler_type: str = field(
        default="warmup_stable_decay",
        metadata={"help": "warmup_stable_decay (a trapezoid), cosine, linear and others."},
    )
    warmup_steps: float = field(default=0.02, metadata={"help": "Steps, or their share, in which the rate rises."})
    bf16: bool | None = field(
        default=None, metadata={"help": "Autocast to bfloat16; by default where the hardware gains from it."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps, or their share, between two logs."})
    eval_steps: float | None = field(default=0.1, metadata={"help": "Steps, or their share, between evaluations."})
    save_steps: float = field(default=0.1, metadata={"help": "Steps, or their share, between checkpoints."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must be False."})
    train_sampling_strategy: str = field(
        default="sequential", metadata={"help": "Must be 'sequential': packs are shuffled before."}
    )
    report_to: list[str] = field(  # `HfArgumentParser` would read one name otherwise
        default_factory=lambda: ["tensorboard"],
        metadata={"help": "Where to log: tensorboard, trackio, codecarbon (energy) and others, or none."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of the weights, the order and the masks."})


def check_libraries(options: PretrainingOptions) -> None:
    """Check that all optional libraries are there that a run will need.

    Raises:
        MissingLibraryError: if one is not.
    """
    require("pretrain", "datasets", "matplotlib", extra="train")
    require_reporters(options.report_to)


def _defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of the preset, or of a checkpoint that is trained further."""
    check_used(given, _NOT_USED_WITH)
    preset = given.get("preset", ModelArguments.preset)
    continued = given.get("from_checkpoint") is not None
    defaults = dict(CONTINUED_DEFAULTS if continued else TRAINING_DEFAULTS.get(preset, {}))
    if "optim" in given:
        # Whoever names an optimizer means it.
        defaults["muon"] = False
    if not given.get("muon", defaults.get("muon", True)):
        defaults["learning_rate"] = min(defaults.get("learning_rate", _ADAMW_RATE), _ADAMW_RATE)
    if given.get("eval_documents"):
        defaults["eval_strategy"] = "steps"
    return defaults


COMMAND_LINE = CommandLine(
    "pretrain",
    "Pretrain an encoder on masked tokens and sentence order.",
    '--corpus "texts/*.txt" --size mini --output_dir pretrained',
    (ModelArguments, CorpusArguments, Objectives, PretrainingOptions),
    with_trainer=True,
    defaults=_defaults,
    out_of_use=lambda given: ("remove_unused_columns", "train_sampling_strategy"),
)
