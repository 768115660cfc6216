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
from .card import adjust_card
from .quantizing import QuantizationReport, quantize


def quantize_checkpoint(
    source: str, target: str, texts: str | None = None, cosine: float = 0.999, force: bool = False
) -> QuantizationReport:
    """Load a checkpoint, convert it if necessary, quantize it, and save it.

    Args:
        source: A folder or a Hub id.
        target: The folder to write. It is complete or absent.
        texts: A file with a text in each line, for calibration; by default English sentences from the documentation of
            Python's standard library.
        cosine: The least mean cosine to the model before.
        force: Whether to replace `target` if it contains a saved model.

    Raises:
        FileExistsError: If `target` exists and must not be replaced. This is checked before anything is loaded.
        ValueError: If the checkpoint cannot be converted or quantized. Nothing is written then.
    """
    output = Path(target)
    check_replaceable(output, force, "--force", kept=Path(source))
    lines = None if texts is None else _lines_of(Path(texts))
    model = load_or_convert(source)
    source_folder = folder_of(source)
    encoder = Path(transformer_folder(source_folder))
    tokenizer = load_tokenizer(encoder, model)
    if tokenizer is None:
        raise ValueError(f"{source} has no tokenizer, which calibration needs.")
    report = quantize(model, tokenizer, lines, target=cosine)
    print(f"Quantized {type(model).__name__}. {report}")
    with Progress("Writing the model"), atomic_folder(output, force, "--force") as written:
        place = written / encoder.relative_to(source_folder)
        model.save_pretrained(place)
        save_tokenizer(tokenizer, place, list(SAMPLES))
        copy_sidecar_files(source_folder, encoder, written)
        adjust_card(written, output.resolve().name, model, report)
    print(f"Saved in {output}.")
    return report


def _lines_of(file: Path) -> list[str]:
    if reader_of(file) not in (None, "text"):
        raise UsageError(f"--texts {file} must be a text file with a text in each line, such as texts.txt.")
    return text_lines(file)
