"""Code that the example scripts share: arguments, data loading, and the calls of `Trainer`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from datasets import load_dataset
from transformers import HfArgumentParser, Trainer, TrainingArguments


@dataclass
class ScriptArguments:
    """The model and the data."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the model."})
    train_file: str | None = field(default=None, metadata={"help": "Training data: CSV, JSON Lines or Parquet."})
    validation_file: str | None = field(default=None, metadata={"help": "Validation data, of the same format."})
    dataset_name: str | None = field(default=None, metadata={"help": "Dataset on the Hub, instead of files."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of that dataset."})
    max_seq_length: int = field(default=256, metadata={"help": "Maximum number of tokens in a text or window."})


def read_arguments(*kinds: type) -> tuple[Any, ...]:
    """Parse the command line, or a JSON or YAML file, into one instance of each dataclass."""
    parser = HfArgumentParser(cast(Any, kinds))
    if len(sys.argv) == 2 and sys.argv[1].endswith((".json", ".yaml", ".yml")):
        return cast(Any, parser.parse_yaml_file(sys.argv[1]))
    return cast(Any, parser.parse_args_into_dataclasses())


def load_splits(arguments: ScriptArguments) -> Any:
    """Load the given splits of `train` and `validation`."""
    if arguments.dataset_name is not None:
        return load_dataset(arguments.dataset_name, arguments.dataset_config_name)
    given = {"train": arguments.train_file, "validation": arguments.validation_file}
    files = {split: file for split, file in given.items() if file is not None}
    if not files:
        raise ValueError("Give --train_file, --validation_file or --dataset_name.")
    ending = Path(next(iter(files.values()))).suffix.removeprefix(".")
    return load_dataset({"jsonl": "json"}.get(ending, ending), data_files=files)


def train_and_evaluate(trainer: Trainer, arguments: TrainingArguments) -> None:
    """Train, evaluate and push, depending on `--do_train`, `--do_eval` and `--push_to_hub`."""
    if arguments.do_train:
        trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
        trainer.save_model()
    if arguments.do_eval:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if arguments.push_to_hub:
        trainer.push_to_hub()
