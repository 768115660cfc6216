"""The code that loads a saved folder without this package: three files that transformers' Auto classes can import.

The package merges its sources into these files. Code that runs from a saved folder copies the files in that folder.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import Any

from .auto_classes import AUTO_CLASSES

MODELING = "modeling_sequence_encoder"
# Each file imports only files before it.
BUNDLE_FILES = ("saving_sequence_encoder.py", "configuration_sequence_encoder.py", f"{MODELING}.py")
# Part of the docstring of each file, which distinguishes it from a user's file.
MARK = "Merged from the sources of the Python package sequence-encoder, where changes belong."


def auto_map(model_type: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the `auto_map` of `config.json`: the file and the class for each Auto class.

    Every entry refers to the file that imports the other two. Transformers copies only the file of an entry and its
    imports, so this way a configuration that was loaded alone can still be saved with all of the code.

    Args:
        model_type: The type of the configuration.
        given: The current `auto_map`. Entries for other classes, such as a user's subclass, are kept. Entries for
            classes of this package are replaced, because their code is saved with the configuration.
    """
    classes = AUTO_CLASSES[model_type]
    ours = {auto_class: f"{MODELING}.{name}" for auto_class, name in classes.items()}
    others = {key: path for key, path in given.items() if str(path).rpartition(".")[2] not in classes.values()}
    return ours | others


def custom_pipelines(model_class: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """Return the `custom_pipelines` of `config.json`: the pipeline class for each task that transformers lacks.

    Args:
        model_class: The name of the class of the saved model.
        given: The current `custom_pipelines`. Entries for other tasks are kept.
    """
    implementation = f"{MODELING}.QuestionAnsweringPipeline"
    ours = {"question-answering": {"impl": implementation, "pt": ["AutoModelForQuestionAnswering"], "type": "text"}}
    others = {task: pipeline for task, pipeline in given.items() if task not in ours}
    return {**others, **(ours if model_class == "SequenceEncoderForQuestionAnswering" else {})}


def write_code(folder: Path) -> None:
    """Write the code files into a folder."""
    for name, text in code_bundle().items():
        (folder / name).write_text(text, encoding="utf-8")


@cache
def code_bundle() -> dict[str, str]:
    """Return the text of each file. It is read once, so that a process always saves the same version of the code."""
    here = Path(__file__)
    if here.name in BUNDLE_FILES:
        return {name: here.with_name(name).read_text(encoding="utf-8") for name in BUNDLE_FILES}
    # Not an import statement, which would add the merging code to the files that are saved with every model.
    merged: dict[str, str] = importlib.import_module(".merged_code", __package__).merged_code(BUNDLE_FILES, MARK)
    return merged
