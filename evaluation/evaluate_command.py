"""`sequence-encoder evaluate`: measures a model on files, and writes a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..command_line import UsageError
from ..command_line.console import hide_progress_bars
from ..conversion.loading import load_or_convert
from ..conversion.sidecar_files import folder_of, load_tokenizer
from ..conversion.source_models import transformer_folder
from ..tasks.example_files import files_of
from .arguments import EvaluationArguments, EvaluationFiles
from .evaluating import Evaluation, evaluate
from .examples import evaluated_task
from .report import PAGE, check_folder


def evaluate_checkpoint(options: EvaluationArguments, data: EvaluationFiles) -> Evaluation:
    """Load a model, evaluate it on files, and write the report.

    Args:
        options: The model, and the folder to write.
        data: The files, and the names of their columns.

    Raises:
        FileExistsError: If the folder has a report that must not be replaced.
        UsageError: If the model or the examples cannot be evaluated. Nothing is computed or written then.
    """
    output = Path(options.output_dir)
    check_folder(output, options.overwrite)
    device = _device(options.device)
    with hide_progress_bars():
        examples: dict[str, Any] = {}
        for name in data.paths:
            files = files_of(data, name)
            assert files is not None
            examples[name] = files.load()
        model, tokenizer = _load(options.model, device)
        others = [_load(name, device) for name in options.also]
        found = evaluate(
            model,
            tokenizer,
            examples,
            also=others,
            columns=data,
            max_length=options.max_length,
            bootstrap_samples=options.bootstrap_samples,
            seed=options.seed,
        )
    found.save(output, options.overwrite)
    print(found)
    print(f"Open {(output / PAGE).resolve()} in a browser for the rest.")
    return found


def _load(name: str, device: torch.device) -> tuple[Any, Any]:
    source = folder_of(name)  # Its error names the model.
    model: Any = load_or_convert(name)
    evaluated_task(model)
    tokenizer = load_tokenizer(transformer_folder(source), model)
    if tokenizer is None:
        raise UsageError(f"{name} has no tokenizer.")
    return model.to(device), tokenizer


def _device(asked: str | None) -> torch.device:
    try:
        device = torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"--device {asked}: {str(error).partition(chr(10))[0]}") from error
    return device
