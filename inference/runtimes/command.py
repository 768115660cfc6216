"""`sequence-encoder export`: exports a checkpoint of this package or of a family that `convert` supports."""

from __future__ import annotations

from pathlib import Path

from ...conversion.source import Source
from ...hub.card.inherited_fields import inherited_card_fields
from ...saving.whole_folders import check_replaceable
from ..quantization.command import lines_of
from .arguments import ExportArguments
from .comparison import ExportCheck
from .exporting import checked_export
from .requirements import FORMATS, is_in_place


def export(options: ExportArguments) -> ExportCheck:
    """Load a checkpoint, convert it if necessary, and export it if both models have the same outputs.

    Raises:
        FileExistsError: If the folder exists and must not be replaced. This is checked before anything is loaded.
        ValueError: If the checkpoint cannot be exported, or if the outputs differ. Nothing is written then.
    """
    source, may_replace = options.model, (options.overwrite, "--overwrite")
    if not is_in_place(options.layout):
        check_replaceable(Path(options.output_dir), *may_replace, kept=Path(source))
    texts = None if options.text_file is None else lines_of(Path(options.text_file))
    checkpoint = Source(source)
    model = checkpoint.load(base_model=options.pooled)
    tokenizer = checkpoint.tokenizer_for(model)
    inherited = inherited_card_fields(checkpoint.folder)
    written = (options.output_dir, options.format, options.pooled)
    how = (options.dtypes, options.layout, texts)
    with checked_export(model, tokenizer, *written, inherited, may_replace, *how) as check:
        print(f"Exported {type(model).__name__} to {FORMATS[options.format].title}. {check}")
    print(f"Saved in {options.output_dir}.")
    return check
