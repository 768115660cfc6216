"""`sequence-encoder evaluate`: measures a model on files, and writes a report."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..command_line import UsageError
from ..command_line.parser import as_words
from ..conversion.command import SAMPLES
from ..conversion.sidecar_files import save_tokenizer
from ..conversion.source import Source
from ..inference.device import choose_device
from ..saving.whole_folders import atomic_folder, check_replaceable
from .arguments import EvaluationArguments, EvaluationFiles
from .evaluating import Evaluation, evaluate
from .examples import task_of
from .report import PAGE, check_folder
from .shift.label_correction import checked_shares, match_label_shares


def evaluate_checkpoint(options: EvaluationArguments, data: EvaluationFiles) -> Evaluation:
    """Load a model, evaluate it on files, and write the report.

    Args:
        options: The model, and the folder to write.
        data: The files, and the names of their columns.

    Raises:
        FileExistsError: If the folder has a report that must not be replaced.
        OSError: If a folder cannot be written. This is checked before anything is computed.
        UsageError: If the model or the examples cannot be evaluated. Nothing is computed or written then.
    """
    output = Path(options.output_dir)
    check_folder(output, options.overwrite)
    if options.match is not None and options.match not in data.paths:
        raise UsageError(f"--match must be one of {', '.join(data.paths)}, got {options.match}.")
    if options.matched_dir is not None:
        check_replaceable(Path(options.matched_dir), options.overwrite, "--overwrite", kept=Path(options.model))
    device, home = choose_device(options.device), next(iter(data.paths))
    examples: dict[str, Any] = {}
    for name in data.paths:
        files = data.files_of(name)
        assert files is not None
        examples[name] = files.load()
    model, tokenizer = _load(options.model, device)
    if options.matched_dir is not None and task_of(model) != "classification":
        raise UsageError(f"--matched_dir needs a classifier with one label per text, which {options.model} is not.")
    if options.shares:
        checked_shares("--label_shares", options.shares, model)
    elif options.matched_dir is not None and (data.label_column or "label") not in examples[home].column_names:
        raise UsageError(f"--matched_dir needs --label_shares, because {home} has no labels.")
    others = [_load(name, device) for name in options.other_models]
    then = None if options.then is None else _load(options.then, device)
    found = evaluate(
        model,
        tokenizer,
        examples,
        also=others,
        then=then,
        columns=data,
        max_length=options.max_length,
        bootstrap_samples=options.bootstrap_samples,
        seed=options.seed,
    )
    found = replace(found, command=_command(options, data))
    found.save(output, options.overwrite)
    print(found)
    if options.matched_dir is not None and options.match is not None:
        rows, pair = examples[options.match], data.text_pair_column
        texts = list(rows[data.text_column or "text"])
        texts = texts if pair is None else list(zip(texts, rows[pair], strict=True))
        _save_matched(model, tokenizer, texts, found, options)
    print(f"Open {(output / PAGE).resolve()} in a browser for the rest.")
    return found


def _command(options: EvaluationArguments, data: EvaluationFiles) -> str:
    """Return the command without what it does besides evaluating, so that it can be run again."""
    more = as_words(options, "model", "overwrite", "matched_dir", "match", "label_shares")
    return shlex.join(["sequence-encoder", "evaluate", options.model, *as_words(data), *more])


def _save_matched(model: Any, tokenizer: Any, texts: Any, found: Evaluation, options: EvaluationArguments) -> None:
    """Save a copy of the model that assigns labels in the requested shares, or in the shares of the first file."""
    target = Path(str(options.matched_dir))
    with atomic_folder(target, options.overwrite, "--overwrite") as written:
        match_label_shares(model, tokenizer, texts, options.shares or found.files[0].label_shares, options.max_length)
        # It belongs to the scores before.
        model.calibration = None
        model.cpu().save_pretrained(written)
        save_tokenizer(tokenizer, written, list(SAMPLES))
    print(f"Saved {options.model} with other label shares in {target}. Calibrate it again for calibrated scores.")


def _load(name: str, device: torch.device) -> tuple[Any, Any]:
    source = Source(name)
    model: Any = source.load()
    task_of(model)
    return model.to(device), source.tokenizer_for(model)
