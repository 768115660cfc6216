"""`sequence-encoder calibrate`: calibrates a model on examples, and saves it to a new folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...command_line import UsageError
from ...command_line.progress import Progress
from ...conversion.command import SAMPLES
from ...conversion.sidecar_files import save_tokenizer
from ...conversion.source import Source
from ...data.corpus_files import find_files
from ...data.text_files import TextFormat, text_lines
from ...hub.card.calibration_section import card_section
from ...hub.card.card import model_card
from ...hub.card.sections import replace_section
from ...saving.calibration_files import CALIBRATION_PICTURE
from ...saving.card_mark import save_card
from ...saving.whole_folders import atomic_folder, check_replaceable
from ..examples import task_of
from ..tasks.example_arguments import ExampleFiles
from .arguments import CalibrationArguments, CalibrationFiles
from .calibrating import SPLIT, CalibrationReport, calibrate


def calibrate_checkpoint(options: CalibrationArguments, data: CalibrationFiles) -> CalibrationReport:
    """Load a checkpoint, convert it if necessary, calibrate it, and save it.

    Args:
        options: The model, the coverages, and the folder to write.
        data: The files, and the names of their columns.

    Raises:
        FileExistsError: If the folder exists and must not be replaced. This is checked before anything is loaded.
        UsageError: If the model cannot be calibrated, or the examples are not valid. Nothing is written then.
    """
    output = Path(options.output_dir)
    check_replaceable(output, options.overwrite, "--overwrite", kept=Path(options.model))
    files = data.files_of(SPLIT)
    assert files is not None
    examples = files.load()
    away = None if data.unfamiliar_file is None else texts_of(data)
    source = Source(options.model)
    model: Any = source.load()
    task_of(model, "calibrated")
    tokenizer = source.tokenizer_for(model)
    report = calibrate(
        model,
        tokenizer,
        examples,
        away=away,
        coverages=options.coverages,
        scaling=options.scaling,
        max_length=options.max_length,
        columns=data,
    )
    print(report)
    with Progress("Writing the model"), atomic_folder(output, options.overwrite, "--overwrite") as written:
        model.save_pretrained(written)
        save_tokenizer(tokenizer, written, list(SAMPLES))
        source.copy_sidecar_files(written)
        if not (card := written / "README.md").exists():
            save_card(card, model_card(model, output.resolve().name).content)
        add_to_card(written, report)
    print(f"Saved in {output}.")
    return report


def add_to_card(folder: Path, report: CalibrationReport) -> None:
    """Draw the reliability diagram, and put a section on the calibration at the top of the card of a folder.

    Args:
        folder: The folder, with a card.
        report: What `calibrate` has done.
    """
    report.plot(folder / CALIBRATION_PICTURE)
    replace_section(folder, "calibration", card_section(report.calibration, with_picture=True))


def texts_of(data: CalibrationFiles) -> list[str]:
    """Read the unfamiliar texts.

    Raises:
        UsageError: If there is no such file, or it has no column with texts.
    """
    assert data.unfamiliar_file is not None
    named, found = f"--unfamiliar_file {data.unfamiliar_file}", find_files(data.unfamiliar_file, "unfamiliar_file")
    if found is None:
        raise UsageError(f"{named}: there is no such file.")
    reader, files = found
    text_format = TextFormat(data.encoding, data.delimiter)
    if reader == "text":
        return [text for file in files for text in text_lines(file, text_format.encoding)]
    rows = ExampleFiles(named, reader, files, text_format).load()
    column = data.text_column or "text"
    if column not in rows.column_names:
        raise UsageError(f"{named} must have the column {column}, got the columns {', '.join(rows.column_names)}.")
    return list(rows[column])
