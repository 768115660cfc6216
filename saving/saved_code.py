"""Selects the code that is saved with a model, and checks the code in a saved folder. Only the package runs this."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from .auto_classes import LEFT_OUT, classes_in_folder, model_classes, saved_class
from .calibration_files import CALIBRATION
from .code_bundle import BUNDLE_FILES, MARK, MODELING
from .merged_code import Selection, merged_code, table_text
from .module_list import MODULE_LIST
from .registered_pipelines import name_pipelines, pipelines_in_folder
from .version import package_version
from .written_for import EIGHT_BITS

_DIGEST = re.compile(r"^Digest: ([0-9a-f]+)$", re.MULTILINE)
_NO_DIGEST = "Digest: -"
_VERSION = re.compile(r"^Version (\S+) of the package", re.MULTILINE)
_ADAPTER = "sequence_encoder_task_adapter"
# Of the classes that are no models.
_MODULES = {
    LEFT_OUT: "modeling/heads/left_out.py",
    "QuestionAnsweringPipeline": "inference/pipelines/question_answering.py",
    "InfillingPipeline": "inference/pipelines/infilling_pipeline.py",
    "ZeroShotEntitiesPipeline": "inference/pipelines/zero_shot_entities.py",
    "ContinuationPipeline": "inference/pipelines/continuation_pipeline.py",
    "PromptedZeroShotClassificationPipeline": "inference/pipelines/prompted_zero_shot_classification.py",
    "CalibratedTextClassificationPipeline": "inference/pipelines/calibrated_text_classification.py",
    "CalibratedTokenClassificationPipeline": "inference/pipelines/calibrated_token_classification.py",
    "UncalibratedTextClassificationPipeline": "inference/pipelines/uncalibrated_pipelines.py",
    "UncalibratedTokenClassificationPipeline": "inference/pipelines/uncalibrated_pipelines.py",
    "SequenceEncoderConfig": "configuration/configuration_sequence_encoder.py",
    "TaskAdapterConfig": "configuration/configuration_task_adapter.py",
}
# Whole modules that the code in a folder leaves out, each with the module that stands for it: those that only the
# package needs,
_STAND_INS = {
    **dict.fromkeys(
        (
            "configuration/checked_fields.py",
            "configuration/presets.py",
            "configuration/shared_fields.py",
            "saving/atomic_saving.py",
            "saving/code_saving.py",
            "saving/loading.py",
        ),
        "hub/folder_code/configuration.py",
    ),
    **dict.fromkeys(
        (
            "modeling/cpu/busy_neighbours.py",
            "modeling/cpu/cross_entropy.py",
            "modeling/cpu/dropout.py",
            "modeling/cpu/gated.py",
            "modeling/cpu/prepacked.py",
            "modeling/heads/earlier_answering.py",
        ),
        "hub/folder_code/modeling.py",
    ),
    **dict.fromkeys(("modeling/checks.py", "modeling/label_checks.py"), "hub/folder_code/checks.py"),
}
# and those of models that others have nothing of.
_WITHOUT_GROUPS = {"modeling/attention/grouped.py": "hub/folder_code/modeling.py"}
_WITHOUT_ROTARY = {"configuration/rope_parameters.py": "hub/folder_code/configuration.py"}
_WITHOUT_WINDOWS = {"modeling/attention/banded.py": "hub/folder_code/modeling.py"}
_WITHOUT_POSITION_BIAS = dict.fromkeys(
    ("modeling/attention/disentangled.py", "modeling/attention/position_bias.py"),
    "hub/folder_code/without_position_bias.py",
)
_WITHOUT_CONVOLUTION = {"modeling/convolution.py": "hub/folder_code/modeling.py"}
_WITHOUT_CALIBRATION = dict.fromkeys(
    (
        "inference/pipelines/answer_sets.py",
        "modeling/calibration/calibration.py",
        "modeling/calibration/logit_calibration.py",
        "modeling/calibration/outputs.py",
    ),
    "hub/folder_code/without_calibration.py",
)
_WITHOUT_EIGHT_BITS = dict.fromkeys(
    (f"modeling/quantized/{name}.py" for name in ("eight_bit_network", "eight_bit_quantizer")),
    "hub/folder_code/without_eight_bits.py",
)
_WITHOUT_TABLE = {"modeling/static_names.py": "hub/folder_code/without_table.py"}
_WITHOUT_OTHER_VECTORS = {"modeling/text_encoding/text_encoding.py": "hub/folder_code/encoding.py"}
_WITHOUT_ENCODING = dict.fromkeys(
    (f"modeling/text_encoding/{name}.py" for name in ("recipe_files", "text_encoding")),
    "hub/folder_code/without_encoding.py",
)
# By the part that a model has beside its weights.
_WITHOUT = {
    "calibration": _WITHOUT_CALIBRATION,
    "eight_bits": _WITHOUT_EIGHT_BITS,
    "recipe": _WITHOUT_ENCODING,
    "table": _WITHOUT_TABLE,
}
# The field that selects an entry in each table of choices.
_TABLES = {
    "POSITION_EMBEDDINGS": "position_embedding",
    "POSITION_BIASES": "position_bias",
    "LAYERS": "norm_placement",
    "CONVOLUTION_LAYERS": "norm_placement",
    "NORMS": "norm",
    "FEED_FORWARDS": "feed_forward",
}
# Further ones that a trained head does not change.
_TABLES_OF_HEADS = {"POOLINGS": "pooling", "SELECTED_TOKENS": "pooling", "HEADS": "classifier_head"}
# The attributes of models that only the package reads, see `ModelClass`.
_UNUSED = frozenset({"_auto_classes", "_by_architecture", "_has_pipeline", "_hub_task", "_offers", "_use"})
# A field that selects code in another way.
_FIELDS = ("conv_kernel_size",)


def write_code(folder: Path, config: Any) -> None:
    """Write the code files for a model into a folder.

    Args:
        folder: The folder, which has the other files of the model if they are needed to choose the code.
        config: The configuration of the model.
    """
    for name, text in saved_code(folder, config).items():
        (folder / name).write_text(text, encoding="utf-8")


def complete_code(folder: Path, config: Any) -> None:
    """Write the code files again when the folder is complete, and the names of pipelines into its `config.json`.

    Args:
        folder: The folder of a saved model.
        config: Its configuration, which wrote the code before.
    """
    write_code(folder, config)
    name_pipelines(folder, config, calibrated=(folder / CALIBRATION).is_file())


def saved_code(folder: Path, config: Any) -> dict[str, str]:
    """Return the text of each file of code for the folder of a model.

    Args:
        folder: The folder, which may have a calibration, or a recipe by which texts become vectors.
        config: The configuration of the model.
    """
    adapts, saved = config.model_type == _ADAPTER, saved_class(config)
    encoder = config.encoder_config if adapts else config
    trained = saved is not None and not saved.saves_recipe
    fields = _fixed_fields(encoder, trained and not adapts)
    bits = _method_of(getattr(encoder, "quantization_config", None)) == EIGHT_BITS
    # An encoder, or a configuration without a model, also encodes without a recipe.
    encodes = saved is None or "TextEncodingMixin" in saved.bases or (folder / MODULE_LIST).is_file()
    calibrated = (folder / CALIBRATION).is_file() or bool(getattr(config, "logit_calibration", None))
    entries = {*classes_in_folder(config), *(name for name, _ in pipelines_in_folder(config, calibrated).values())}
    entries |= {"TaskAdapterConfig" if adapts else "SequenceEncoderConfig", LEFT_OUT}
    encodes = encodes and not (trained or adapts)
    static = encodes and bool(getattr(encoder, "is_static", False))
    return _written(tuple(sorted(entries)), fields, calibrated, bits, encodes, static)


def _fixed_fields(config: Any, trained: bool) -> tuple[tuple[str, Any], ...]:
    """Return the fields that decide what is left out, with their values.

    Args:
        config: The configuration of the encoder.
        trained: Whether the model has a trained head, so that nobody chooses another one.
    """
    if getattr(config, "model_type", None) != "sequence_encoder":
        return ()
    if (config.span_extraction or {}).get("label_encoder") is not None:
        return ()  # The encoder of the labels may have other values.
    tables = {**_TABLES, **(_TABLES_OF_HEADS if trained else {})}
    fields = {name: getattr(config, name) for name in (*dict.fromkeys(tables.values()), *_FIELDS)}
    if "sliding_attention" not in (config.layer_types or []):
        fields["sliding_window"] = config.sliding_window
    return tuple(fields.items())


def _method_of(quantization: Any) -> str | None:
    """Return the `quant_method` of a quantization configuration, which is an object or a dictionary."""
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    return getattr(quantization, "quant_method", method)


@lru_cache(maxsize=256)
def _written(
    entries: tuple[str, ...],
    fields: tuple[tuple[str, Any], ...],
    calibrated: bool,
    bits: bool,
    encodes: bool,
    static: bool,
) -> dict[str, str]:
    """Return the files that define some names. They are cached, so that a process always saves the same version.

    Args:
        entries: The names.
        fields: Fields of the configuration with their values.
        calibrated: Whether the model has a calibration.
        bits: Whether the model is in eight bits.
        encodes: Whether the encoder has `encode`.
        static: Whether the encoder is a table of token vectors.
    """
    fixed, tables = dict(fields), {**_TABLES, **_TABLES_OF_HEADS}
    choices = {table: frozenset({fixed[name]}) for table, name in tables.items() if name in fixed}
    parts = {"calibration": calibrated, "eight_bits": bits, "recipe": encodes, "table": static}
    choices |= dict.fromkeys(("READERS", "WRITERS"), frozenset(part for part, has in parts.items() if has))
    stand_ins = dict(_STAND_INS)
    if "SequenceEncoderForRetrieval" not in entries:
        stand_ins |= _WITHOUT_OTHER_VECTORS
    if fixed.get("position_embedding", "rotary") != "rotary":
        stand_ins |= _WITHOUT_ROTARY
    if "sliding_window" in fixed:
        stand_ins |= _WITHOUT_WINDOWS
    if fixed.get("position_bias", "disentangled") != "disentangled":
        stand_ins |= _WITHOUT_GROUPS
    if fixed.get("position_bias", "") is None:
        stand_ins |= _WITHOUT_POSITION_BIAS
    if not fixed.get("conv_kernel_size", True):
        stand_ins |= _WITHOUT_CONVOLUTION
        choices["CONVOLUTION_LAYERS"] = frozenset()
    for part, without in _WITHOUT.items():
        stand_ins |= {} if parts[part] else without
    selection = Selection(
        entries=tuple((_MODULES.get(entry) or model_classes()[entry].file, entry) for entry in entries),
        stand_ins=stand_ins,
        choices=choices,
        unused=_UNUSED,
        values={"WRITTEN_FOR": table_text([f"{_quoted(name)}: {_quoted(fixed[name])}" for name in fixed])},
    )
    classes = ", ".join(entry for entry in entries if entry in model_classes())
    texts = merged_code(
        {
            BUNDLE_FILES[0]: f"The configuration of a SequenceEncoder, and how a folder is saved.\n\n{_note(classes)}",
            BUNDLE_FILES[1]: f"A SequenceEncoder.\n\n{_note(classes)}",
        },
        selection,
    )
    digest = code_digest(texts)
    return {name: text.replace(_NO_DIGEST, f"Digest: {digest}", 1) for name, text in texts.items()}


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _note(classes: str) -> str:
    """Return the part of the docstring of a file that says where it comes from."""
    about = f"""Version {package_version()} of the package wrote this file for {classes}, and left out what the
        configuration of the model does not need. `sequence-encoder inspect FOLDER` checks by the digest whether the
        files are as they were written."""
    return f"{MARK}\n\n{textwrap.fill(' '.join(about.split()), 120, break_on_hyphens=False)}\n\n{_NO_DIGEST}"


def code_digest(texts: Mapping[str, str]) -> str:
    """Return a digest of the code files, which does not depend on the digests in them.

    Args:
        texts: The text of each file by its name.
    """
    digest = blake2b(digest_size=16)
    for name in BUNDLE_FILES:
        digest.update(f"{name}\n{_DIGEST.sub(_NO_DIGEST, texts[name], count=1)}".encode())
    return digest.hexdigest()


def describe_code(folder: Path, config: Any) -> str | None:
    """Return whether the code in a folder is what the package wrote, in words; None if there is no code.

    Args:
        folder: The folder of a saved model.
        config: Its configuration.
    """
    others = ", ".join(_other_code(folder, config))
    said = [
        _describe_files(folder, config),
        f"trust_remote_code=True also runs {others}; read it first" if others else None,
    ]
    return "; ".join(filter(None, said)) or None


def _other_code(folder: Path, config: Any) -> list[str]:
    """Return the classes that Auto classes and pipelines load from other files than those of the package."""
    try:
        tokenizer = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("auto_map")
    except (OSError, ValueError, AttributeError):
        tokenizer = None
    named = [getattr(config, "auto_map", None), tokenizer, getattr(config, "custom_pipelines", None)]
    # Transformers puts the repository before the names if it loads a configuration from the Hub.
    own = (f"{MODELING}.", f"{config.name_or_path}--{MODELING}.")
    return [name for name in dict.fromkeys(_texts(named)) if "." in name and not name.startswith(own)]


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in nested lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(each)


def _describe_files(folder: Path, config: Any) -> str | None:
    """Return whether the files are what the package wrote, in words; None if they are not of the package."""
    try:
        texts = {name: (folder / name).read_text(encoding="utf-8") for name in BUNDLE_FILES}
    except (OSError, ValueError):
        return None
    if MARK not in texts[BUNDLE_FILES[1]]:
        return None
    stated = {match[1] if (match := _DIGEST.search(text)) else None for text in texts.values()}
    if stated == {None}:
        return "written by an earlier version, which added no digest to check it by"
    if stated != {code_digest(texts)}:
        return "changed since the package wrote it; read it before you trust it"
    written = _VERSION.search(texts[BUNDLE_FILES[1]])
    if texts == saved_code(folder, config):
        return f"as version {package_version()} of the package, which is installed, writes it"
    version = written[1] if written else "unknown"
    return f"other than the installed version writes; by its digest, unchanged since version {version} wrote it"
