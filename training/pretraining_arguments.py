"""The arguments of `sequence-encoder pretrain`: what is trained, on what, how; and their defaults for each preset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ..configuration.presets import PRESETS
from . import UsageError
from .arguments import check_fixed, check_training_arguments, parse_arguments, settle_device
from .corpus import CorpusArguments
from .objectives import Objectives

# In the output folder.
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

    preset: str = field(
        default="modernbert", metadata={"help": "The architecture.", "choices": list(TRAINING_DEFAULTS)}
    )
    size: str = field(default="mini", metadata={"help": "How large it is.", "choices": list(SIZES)})
    config_overrides: str | None = field(
        default=None, metadata={"help": "Fields of the configuration, such as 'num_hidden_layers=6,norm=rms_norm'."}
    )
    from_checkpoint: str | None = field(
        default=None,
        metadata={
            "aliases": ["--from"],
            "help": "A folder or a Hub id: go on with this encoder and its tokenizer, of any family that can be "
            "carried over; --preset, --size and --vocab_size say nothing then.",
        },
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "A folder or a Hub id; by default one is trained on the corpus."}
    )
    vocab_size: int = field(default=30522, metadata={"help": "Of a tokenizer that is trained here."})
    algorithm: str = field(
        default="wordpiece",
        metadata={"help": "Of a tokenizer that is trained here.", "choices": ["wordpiece", "byte_level_bpe"]},
    )
    lowercase: bool = field(default=False, metadata={"help": "Whether a tokenizer that is trained here drops case."})
    max_length: int = field(default=512, metadata={"help": "Tokens of the longest window."})
    max_tokens: int = field(
        default=8192, metadata={"help": "Tokens of a pack; a device has --per_device_train_batch_size packs at a time."}
    )

    def __post_init__(self) -> None:
        if self.max_length < 5:
            raise UsageError(f"--max_length must be at least 5, got {self.max_length}.")
        if self.max_tokens < self.max_length:
            raise UsageError(f"--max_tokens must be at least --max_length {self.max_length}, got {self.max_tokens}.")
        if self.from_checkpoint is not None and (self.tokenizer or self.config_overrides):
            raise UsageError("--from brings its own tokenizer and configuration; leave out those that you gave.")
        names = {field.name for field in fields(SequenceEncoderConfig)}
        if unknown := sorted(self.overrides().keys() - names):
            raise UsageError(f"--config_overrides has {', '.join(unknown)}, which are no fields of the configuration.")

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
class PretrainingArguments(TrainingArguments):
    """How it is trained: all arguments of `Trainer`, with defaults for pretraining, and a few more.

    Raises:
        UsageError: for values that are not allowed.
    """

    output_dir: str | None = field(default="pretrained", metadata={"help": "The folder for the model and checkpoints."})
    resume: bool = field(
        default=False, metadata={"help": "Go on from the last whole checkpoint in the output folder, if there is any."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Start anew, and remove what an earlier run left there."})
    muon: bool = field(
        default=True, metadata={"help": "Train matrices with Muon and the rest with AdamW, not by --optim."}
    )
    lr_decay_share: float = field(
        default=0.3, metadata={"help": "The last share of the training, in which 'warmup_stable_decay' decays."}
    )
    ema_decay: float | None = field(
        default=None,
        metadata={"help": "Share of the past in an average of the weights, which is what is saved at the end."},
    )
    per_device_train_batch_size: int = field(default=1, metadata={"help": "Packs on a device at a time."})
    per_device_eval_batch_size: int = field(
        default=32, metadata={"help": "Windows on a device at a time, to evaluate."}
    )
    num_train_epochs: float = field(default=10.0, metadata={"help": "How often the corpus is seen."})
    learning_rate: float = field(default=5e-3, metadata={"help": "The highest learning rate."})
    weight_decay: float = field(default=0.01, metadata={"help": "Of all weights but norms and biases."})
    adam_beta2: float = field(default=0.98, metadata={"help": "Of AdamW."})
    lr_scheduler_type: str = field(
        default="warmup_stable_decay",
        metadata={"help": "Trapezoidal ('warmup_stable_decay'), 'cosine', or any other of transformers."},
    )
    warmup_steps: float = field(
        default=0.02, metadata={"help": "Steps, or the share of them, in which the rate rises."}
    )
    bf16: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Autocast to bfloat16; by default where this machine is faster with it."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps, or the share of them, between two logs."})
    eval_steps: float | None = field(
        default=0.1, metadata={"help": "Steps, or the share of them, between evaluations."}
    )
    save_steps: float = field(default=0.1, metadata={"help": "Steps, or the share of them, between checkpoints."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must be False."})
    train_sampling_strategy: str = field(
        default="sequential", metadata={"help": "Must be 'sequential': packs are shuffled before."}
    )
    report_to: list[str] = field(  # `HfArgumentParser` would read one name otherwise
        default_factory=lambda: ["tensorboard"],
        metadata={"help": "Where to log: any of tensorboard, trackio, codecarbon (energy), ..., or none."},
    )
    seed: int = field(default=0, metadata={"help": "Of the weights, the order and the masks."})

    def __post_init__(self) -> None:
        check_fixed(
            self,
            remove_unused_columns=False,
            train_sampling_strategy="sequential",
            label_smoothing_factor=0.0,
            resume_from_checkpoint=None,
            save_only_model=False,
        )
        if not 0 < self.lr_decay_share <= 1:
            raise UsageError(f"--lr_decay_share must be above 0 and at most 1, got {self.lr_decay_share}.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise UsageError(f"--ema_decay must be between 0 and 1, got {self.ema_decay}.")
        if self.ema_decay is not None and self.load_best_model_at_end:
            raise UsageError("--ema_decay ends with the average of the weights, --load_best_model_at_end with others.")
        if self.resume and self.overwrite:
            raise UsageError("--resume goes on and --overwrite starts anew: give one of them.")
        check_training_arguments(self)
        settle_device(self)
        super().__post_init__()


@dataclass
class Pretraining:
    """One run: what it was asked for.

    Attributes:
        model: which encoder.
        corpus: on which texts.
        objectives: to learn what.
        args: how.
    """

    model: ModelArguments
    corpus: CorpusArguments
    objectives: Objectives
    args: PretrainingArguments

    @property
    def output(self) -> Path:
        """The output folder."""
        return Path(self.args.output_dir or "")

    @property
    def scratch(self) -> Path:
        """What is needed to go on after an interruption."""
        return self.output / SCRATCH


def parse(arguments: list[str]) -> Pretraining:
    """Reads the command line, as `parse_arguments` does.

    Raises:
        UsageError: for names and values that are not allowed.
    """
    kinds = (ModelArguments, CorpusArguments, Objectives, PretrainingArguments)
    described = "Pretrain an encoder on masked tokens and sentence order."
    return Pretraining(*parse_arguments("pretrain", described, kinds, arguments, _defaults))


def _defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the preset, or of going on with a checkpoint."""
    preset = given.get("preset", ModelArguments.preset)
    continued = given.get("from_checkpoint") is not None
    defaults = dict(CONTINUED_DEFAULTS if continued else TRAINING_DEFAULTS.get(preset, {}))
    if defaults.get("muon") and not given.get("muon", True):
        defaults["learning_rate"] = min(defaults["learning_rate"], _ADAMW_RATE)
    if given.get("eval_documents"):
        defaults["eval_strategy"] = "steps"
    return defaults
