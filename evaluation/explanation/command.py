"""`sequence-encoder explain`: loads a model, explains texts, and prints and saves the explanations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase

from ...command_line import UsageError
from ...command_line.counts import counted
from ...command_line.progress import Progress, counted_by, say
from ...conversion.source import Source
from ...data.corpus_files import find_files
from ...data.row_files import ROW_READERS, RowFiles
from ...data.text_files import TextFormat
from ...inference.device import choose_device
from ...saving.whole_folders import check_writable
from .arguments import ExplainedTexts, ExplanationArguments
from .attention_map import AttentionMap, attention_of
from .explaining import head_of, iter_explain, paired
from .explanation import Explanation, save_explanations
from .heads import SimilarityHead
from .neighbours import Neighbour, nearest_examples

_PAGE, _DATA = "explanations.html", "explanations.jsonl"
# More pictures would take longer than the explanations, and more text would hide what the command says.
_SHOWN = 20


class IndexedExamples(Protocol):
    """Training examples whose vectors are in an index."""

    def nearest(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, texts: list[str], count: int
    ) -> list[list[Neighbour]]:
        """Return the nearest examples of each text."""


def explain_texts(
    texts: ExplainedTexts, options: ExplanationArguments, indexed: IndexedExamples | None = None
) -> list[Explanation]:
    """Explain texts, print the explanations, and save them.

    Args:
        texts: The model and the texts.
        options: How to explain, and what to write.
        indexed: The training examples in the index of the options.

    Returns:
        The explanations.

    Raises:
        OSError: If the output folder cannot be written.
        UsageError: If a file cannot be read, or the output folder must not be written.
        ValueError: If the model cannot explain the texts. Nothing is written then.
    """
    output = None if options.output_dir is None else Path(options.output_dir)
    if output is not None:
        _check_output(output, options.overwrite)
    pairs, examples = _read(texts), _read_examples(texts, options)
    model, tokenizer = _load(texts)
    _check_layers(options.attention, model)
    near = _nearest(model, tokenizer, [pair[0] for pair in pairs], options, examples, indexed)
    explained = zip(pairs, _explained(model, tokenizer, pairs, texts, options), near, strict=True)
    found: list[Explanation] = []
    for pair, explanations, neighbours in counted_by(Progress("Explaining", len(pairs), "text"), explained):
        # The console shows all explanations only if they are not saved.
        if output is None or len(found) < _SHOWN:
            say(_in_words(pair, explanations, neighbours, options.top_words))
        found += [replace(each, neighbours=tuple(neighbours)) for each in explanations]
    if len(found) > 1:
        better = sum(each.faithfulness is not None and each.faithfulness.better_than_random for each in found)
        print(f"{better:,} of {len(found):,} explanations are more faithful than random word orders.")
    if output is not None:
        _write(output, found, _attention_maps(model, tokenizer, pairs[:_SHOWN], options.attention, texts.max_length))
    return found


def _check_layers(layers: list[int], model: Any) -> None:
    depth = model.base_model.config.num_hidden_layers
    if wrong := [layer for layer in layers if not 0 <= layer < depth]:
        raise UsageError(f"--attention must be layers from 0 to {depth - 1}, got {wrong[0]}.")


def _nearest(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    options: ExplanationArguments,
    examples: list[tuple[Any, ...]] | None,
    indexed: IndexedExamples | None,
) -> list[list[Neighbour]]:
    """Return the nearest training examples of each text, from the index or the file; none without either."""
    if indexed is not None:
        return indexed.nearest(model, tokenizer, texts, options.nearest)
    if examples is None:
        return [[] for _ in texts]
    known, labels = (list(column) for column in zip(*examples, strict=True))
    return nearest_examples(model, tokenizer, texts, known, [*map(str, labels)], count=options.nearest)


def _explained(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[tuple[str, ...]],
    texts: ExplainedTexts,
    options: ExplanationArguments,
) -> Iterator[list[Explanation]]:
    return iter_explain(
        model,
        tokenizer,
        pairs,
        target=options.target,
        method=options.method,
        removal=options.removal,
        samples=options.samples,
        seed=options.seed,
        max_length=texts.max_length,
        max_tokens=texts.max_tokens,
    )


def _in_words(
    pair: tuple[str, ...], explanations: list[Explanation], neighbours: list[Neighbour], top_words: int
) -> str:
    """Return what the console says about a text."""
    lines = [*pair, *(each.table(top_words) for each in explanations)]
    if not explanations:
        lines.append("The model finds no entities to explain.")
    lines += [f"near: {neighbour.cosine:.3f} {neighbour.label}: {neighbour.text}" for neighbour in neighbours]
    return "\n".join([*lines, ""])


def _attention_maps(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[tuple[str, ...]],
    layers: list[int],
    max_length: int | None,
) -> Iterator[AttentionMap]:
    """Yield the attention of each layer for each of the texts."""
    for pair in pairs:
        for read in _read_at_once(model, pair):
            for layer in layers:
                yield attention_of(model, tokenizer, *read, layer=layer, max_length=max_length)


def _read_at_once(model: Any, pair: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the texts that the model reads together."""
    return [(text,) for text in pair] if head_of(model) is SimilarityHead else [pair]


