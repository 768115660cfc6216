"""The options of `sequence-encoder choose`.

Nothing here imports torch, so that the command line reports mistakes at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...command_line import UsageError
from ...command_line.options import OVERWRITE, check_least, option
from ...command_line.parser import AddValues, Command
from ...data.corpus import TextArguments
from ...data.corpus_files import check_no_overlap
from ...inference.corpora.arguments import ID_COLUMN, ModelArguments
from ...inference.corpora.arguments import check_libraries as check_bulk_libraries


@dataclass
class ChoiceArguments:
    """How many texts to choose, which have labels already, and where to write the choice.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "choice"

    output_file: str = option("CSV file to write, with an empty column label to fill in.")
    count: int = option("Number of texts to choose.", 50)
    train_file: list[str] = option(
        "Training examples, such as the labelled files of earlier rounds. Their texts, and texts similar to those "
        "that have a label, are not chosen again.",
        [],
        action=AddValues,
    )
    id_column: str | None = option(default=None, **ID_COLUMN)
    vectors_dir: str | None = option(
        "Folder for the vectors of the corpus, which later rounds reuse (default: next to --output_file).", None
    )
    overwrite: bool = option(default=False, **OVERWRITE)

    def __post_init__(self) -> None:
        check_least(self, count=1)
        if Path(self.output_file).suffix.lower() != ".csv":
            raise UsageError(f"--output_file must end in .csv, got {self.output_file}.")

    @property
    def vectors(self) -> Path:
        """The folder for the vectors."""
        file = Path(self.output_file)
        return file.with_name(f"{file.stem}-vectors") if self.vectors_dir is None else Path(self.vectors_dir)


CHOOSE = Command(
    "choose",
    "Choose the texts of a corpus that are most useful to label next, and write them to a CSV file.\n"
    "If the command is interrupted, run it again to continue.",
    'minilm --corpus "texts/*.csv" --count 50 --output_file chosen.csv',
    (ModelArguments, TextArguments, ChoiceArguments),
    check=lambda model, corpus, options: check_output(corpus, options),
)


def check_output(corpus: TextArguments, options: ChoiceArguments) -> None:
    """Check the libraries and the output file.

    Raises:
        MissingLibraryError: If a library is missing.
        FileExistsError: If the file exists.
        UsageError: If it is part of the corpus.
    """
    check_bulk_libraries("choose")
    check_no_overlap(Path(options.output_file), corpus.corpus, "--output_file")
    if Path(options.output_file).exists() and not options.overwrite:
        raise FileExistsError(
            f"{options.output_file} exists and may contain labels; choose another --output_file, or pass --overwrite."
        )
