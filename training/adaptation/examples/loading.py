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

# The share of the examples that is held out by default.
_SHARE = 0.1


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


def hold_out(
    examples: dict[str, Any], data: TaskDataArguments, seed: int, classes: Sequence[Any] | None = None
) -> dict[str, Any]:
    """Hold out a share of the training examples for validation, unless there is a validation split.

    Args:
        examples: The examples of each split.
        data: The share to hold out.
        seed: The seed of the random split.
        classes: The class of each training example. If each class has enough, both parts have the same shares of them.

    Returns:
        The examples with a validation split.

    Raises:
        UsageError: If there are fewer than two training examples.
    """
    if "validation" in examples:
        return examples
    if len(examples["train"]) < 2:
        raise UsageError(f"at least two training examples are needed, got {len(examples['train'])}.")
    share = _SHARE if data.validation_share is None else data.validation_share
    count = min(max(1, round(share * len(examples["train"]))), len(examples["train"]) - 1)
    train, validation = _split(examples["train"], count, seed, classes)
    return {**examples, "train": train, "validation": validation}


def _split(rows: Any, count: int, seed: int, classes: Sequence[Any] | None) -> tuple[Any, Any]:
    if classes is not None:
        from sklearn.model_selection import train_test_split

        try:
            parts = train_test_split(
                range(len(rows)), test_size=count, random_state=seed, stratify=list(map(str, classes))
            )
            return rows.select(parts[0]), rows.select(parts[1])
        except ValueError:
            pass  # A class has a single example, or there are more classes than examples to hold out.
    parts = rows.train_test_split(test_size=count, seed=seed)
    return parts["train"], parts["test"]


def fingerprint(rows: Any) -> str:
    """Return the number of examples and a digest of their content."""
    digest = blake2b(digest_size=8)
    for batch in rows.iter(batch_size=1000):
        digest.update(json.dumps(batch, sort_keys=True, default=str).encode())
    return f"{len(rows):,} with the digest {digest.hexdigest()}"


def warn_about_shared_texts(examples: Mapping[str, Any], texts: Sequence[str], splits: Sequence[str]) -> None:
    """Warn how many examples of other splits have the same texts as a training example.

    Args:
        examples: The examples of each split.
        texts: The columns with the texts.
        splits: The splits to compare with the training examples.
    """
    known = set(_texts_of(examples["train"], texts))
    for split in splits:
        if count := sum(row in known for row in _texts_of(examples[split], texts)):
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
