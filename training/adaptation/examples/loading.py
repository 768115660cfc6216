"""Loads the examples of a task, makes pairs from texts where it needs them, and holds out some for validation."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from ....command_line import UsageError
from ....command_line.counts import counted
from ....data.dataset_loading import load_from_hub
from ....data.text_pairs import pairs_from_text
from ....evaluation.tasks.columns import check_columns, check_texts
from ..arguments import TaskDataArguments
from ..run import Adaptation

# The share of the examples that is held out by default.
_SHARE = 0.1
# More pairs made from texts hardly change the order of models, and an evaluation embeds all of them.
_MOST_HELD_OUT = 300
# The similarity of a misspelt name. That of "text" is 0.6.
_SAME_WORD = 0.8
_PAIR, _SCORE = "text_pair", "score"


def load_examples(data: TaskDataArguments) -> dict[str, Any]:
    """Load the examples of `train`, and of `validation`, `test`, `calibration` and `unlabelled` if the user gave them.

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
    for split in ("train", "validation", "test", "calibration", "unlabelled"):
        if (files := data.files_of(split)) is not None:
            examples[split] = files.load()
    return examples


def hold_out(
    examples: dict[str, Any],
    data: TaskDataArguments,
    seed: int,
    classes: Sequence[Any] | None = None,
    most: int | None = None,
) -> tuple[dict[str, Any], Any]:
    """Hold out a share of the training examples for validation, unless there is a validation split.

    If each class has enough examples, both parts have the same shares of them. At most `most` examples are held out,
    unless the user sets the share.

    Returns:
        The examples with a validation split, and the numbers of the training examples that are left.

    Raises:
        UsageError: If there are fewer than two training examples.
    """
    if "validation" in examples:
        return examples, np.arange(len(examples["train"]))
    if len(examples["train"]) < 2:
        raise UsageError(f"at least two training examples are needed, got {len(examples['train'])}.")
    share = _SHARE if data.validation_share is None else data.validation_share
    count = min(max(1, round(share * len(examples["train"]))), len(examples["train"]) - 1)
    if most is not None and data.validation_share is None:
        count = min(count, most)
    rows = examples["train"]
    train, validation = _split(len(rows), count, seed, classes)
    return {**examples, "train": rows.select(train), "validation": rows.select(validation)}, np.asarray(train)


def _split(examples: int, count: int, seed: int, classes: Sequence[Any] | None) -> tuple[Any, Any]:
    """Return the numbers of the examples that are left, and of `count` that are held out."""
    if classes is not None:
        from sklearn.model_selection import train_test_split

        try:
            return tuple(
                train_test_split(range(examples), test_size=count, random_state=seed, stratify=list(map(str, classes)))
            )
        except ValueError:
            pass  # A class has a single example, or there are more classes than examples to hold out.
    order = np.random.default_rng(seed).permutation(examples)
    return order[count:], order[:count]


def fingerprint(rows: Any) -> str:
    """Return the number of examples and a digest of their content."""
    digest = blake2b(digest_size=8)
    for batch in rows.iter(batch_size=1000):
        digest.update(json.dumps(batch, sort_keys=True, default=str).encode())
    return f"{len(rows):,} with the digest {digest.hexdigest()}"


def warn_about_shared_texts(examples: Mapping[str, Any], texts: Sequence[str], splits: Sequence[str]) -> None:
    """Warn how many examples of some splits have the same texts as a training example, given the columns with texts."""
    known = set(_texts_of(examples["train"], texts))
    for split in splits:
        if count := sum(row in known for row in _texts_of(examples[split], texts)):
            print(
                f"{count} of the {len(examples[split])} {split} examples have the same text as a training example: "
                "the results will look better than they are."
            )


def number_texts(rows: Any, texts: Sequence[str]) -> Any:
    """Return a number for the text of each example (N,), in some columns. Equal texts have the same number."""
    numbers: dict[tuple[str, ...], int] = {}
    return np.array([numbers.setdefault(each, len(numbers)) for each in _texts_of(rows, texts)])


def warn_about_contradictions(data: TaskDataArguments, numbers: Any, classes: Sequence[str]) -> None:
    """Warn how many training texts have different labels in several examples; `numbers` are those of `number_texts`."""
    first: dict[int, int] = {}
    second: dict[int, int] = {}
    for index, (number, label) in enumerate(zip(numbers.tolist(), classes, strict=True)):
        if classes[first.setdefault(number, index)] != label:
            second.setdefault(number, index)
    if second:
        number, other = next(iter(second.items()))
        places = data.places_of("train", [first[number], other])
        print(
            f"{counted(len(second), 'training text')} {'has' if len(second) == 1 else 'have'} different labels: for "
            f"example, {classes[first[number]]} in {places[first[number]]}, and {classes[other]} in {places[other]}."
        )


def _texts_of(rows: Any, texts: Sequence[str]) -> Iterator[tuple[str, ...]]:
    # `str` makes lists of words hashable.
    return zip(*(map(str, rows[column]) for column in texts), strict=True)


def _is_unlabelled(rows: Any) -> bool:
    """Return whether all class labels of a split are -1, as in benchmarks with hidden test labels."""
    classes = [name for name, feature in rows.features.items() if hasattr(feature, "str2int")]
    return any(set(rows[name]) == {-1} for name in classes)


def lacks_pairs(run: Adaptation, examples: dict[str, Any]) -> bool:
    """Return whether the task needs pairs, and the training examples neither have nor name a second text or a score.

    A misspelt column of pairs is for the error that names the columns.
    """
    columns, data = examples["train"].column_names, run.data
    if run.model.task != "embedding" or data.text_pair_column is not None or data.label_column is not None:
        return False
    return _SCORE not in columns and not difflib.get_close_matches(_PAIR, columns, 1, _SAME_WORD)


def with_made_pairs(run: Adaptation, examples: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, int]]]:
    """Make pairs from the texts of each split that has none, after the validation texts are held out.

    Thus no validation text is trained on. A split with pairs keeps them.

    Returns:
        The examples, and for each split that had none, the number of pairs and of the texts that they are from.

    Raises:
        UsageError: If the texts are not valid, or a split has no text of two sentences.
    """
    from datasets import Dataset

    text = run.data.text_column or "text"
    check_columns(examples, {"text_column": text})
    check_texts(run.data, examples, "text_column", text)
    for split in [name for name, rows in examples.items() if _PAIR not in rows.column_names]:
        found = [number for number, each in enumerate(examples[split][text]) if pairs_from_text(each)]
        if not found:
            raise UsageError(
                f"--text_column {text}: no text of the {split} examples has two sentences, which a pair needs. "
                "If you have pairs, name the column of their second texts with --text_pair_column."
            )
        examples = {**examples, split: examples[split].select(found)}
    held_out, _ = hold_out(examples, run.data, run.args.seed, most=_MOST_HELD_OUT)
    made: dict[str, dict[str, int]] = {}
    for split, rows in held_out.items():
        if _PAIR not in rows.column_names:
            pairs = [pair for each in rows[text] for pair in pairs_from_text(each)]
            queries, passages = zip(*pairs, strict=True)
            held_out[split] = Dataset.from_dict({text: list(queries), _PAIR: list(passages)})
            made[split] = {"texts": len(rows), "pairs": len(pairs)}
    if run.args.should_save:
        counts = [
            f"{counted(each['pairs'], f'{split} pair')} from {counted(each['texts'], 'text')}"
            for split, each in made.items()
        ]
        print(f"The texts have no pairs (no column {_PAIR}); made {', '.join(counts)}.")
    return held_out, made
