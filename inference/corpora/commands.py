"""`sequence-encoder embed`, `predict` and `extract`, and the same in Python."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ...conversion.source import Source
from ...data.corpus import TextArguments
from ..device import choose_device
from .arguments import (
    EMBED,
    EXTRACT,
    PREDICT,
    EmbeddingArguments,
    EngineArguments,
    ExtractionArguments,
    ModelArguments,
    PathOrName,
    PredictionArguments,
    RowArguments,
    WindowedModelArguments,
    arguments_of,
    check_libraries,
)
from .cascade import CascadedPredictions
from .engine import local_engine
from .extraction import Extraction
from .listed_vectors import ListedVectors, check_options
from .models import kind_of, load_classifier, load_encoder, load_extractor, load_model, load_text_vectors
from .predictions import Predictions, stated_activation
from .ray_engine import ray_engine
from .ray_workers import with_absolute_paths
from .results import Computation, Counts
from .rows import CorpusRows
from .run import Run
from .vectors import Vectors
from .zero_shot_predictions import zero_shot_predictions


def embed_corpus(model: PathOrName, corpus: PathOrName, output_dir: PathOrName, **options: Any) -> Counts:
    """Write the vectors of all texts of a corpus, as `sequence-encoder embed`.

    Args:
        model: A folder or a Hub id.
        corpus: A file, folder, pattern or Hub dataset.
        output_dir: The folder to write. If the function is interrupted, call it again to continue.
        **options: The options of the command, by their names.

    Returns:
        The counts of rows, tokens, truncated texts and bad rows.

    Raises:
        ValueError: If an option is not allowed or does not fit the model, or the folder holds results of other
            settings.
        FileExistsError: If the folder contains anything else, or another run is writing to it.
    """
    return embed(*arguments_of(EMBED, {"model": model, "corpus": corpus, "output_dir": output_dir, **options}))


def predict_corpus(model: PathOrName, corpus: PathOrName, output_dir: PathOrName, **options: Any) -> Counts:
    """Write the labels and scores of all texts of a corpus, as `sequence-encoder predict`.

    Args:
        model: A folder or a Hub id.
        corpus: A file, folder, pattern or Hub dataset.
        output_dir: The folder to write. If the function is interrupted, call it again to continue.
        **options: The options of the command, by their names.

    Returns:
        The counts of rows, tokens, truncated texts and bad rows.

    Raises:
        ValueError: If an option is not allowed or does not fit the model, or the folder holds results of other
            settings.
        FileExistsError: If the folder contains anything else, or another run is writing to it.
    """
    return predict(*arguments_of(PREDICT, {"model": model, "corpus": corpus, "output_dir": output_dir, **options}))


def extract_corpus(model: PathOrName, corpus: PathOrName, output_dir: PathOrName, **options: Any) -> Counts:
    """Write the entities in all texts of a corpus, one row an entity, as `sequence-encoder extract`.

    Args:
        model: A folder or a Hub id.
        corpus: A file, folder, pattern or Hub dataset.
        output_dir: The folder to write. If the function is interrupted, call it again to continue.
        **options: The options of the command, by their names. `labels` or `label_descriptions` is required.

    Returns:
        The counts of rows, tokens, entities and bad rows.

    Raises:
        ValueError: If an option is not allowed or does not fit the model, or the folder holds results of other
            settings.
        FileExistsError: If the folder contains anything else, or another run is writing to it.
    """
    return extract(*arguments_of(EXTRACT, {"model": model, "corpus": corpus, "output_dir": output_dir, **options}))


def embed(
    model: ModelArguments,
    corpus: TextArguments,
    options: EmbeddingArguments,
    rows: RowArguments,
    engine: EngineArguments | None = None,
    command: str = "embed",
) -> Counts:
    """Run `sequence-encoder embed`, or the first part of another command. See `embed_corpus`."""
    engine = engine or EngineArguments()
    check_libraries("embed", options.format, engine.engine)
    if engine.engine == "ray":
        model, corpus = with_absolute_paths(model), with_absolute_paths(corpus)
    source = Source(model.model)
    kind = kind_of(source, options.vectors or ())
    if kind is not None:
        check_options(kind, model.model, options)

    def load() -> tuple[Computation, str]:
        if kind is not None:
            vectors, sentence = load_text_vectors(kind, source, choose_device(model.device), options.dtype)
            return ListedVectors(vectors, model, options), sentence
        encoder, tokenizer, sentence = load_encoder(source, model.device, options.dtype, options.trust_remote_code)
        return Vectors(encoder, tokenizer, model, options), sentence

    parts = (model, corpus, options, rows)
    # The vector of an empty text is near to all queries.
    read = CorpusRows(corpus, rows, empty_is_bad=command == "index")
    return Run(command, parts, source, Path(rows.output_dir), read, options.format, load, _engine(model, engine))()


def predict(
    model: ModelArguments,
    corpus: TextArguments,
    options: PredictionArguments,
    rows: RowArguments,
    engine: EngineArguments | None = None,
) -> Counts:
    """Run `sequence-encoder predict`. See `predict_corpus`."""
    engine = engine or EngineArguments()
    check_libraries("predict", engine=engine.engine)
    if engine.engine == "ray":
        model, corpus, options = (with_absolute_paths(part) for part in (model, corpus, options))
    source, then = Source(model.model), None if options.then is None else Source(options.then)

    def load() -> tuple[Computation, str]:
        given = (source, model.device, options.dtype, options.trust_remote_code)
        if options.labels is not None:
            found, tokenizer, sentence = load_model(*given)
            return zero_shot_predictions(found, tokenizer, model, options), sentence
        classifier, tokenizer, sentence = load_classifier(*given)
        if options.text_pair_column is None and stated_activation(classifier.config) is not None:
            sentence += (
                " It is a cross-encoder, and each text is read alone; for pairs, name the column of the second texts "
                "with --text_pair_column."
            )
        predictions = Predictions(classifier, tokenizer, model, options)
        if then is None:
            return predictions, sentence
        larger, tokenizer, _ = load_classifier(then, *given[1:])
        return CascadedPredictions(predictions, larger, tokenizer, model, options), sentence

    parts = (model, corpus, options, rows)
    read = CorpusRows(corpus, rows, options.text_pair_column)
    engine_of = _engine(model, engine)
    return Run("predict", parts, source, Path(rows.output_dir), read, "parquet", load, engine_of, then=then)()


def extract(
    model: WindowedModelArguments,
    corpus: TextArguments,
    options: ExtractionArguments,
    rows: RowArguments,
    engine: EngineArguments | None = None,
) -> Counts:
    """Run `sequence-encoder extract`. See `extract_corpus`."""
    engine = engine or EngineArguments()
    check_libraries("extract", engine=engine.engine)
    if engine.engine == "ray":
        model, corpus = with_absolute_paths(model), with_absolute_paths(corpus)
    source = Source(model.model)

    def load() -> tuple[Extraction, str]:
        extractor, tokenizer, sentence = load_extractor(source, model.device, options.dtype, options.trust_remote_code)
        return Extraction(extractor, tokenizer, model, options), sentence

    parts, output = (model, corpus, options, rows), Path(rows.output_dir)
    engine_of = _engine(model, engine)
    read = CorpusRows(corpus, rows)
    return Run("extract", parts, source, output, read, "parquet", load, engine_of, one_row_an_entity=True)()


def _engine(model: ModelArguments, engine: EngineArguments) -> Any:
    if engine.engine == "ray":
        return partial(ray_engine, workers=engine.workers, device=model.device)
    return local_engine
