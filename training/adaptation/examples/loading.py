"""Load the training, validation and test examples of a task from files or the Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from ....command_line import UsageError
from ....data.dataset_loading import load_from_hub
from ....tasks.example_files import files_of
from .arguments import TaskDataArguments


def load_examples(data: TaskDataArguments) -> dict[str, Any]:
    """Load the examples of each split.

    Args:
        data: The source of the examples.

    Returns:
        A `datasets.Dataset` for `train`, and for `validation`, `test` and `calibration` if the user gave them.

    Raises:
        UsageError: If the examples cannot be read, or a split is empty.
    """
    if data.dataset_name is not None:
        loaded = load_from_hub(data.dataset_name, "dataset_name", data.dataset_config_name)
        names = {"train": "train", "validation": data.validation_split, "test": data.test_split}
        examples = {split: loaded[name] for split, name in names.items() if name in loaded}
        if "train" not in examples:
            raise UsageError(
                f"--dataset_name {data.dataset_name} must have a split train, got the splits {', '.join(loaded)}."
            )
        if "test" in examples and _is_unlabelled(examples["test"]):
            print(f"The split {data.test_split} of {data.dataset_name} has no labels and is skipped.")
            del examples["test"]
        for split, rows in examples.items():
            if not len(rows):
                raise UsageError(f"--dataset_name {data.dataset_name} has no examples in its split {names[split]}.")
    else:
        examples = {}
    for split in ("train", "validation", "test", "calibration"):
        if (files := files_of(data, split)) is not None:
            examples[split] = files.load()
    return examples


def hold_out(examples: dict[str, Any], data: TaskDataArguments, seed: int) -> dict[str, Any]:
    """Hold out a share of the training examples for validation, unless there is a validation split.

    Args:
        examples: The examples of each split.
        data: The share to hold out.
        seed: The seed of the random split.

    Returns:
        The examples with a validation split.

    Raises:
        UsageError: If there are fewer than two training examples.
    """
    if "validation" in examples:
        return examples
    if len(examples["train"]) < 2:
        raise UsageError(f"at least two training examples are needed, got {len(examples['train'])}.")
    count = min(max(1, round(data.validation_share * len(examples["train"]))), len(examples["train"]) - 1)
    parts = examples["train"].train_test_split(test_size=count, seed=seed)
    return {**examples, "train": parts["train"], "validation": parts["test"]}


def fingerprint(rows: Any) -> str:
    """Return the number of examples and a digest of their content."""
    digest = blake2b(digest_size=8)
    for batch in rows.iter(batch_size=1000):
        digest.update(json.dumps(batch, sort_keys=True, default=str).encode())
    return f"{len(rows):,} with the digest {digest.hexdigest()}"


def warn_about_shared_texts(examples: Mapping[str, Any], texts: Sequence[str]) -> None:
    """Warn how many validation, test and calibration examples have the same texts as a training example.

    Args:
        examples: The examples of each split.
        texts: The columns with the texts.
    """
    known = set(_texts_of(examples["train"], texts))
    for split in ("validation", "test", "calibration"):
        if split in examples and (count := sum(row in known for row in _texts_of(examples[split], texts))):
            print(
                f"{count} of the {len(examples[split])} {split} examples have the same text as a training example: "
                "the results will look better than they are."
            )


def _texts_of(rows: Any, texts: Sequence[str]) -> Iterator[tuple[str, ...]]:
    # `str` makes lists of words hashable.
    return zip(*(map(str, rows[column]) for column in texts), strict=True)


def _is_unlabelled(rows: Any) -> bool:
    """Return whether all class labels of a split are -1, as in benchmarks with hidden test labels."""
    classes = [name for name, feature in rows.features.items() if hasattr(feature, "str2int")]
    return any(set(rows[name]) == {-1} for name in classes)
