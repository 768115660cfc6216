"""`sequence-encoder quantize`: quantizes a checkpoint of this package or of a family that `convert` supports."""

from __future__ import annotations

from pathlib import Path

from ...command_line import UsageError
from ...command_line.progress import Progress
from ...conversion.command import SAMPLES
from ...conversion.sidecar_files import save_tokenizer
from ...conversion.source import Source
from ...data.corpus_files import reader_of
from ...data.text_files import text_lines
from ...saving.whole_folders import atomic_folder, check_replaceable
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
    lines = None if options.text_file is None else lines_of(Path(options.text_file))
    checkpoint = Source(source)
    model = checkpoint.load()
    tokenizer = checkpoint.tokenizer_for(model)
    report = quantize(model, tokenizer, lines, target=options.cosine)
    print(f"Quantized {type(model).__name__}. {report}")
    with Progress("Writing the model"), atomic_folder(output, *may_replace) as written:
        folder = checkpoint.encoder_in(written)
        model.save_pretrained(folder)
        save_tokenizer(tokenizer, folder, list(SAMPLES))
        checkpoint.copy_sidecar_files(written)
        adjust_card(written, output.resolve().name, model, report)
    print(f"Saved in {output}.")
    return report


def lines_of(file: Path) -> list[str]:
    """Return the texts of `--text_file`.

    Raises:
        UsageError: If it is not a text file.
    """
    if reader_of(file) not in (None, "text"):
        raise UsageError(f"--text_file {file} must be a text file with one text per line, such as texts.txt.")
    return text_lines(file)
