"""`sequence-encoder export`: exports a checkpoint of this package or of a family that `convert` supports."""

from __future__ import annotations

from pathlib import Path

from ..conversion.loading import load_or_convert
from ..conversion.sidecar_files import folder_of, load_tokenizer
from ..conversion.source_models import transformer_folder
from ..hub.passed_on import inherited_card_fields
from ..saving.whole_folders import check_replaceable
from .comparison import ExportCheck
from .exporting import checked_export
from .requirements import FORMATS


def export_checkpoint(source: str, target: str, to: str, pooled: bool = False, force: bool = False) -> ExportCheck:
    """Load a checkpoint, convert it if necessary, and export it if both models have the same outputs.

    Args:
        source: A folder or a Hub id.
        target: The folder to write.
        to: The format.
        pooled: Whether to export only the encoder, with the pooling of its embedding recipe in the graph.
        force: Whether to replace `target` if it contains a saved model.

    Raises:
        FileExistsError: If `target` exists and must not be replaced. This is checked before anything is loaded.
        ValueError: If the checkpoint cannot be exported, or if the outputs differ. Nothing is written then.
    """
    check_replaceable(Path(target), force, "--force", kept=Path(source))
    model = load_or_convert(source, base_model=pooled)
    source_folder = folder_of(source)
    tokenizer = load_tokenizer(transformer_folder(source_folder), model)
    if tokenizer is None:
        raise ValueError(f"{source} has no tokenizer, which the exported model needs.")
    inherited = inherited_card_fields(source_folder)
    with checked_export(model, tokenizer, target, to, pooled, inherited, (force, "--force")) as check:
        print(f"Exported {type(model).__name__} to {FORMATS[to].title}. {check}")
    print(f"Saved in {target}.")
    return check
