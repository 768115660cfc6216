"""What `pretrain` takes from a program instead of names: texts, a model and a tokenizer that are in memory."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...command_line import UsageError
from ...data.corpus import CorpusArguments
from ..encoders import save_model

# What errors and settings call texts that have no file.
TEXTS = "texts in memory"
# Options that say how to read files or a Hub dataset.
_OF_FILES = ("dataset_config_name", "split", "sample_by", "encoding", "delimiter", "streaming", "shuffle_buffer")


@dataclass(frozen=True)
class InMemory:
    """What a run has in memory. None is what the arguments of the run name instead.

    Attributes:
        texts: A `datasets.Dataset` with the column "text".
        model: The model to continue.
        tokenizer: Its tokenizer, or that of a new encoder.
    """

    texts: Any = None
    model: PreTrainedModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> InMemory:
        """Return the objects among the options of `pretrain`, and replace them there by their names.

        Raises:
            UsageError: If an object has the wrong type, or does not fit the other options.
        """
        texts = model = tokenizer = None
        if not isinstance(corpus := options.pop("corpus"), str | os.PathLike):
            if found := sorted(options.keys() & set(_OF_FILES)):
                raise UsageError(f"{found[0]} has no effect with texts in memory; leave it out.")
            texts = _texts_of(corpus, options.get("text_column", "text"))
        else:
            options["corpus"] = corpus
        if isinstance(options.get("tokenizer"), PreTrainedTokenizerBase):
            tokenizer = options["tokenizer"]
            options["tokenizer"] = _name_of(tokenizer)
        if isinstance(options.get("model"), PreTrainedModel):
            model = options["model"]
            if tokenizer is None:
                raise UsageError(f"tokenizer must be the tokenizer of the model, got {options.get('tokenizer')!r}.")
            options["model"] = _name_of(model)
            del options["tokenizer"]
        for name, kind in (("model", "PreTrainedModel"), ("tokenizer", "PreTrainedTokenizerBase")):
            if not isinstance(value := options.get(name), str | os.PathLike | None):
                raise UsageError(f"{name} must be a name or a {kind}, got a {type(value).__name__}.")
        return cls(texts, model, tokenizer)

    def split(self, corpus: CorpusArguments, seed: int) -> tuple[Any, Any]:
        """Return the texts to train on and those to hold out, or None, as `load_corpus`.

        Raises:
            UsageError: If no texts are left to train on.
        """
        count = corpus.eval_documents
        if not count:
            return self.texts, None
        if count >= len(self.texts):
            raise UsageError(f"--eval_documents must be less than the {len(self.texts)} documents, got {count}.")
        parts = self.texts.train_test_split(test_size=count, seed=seed)
        return parts["train"], parts["test"]

    def save_model(self, folder: Path) -> PreTrainedTokenizerBase:
        """Save the model as a SequenceEncoder in float32, and return a copy of its tokenizer.

        Raises:
            UsageError: If the model cannot be converted.
        """
        assert self.model is not None
        assert self.tokenizer is not None
        save_model(copy.deepcopy(self.model), folder, _name_of(self.model))
        return copy.deepcopy(self.tokenizer)


def _name_of(found: PreTrainedModel | PreTrainedTokenizerBase) -> str:
    """Return where a model or a tokenizer was loaded from, or its class if it was made in memory."""
    return str(found.name_or_path) or type(found).__name__


def _texts_of(corpus: Any, column: str) -> Any:
    """Return texts, documents or a dataset as a dataset with the column "text" alone.

    Raises:
        UsageError: If there are no texts, or one is not a text.
    """
    from datasets import Dataset, DatasetDict, IterableDataset

    if isinstance(corpus, DatasetDict):
        raise UsageError(f"corpus must be one split, got a DatasetDict; pass one of {', '.join(map(repr, corpus))}.")
    if isinstance(corpus, IterableDataset):
        raise UsageError("corpus is a stream; pass its files or its Hub id, with streaming=True.")
    if isinstance(corpus, Dataset):
        if column not in corpus.column_names:
            raise UsageError(
                f"text_column {column} is not a column of corpus; choose one of {', '.join(corpus.column_names)}."
            )
        texts = corpus.select_columns([column])
        texts = texts if column == "text" else texts.rename_column(column, "text")
    elif isinstance(corpus, Iterable) and not isinstance(corpus, bytes | Mapping):
        texts = Dataset.from_dict({"text": [_text_of(each, number, column) for number, each in enumerate(corpus)]})
    else:
        raise UsageError(
            "corpus must be a file, a folder, a pattern, a Hub id, texts, documents or a Dataset, got a "
            f"{type(corpus).__name__}."
        )
    if not len(texts):
        raise UsageError("corpus must have at least one text, got none.")
    return texts


def _text_of(document: Any, number: int, column: str) -> str:
    text = document.get(column) if isinstance(document, Mapping) else document
    if not isinstance(text, str):
        where = f"corpus[{number}]" if text is document else f"corpus[{number}][{column!r}]"
        raise UsageError(f"{where} must be a text, got {text!r} of type {type(text).__name__}.")
    return text
