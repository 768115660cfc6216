"""`sequence-encoder quantize`: quantizes a checkpoint of this package or of a family that `convert` supports."""

from __future__ import annotations

from pathlib import Path

from ..command_line import UsageError
from ..command_line.progress import Progress
from ..conversion.command import SAMPLES
from ..conversion.loading import load_or_convert
from ..conversion.sidecar_files import copy_sidecar_files, folder_of, load_tokenizer, save_tokenizer
from ..conversion.source_models import transformer_folder
from ..data.corpus_files import reader_of
from ..data.text_files import text_lines
from ..saving.whole_folders import atomic_folder, check_replaceable
from .arguments import QuantizeArguments
from .card import adjust_card
from .quantizing import QuantizationReport, quantize


def quantize_checkpoint(options: QuantizeArguments) -> QuantizationReport:
    """Load a checkpoint, convert it if necessary, quantize it, and save it to a folder, which is complete or absent.

    Raises:
        FileExistsError: If the folder exists and must not be replaced. This is checked before anything is loaded.
        ValueError: If the checkpoint cannot be converted or quantized. Nothing is written then.
    """
    source, output = options.model, Path(options.output_dir)
    may_replace = (options.overwrite, "--overwrite")
    check_replaceable(output, *may_replace, kept=Path(source))
    lines = None if options.text_file is None else _lines_of(Path(options.text_file))
    model = load_or_convert(source)
    source_folder = folder_of(source)
    encoder = Path(transformer_folder(source_folder))
    tokenizer = load_tokenizer(encoder, model)
    if tokenizer is None:
        raise ValueError(f"{source} has no tokenizer, which calibration needs.")
    report = quantize(model, tokenizer, lines, target=options.cosine)
    print(f"Quantized {type(model).__name__}. {report}")
    with Progress("Writing the model"), atomic_folder(output, *may_replace) as written:
        place = written / encoder.relative_to(source_folder)
        model.save_pretrained(place)
        save_tokenizer(tokenizer, place, list(SAMPLES))
        copy_sidecar_files(source_folder, encoder, written)
        adjust_card(written, output.resolve().name, model, report)
    print(f"Saved in {output}.")
    return report


def _lines_of(file: Path) -> list[str]:
    if reader_of(file) not in (None, "text"):
        raise UsageError(f"--text_file {file} must be a text file with one text per line, such as texts.txt.")
    return text_lines(file)
