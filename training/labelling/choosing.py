"""`sequence-encoder choose`: chooses the texts of a corpus that are most useful to label next, and says why.

Shapes: N texts, D channels, C labels.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pyarrow import dataset, parquet

from ...command_line import UsageError
from ...command_line.counts import counted
from ...command_line.progress import Progress
from ...conversion.source import Source
from ...data.batching import longest_first
from ...data.corpus import TextArguments
from ...data.corpus_files import find_files
from ...data.label_file import LABEL, REASON, TEXT, without_options
from ...data.text_files import TextFormat, csv_text
from ...evaluation.tasks.example_arguments import ExampleFiles
from ...inference.corpora.arguments import (
    EmbeddingArguments,
    ModelArguments,
    PathOrName,
    PredictionArguments,
    RowArguments,
    arguments_of,
)
from ...inference.corpora.formats import FACTS, VECTORS
from ...inference.corpora.models import kind_of, load_encoder
from ...inference.corpora.predictions import Predictions
from ...inference.corpora.results import Computation, Tokens
from ...inference.corpora.rows import Chunk, CorpusRows
from ...inference.corpora.run import Run
from ...inference.corpora.vectors import Vectors
from ...inference.device import choose_device, prepare
from ...inference.runtimes.exported_graph import is_classifier
from ...saving.whole_folders import check_writable, write_atomically
from .arguments import CHOOSE, ChoiceArguments, check_output
from .design import choose_by_design

# More texts need more memory, and hardly make a better choice: then these are random ones.
_MOST_TEXTS = 200_000
COLUMNS = ("id", TEXT, LABEL, REASON)
SCORES = "scores"
# The kinds of problems in which the scores of labels compete.
_ONE_LABEL = (None, "single_label_classification")
Array = npt.NDArray[Any]


def choose_texts(
    model: PathOrName, corpus: PathOrName, output_file: PathOrName, **options: Any
) -> list[dict[str, Any]]:
    """Choose the texts of a corpus that are most useful to label next, as `sequence-encoder choose`.

    Args:
        model: A folder or a Hub id of an encoder or a classifier.
        corpus: A file, folder, pattern or Hub dataset.
        output_file: The CSV file to write.
        **options: The options of the command, by their names.

    Returns:
        The rows of the file, the most useful text first.

    Raises:
        ValueError: If an option is not allowed or does not fit the model.
        FileExistsError: If the file exists, or another run is writing to the folder for the vectors.
    """
    return choose(*arguments_of(CHOOSE, {"model": model, "corpus": corpus, "output_file": output_file, **options}))


def choose(model: ModelArguments, corpus: TextArguments, options: ChoiceArguments) -> list[dict[str, Any]]:
    """Run `sequence-encoder choose`. See `choose_texts`."""
    check_output(corpus, options)
    check_writable(Path(options.output_file))
    labelled = _read_labelled(options, corpus)
    rows = RowArguments(str(options.vectors), id_column=options.id_column, columns=[corpus.text_column])
    read = CorpusRows(corpus, rows, empty_is_bad=True)
    source = Source(model.model)
    load = partial(load_for_choosing, model, source)
    run = Run("choose", (model, corpus, rows), source, options.vectors, read, "parquet", load, option="vectors_dir")
    outside = " outside the training files" if options.train_file else ""
    pool = _Pool.read(options.vectors, run().rows, corpus.text_column, set(map(_key, labelled)))
    if not len(pool.rows):
        raise UsageError(f"--corpus {corpus.corpus} has no texts{outside}.")
    known = _vectors_of([text for text, label in labelled.items() if label], load, pool.vectors.shape[1])
    with Progress("Choosing"):
        uncertain = None if pool.scores is None else _margins(pool.scores)
        count = min(options.count, len(pool.rows))
        chosen, similar = choose_by_design(pool.vectors, known, count, uncertain)
    found = pool.described(chosen, similar)
    # A spreadsheet only takes it for UTF-8 with a byte order mark.
    write_atomically(Path(options.output_file), ["\ufeff", csv_text(COLUMNS, found)])
    few = f"; no others are left{outside}" if count < options.count else ""
    print(f"{counted(count, 'text')} to label {'is' if count == 1 else 'are'} in {options.output_file}{few}.")
    return found


@dataclass
class _Pool:
    """The texts to choose from.

    Attributes:
        files: The shards.
        text_column: Their column with the texts.
        rows: (N,) the numbers of the rows.
        vectors: (N, D).
        scores: (N, C) the scores of a classifier, or None.
        labels: Its labels.
    """

    files: list[Path]
    text_column: str
    rows: Array
    vectors: Array
    scores: Array | None
    labels: list[str]

    @classmethod
    def read(cls, folder: Path, count: int, text_column: str, seen: set[int]) -> _Pool:
        """Read the shards of a folder, and add the keys of the texts of the corpus to those in `seen`."""
        files = sorted(folder.glob("shard-*.parquet"))
        schema = parquet.read_schema(files[0])
        facts = json.loads(schema.metadata[FACTS.encode()])
        scored = SCORES in schema.names
        names = [text_column, VECTORS, *([SCORES] if scored else [])]
        sampled = np.zeros(count, bool)
        sampled[np.random.default_rng(0).permutation(count)[:_MOST_TEXTS]] = True
        rows, first = [], 0
        vectors: list[Array] = []
        scores: list[Array] = []
        for batch in (batch for file in files for batch in parquet.ParquetFile(file).iter_batches(columns=names)):
            kept = [
                index
                for index, text in enumerate(batch.column(0).to_pylist())
                if sampled[first + index] and batch.column(1)[index].is_valid and not _is_seen(text, seen)
            ]
            rows.append(first + np.array(kept, np.int64))
            for column, parts in zip(batch.columns[1:], (vectors, scores), strict=False):
                parts.append(_matrix(column)[kept])
            first += batch.num_rows
        found = np.concatenate(scores) if scored else None
        labels = facts.get("labels", [])
        return cls(files, text_column, np.concatenate(rows), np.concatenate(vectors), found, labels)

    def described(self, chosen: Array, similar: Array) -> list[dict[str, Any]]:
        """Return the rows of the output for chosen texts, given the number of texts that are similar to each."""
        table = dataset.dataset(self.files).take(self.rows[chosen], columns=["id", self.text_column]).to_pylist()
        found = []
        for row, index, count in zip(table, chosen, similar, strict=True):
            reason = f"typical of {counted(count, 'similar text')}" if count else "unlike all others"
            if self.scores is not None:
                scores = self.scores[index]
                second, best = np.argsort(scores, kind="stable")[-2:]
                reason = (
                    f"the model hesitates between {self.labels[best]} ({scores[best]:.2f}) and "
                    f"{self.labels[second]} ({scores[second]:.2f}); {reason}"
                )
            found.append(dict(zip(COLUMNS, (row["id"], row[self.text_column], "", reason), strict=True)))
        return found


def _matrix(column: pa.FixedSizeListArray) -> Array:
    """Return a column of lists as an array, with any numbers in rows that are null."""
    flat = column.values.slice(column.offset * column.type.list_size, len(column) * column.type.list_size)
    return flat.to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)


def _margins(scores: Array) -> Array:
    """Return how little the scores (N, C) of the two best labels differ, from 0 to 1."""
    second, best = np.partition(scores, -2, axis=1)[:, -2:].T
    return 1 - (best - second)


def _key(text: str) -> int:
    """Return the same number for texts that differ in case and white space alone."""
    return hash(" ".join(text.casefold().split()))


def _is_seen(text: str, seen: set[int]) -> bool:
    """Return whether a text was seen before, and remember it."""
    before = len(seen)
    seen.add(_key(text))
    return len(seen) == before


def _read_labelled(options: ChoiceArguments, corpus: TextArguments) -> dict[str, str]:
    """Return the texts of labelled files, with their labels or an empty text."""
    found: dict[str, str] = {}
    for name in options.train_file:
        source = find_files(name, "train_file")
        if source is None or source[0] == "text":
            raise UsageError(f"--train_file {name} must be a CSV, TSV, JSON, Parquet or Arrow file.")
        if Path(options.output_file).resolve() in (file.resolve() for file in source[1]):
            raise UsageError(f"--output_file {options.output_file} would replace labels; choose another file.")
        # `choose` wrote these files, or people who label do; --encoding and --delimiter are those of the corpus.
        with without_options():
            rows = ExampleFiles(f"--train_file {name}", *source, TextFormat()).load()
        texts = corpus.text_column if corpus.text_column in rows.column_names else "text"
        for column in (texts, "label"):
            if column not in rows.column_names:
                raise UsageError(f"--train_file {name} has no column {column}; it has {', '.join(rows.column_names)}.")
        labels = ("" if label is None else str(label).strip() for label in rows["label"])
        found |= {text: label for text, label in zip(rows[texts], labels, strict=True) if isinstance(text, str)}
    return found


def _vectors_of(texts: list[str], load: Callable[[], Any], channels: int) -> Array:
    """Compute the vectors (N, D) of a few texts, whose number of channels is D."""
    if not texts:
        return np.zeros((0, channels), np.float32)
    computation = load()[0]
    chunk = Chunk(0, 0, True, pa.table({}), np.ones(len(texts), bool), [texts])
    with Progress("Computing the labelled texts", len(texts), "text") as progress:
        columns = computation.compute(chunk, computation.tokenize([texts]), progress)
    names = [each.name for each in computation.fields]
    return _matrix(columns[names.index(VECTORS)])


class ScoredVectors(Predictions):
    """The predictions of a classifier, and the inputs (D) of its last layer."""

    def __init__(self, classifier: Any, tokenizer: Any, model: ModelArguments) -> None:
        super().__init__(classifier, tokenizer, model, PredictionArguments(scores=True))
        self._inputs: list[torch.Tensor] = []
        self._channels = classifier.classifier.in_features
        classifier.classifier.register_forward_pre_hook(lambda layer, given: self._inputs.append(given[0]))

    @property
    def fields(self) -> list[pa.Field]:
        """See `Computation.fields`."""
        return [*super().fields, pa.field(VECTORS, pa.list_(pa.float32(), self._channels))]

    def compute(self, chunk: Chunk, tokens: Tokens, progress: Any) -> list[pa.Array]:
        """See `Computation.compute`."""
        self._inputs.clear()
        columns = super().compute(chunk, tokens, progress)
        # The batches in the order of `Predictions`.
        batches = longest_first([len(ids) for ids in tokens.ids], self.max_tokens)
        rows = torch.zeros(len(chunk.good), self._channels)
        if self._inputs:
            places = torch.from_numpy(chunk.good).nonzero().squeeze(1)[[index for batch in batches for index in batch]]
            rows[places] = torch.cat(self._inputs).float().cpu()
        flat = pa.array(rows.numpy().ravel())
        return [*columns, pa.FixedSizeListArray.from_arrays(flat, self._channels, mask=pa.array(~chunk.good))]


def load_for_choosing(model: ModelArguments, source: Source) -> tuple[Computation, str]:
    """Load a model for the vectors of texts and, if it is a classifier, its scores.

    Returns:
        The model, and a sentence that says how it computes.

    Raises:
        UsageError: If its vectors cannot be compared, or it has no tokenizer.
        ValueError: If it cannot be converted.
    """
    if (kind := kind_of(source)) is not None:
        raise UsageError(f"{model.model} computes {' and '.join(kind.kinds)} vectors, but choose needs dense ones.")
    if not source.is_exported:
        found: Any = source.load()
        if is_classifier(found) and found.config.num_labels > 1 and found.config.problem_type in _ONE_LABEL:
            tokenizer, sentence = source.tokenizer_for(found), prepare(found, choose_device(model.device), "auto")
            return ScoredVectors(found, tokenizer, model), sentence
    encoder, tokenizer, sentence = load_encoder(source, model.device, "auto")
    return Vectors(encoder, tokenizer, model, EmbeddingArguments()), sentence
