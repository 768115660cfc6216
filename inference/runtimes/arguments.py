"""The options of `sequence-encoder export`. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...command_line import UsageError
from ...command_line.options import CALIBRATION_TEXTS, MODEL, OVERWRITE, option
from ...command_line.parser import Command
from .requirements import DTYPES, FORMATS, LAYOUTS, check_dtypes, check_format, check_layout, is_in_place


@dataclass
class ExportArguments:
    """What to export, and where to write it."""

    model: str = option(**MODEL)
    output_dir: str = option("Folder to write the exported model to.")
    format: str = option("Format to write.", "onnx", choices=list(FORMATS))
    pooled: bool = option(
        "Export the encoder without its head, and include pooling and normalization in the graph.", False
    )
    layout: str | None = option(
        "hub adds onnx/ to the folder of MODEL, which --output_dir repeats, beside its weights (with --format onnx); "
        "webgpu writes a graph that computes padding, with operations that WebGPU has (with --format transformers.js).",
        None,
        choices=list(LAYOUTS),
    )
    dtypes: list[str] | None = option(
        f"Precisions to write for transformers.js: some of {', '.join(DTYPES)} (default: fp32 and q8).", None
    )
    text_file: str | None = option(default=None, **CALIBRATION_TEXTS)
    overwrite: bool = option(default=False, **OVERWRITE)


def _check(options: ExportArguments) -> None:
    try:
        check_layout(options.layout, options.format, ("--layout", "--format"))
        if options.dtypes is not None:
            check_dtypes(options.dtypes, "--dtypes")
    except ValueError as error:
        raise UsageError(str(error)) from None
    if options.dtypes is not None and not (FORMATS[options.format].several_dtypes or options.layout):
        raise UsageError(
            f"--dtypes is only for --format transformers.js and --layout hub, got --format {options.format}."
        )
    writes_q8 = FORMATS[options.format].several_dtypes or is_in_place(options.layout)
    if options.text_file is not None and not (writes_q8 and "q8" in (options.dtypes or ["q8"])):
        raise UsageError(
            f"--text_file {options.text_file} is only for q8, the files in eight bits for transformers.js."
        )
    if is_in_place(options.layout) and Path(options.output_dir).resolve() != Path(options.model).resolve():
        raise UsageError(
            f"--layout {options.layout} adds files to MODEL, so --output_dir must be {options.model}, got "
            f"{options.output_dir}."
        )
    check_format(options.format)


EXPORT = Command(
    "export",
    "Export a model to ONNX, OpenVINO or a torch program, and check that its outputs stay the same.",
    "sentence-transformers/all-MiniLM-L6-v2 --output_dir exported --format onnx --pooled",
    (ExportArguments,),
    check=_check,
)