def _read(texts: ExplainedTexts) -> list[tuple[str, ...]]:
    if texts.text_file is None:
        return paired(str(texts.text), texts.text_pair)
    columns = [texts.text_column, *([] if texts.text_pair_column is None else [texts.text_pair_column])]
    rows = _read_columns(texts.text_file, "text_file", columns, texts.encoding, texts.delimiter)
    try:
        return paired(*([row[index] for row in rows] for index in range(len(columns))))
    except ValueError as error:
        raise UsageError(f"--text_file {texts.text_file}: {error}") from error


def _read_examples(texts: ExplainedTexts, options: ExplanationArguments) -> list[tuple[Any, ...]] | None:
    """Return the text and the label of each training example, if there is a file with them."""
    if options.train_file is None:
        return None
    columns = [texts.text_column, options.label_column]
    return _read_columns(options.train_file, "train_file", columns, texts.encoding, texts.delimiter)


def _load(texts: ExplainedTexts) -> tuple[Any, PreTrainedTokenizerBase]:
    device, source = choose_device(texts.device), Source(texts.model)
    model: Any = source.load()
    tokenizer = source.tokenizer_for(model)
    model.to(device)
    if texts.dtype != "auto":
        model.to(getattr(torch, texts.dtype))
    return model.eval(), tokenizer


def _check_output(output: Path, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output_dir {output} is a file; choose another folder.")
    check_writable(output / _DATA)
    if not output.exists() or not any(output.iterdir()):
        return
    if not (output / _DATA).is_file():
        raise UsageError(f"--output_dir {output} contains other files; choose another folder.")
    if not overwrite:
        raise UsageError(f"--output_dir {output} contains explanations; choose another folder, or pass --overwrite.")


def _write(output: Path, found: list[Explanation], maps: Iterable[AttentionMap]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    # First the file by which an interrupted run is known.
    save_explanations(found, output / _DATA)
    save_explanations(found, output / _PAGE)
    for old in [*output.glob("explanation-*.png"), *output.glob("attention-*-layer-*.png")]:
        old.unlink()
    for number, each in enumerate(found[:_SHOWN]):
        each.save(output / f"explanation-{number:02}.png")
    for number, drawn in enumerate(maps):
        drawn.save(output / f"attention-{number:02}-layer-{drawn.layer}.png")
    rest = f"; the console and the pictures show the first {_SHOWN}" if len(found) > _SHOWN else ""
    print(f"Saved {counted(len(found), 'explanation')} in {output}{rest}.")


def _read_columns(
    name: str, option: str, columns: Sequence[str], encoding: str | None = None, delimiter: str | None = None
) -> list[tuple[Any, ...]]:
    """Read columns of a file.

    Args:
        name: The file.
        option: The option that named it, for errors.
        columns: The names of the columns.
        encoding: The encoding of the file.
        delimiter: The separator of a CSV file.

    Returns:
        The values of each row, in the order of the columns. Cells of CSV are strings.

    Raises:
        UsageError: If the file cannot be read, or has no such column, or no rows.
    """
    found = find_files(name, option)
    if found is None or found[0] not in ROW_READERS:
        problem = "there is no such file" if found is None else "must end in .jsonl, .json, .csv, .tsv or .txt"
        raise UsageError(f"--{option} {name}: {problem}.")
    files = RowFiles(*found, TextFormat(encoding, delimiter))
    rows = list(files.rows())
    if not rows:
        raise UsageError(f"--{option} {name} has no rows.")
    for index, row in enumerate(rows):
        for column in columns:
            if column not in row:
                raise UsageError(f"{files.place(index)} has no column {column}; it has {', '.join(row)}.")
    return [tuple(row[column] for column in columns) for row in rows]
