"""The examples of a task: from files or the Hub, a split each for training, validation and test."""

from __future__ import annotations

from typing import Any

from . import UsageError
from .adaptation_arguments import TaskDataArguments
from .corpus import find_files, load_from_hub, read_files


def load_examples(data: TaskDataArguments) -> dict[str, Any]:
    """`train` and, where they are given, `validation` and `test`: a `datasets.Dataset` each.

    Raises:
        UsageError: if there are none, or they cannot be read.
    """
    if data.dataset_name is not None:
        loaded = load_from_hub(data.dataset_name, "dataset_name", data.dataset_config_name)
        names = {"train": "train", "validation": data.validation_split, "test": data.test_split}
        examples = {split: loaded[name] for split, name in names.items() if name in loaded}
        if "train" not in examples:
            raise UsageError(f"--dataset_name {data.dataset_name} has no split train, but {', '.join(loaded)}.")
        if "test" in examples and _is_unlabelled(examples["test"]):
            print(f"The split {data.test_split} of {data.dataset_name} has no labels, and is left out.")
            del examples["test"]
    else:
        examples = {"train": _read(data.train_file, "train_file")}
    for name in ("validation", "test"):
        if file := getattr(data, f"{name}_file"):
            examples[name] = _read(file, f"{name}_file")
    for split, rows in examples.items():
        if not len(rows):
            raise UsageError(f"there are no {split} examples.")
    return examples


def hold_out(examples: dict[str, Any], data: TaskDataArguments, seed: int) -> dict[str, Any]:
    """With a share of the training examples for validation, where there are none for it.

    Raises:
        UsageError: if there are too few.
    """
    if "validation" in examples:
        return examples
    if len(examples["train"]) < 2:
        raise UsageError(f"two training examples or more are needed, got {len(examples['train'])}.")
    count = min(max(1, round(data.validation_share * len(examples["train"]))), len(examples["train"]) - 1)
    parts = examples["train"].train_test_split(test_size=count, seed=seed)
    return {**examples, "train": parts["train"], "validation": parts["test"]}


def _read(file: str | None, argument: str) -> Any:
    found = find_files(str(file), argument)
    if found is None:
        raise UsageError(
            f"--{argument} {file}: there is no such file; a dataset of the Hub is given by --dataset_name."
        )
    reader, files = found
    if reader == "text":
        raise UsageError(f"--{argument} {file} must be CSV, JSON, Parquet or Arrow, whose columns have names.")
    # A label may be called None; an empty cell alone has nothing.
    options: dict[str, Any] = {"keep_default_na": False, "na_values": [""]} if reader == "csv" else {}
    return read_files(reader, files, f"--{argument} {file}", **options)


def _is_unlabelled(rows: Any) -> bool:
    """Whether all classes of a split are -1, as in benchmarks that are judged elsewhere."""
    classes = [name for name, feature in rows.features.items() if hasattr(feature, "str2int")]
    return any(set(rows[name]) == {-1} for name in classes)
