"""The code that a saved folder needs to load without this package: three files, as transformers' Auto classes expect.

The package merges its sources into them. Code that runs from a saved folder finds the three files beside itself.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import Any

from .auto_classes import AUTO_CLASSES

MODELING = "modeling_sequence_encoder"
# Each imports only those before it.
BUNDLE_FILES = ("saving_sequence_encoder.py", "configuration_sequence_encoder.py", f"{MODELING}.py")
# In the docstring of each; it tells them from the user's own files.
MARK = "Merged from the sources of the Python package sequence-encoder, where changes belong."


def auto_map(model_type: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the `auto_map` of `config.json`: for each Auto class a class, and the file that defines it.

    All classes are named in the file that imports the other two, since transformers copies only the file that an Auto
    class names and what that file imports. A configuration that was loaded alone can thus be saved with all code.

    Args:
        model_type: The type of the configuration.
        given: The `auto_map` so far. Other people's classes, such as a user's model that extends one of ours, stay in
            it. Ours are beside the configuration, wherever it was loaded from.
    """
    classes = AUTO_CLASSES[model_type]
    ours = {auto_class: f"{MODELING}.{name}" for auto_class, name in classes.items()}
    others = {key: path for key, path in given.items() if str(path).rpartition(".")[2] not in classes.values()}
    return ours | others


def custom_pipelines(model_class: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """Return the `custom_pipelines` of `config.json`: tasks that transformers lacks, and the class that does them.

    Args:
        model_class: The class of the model that is saved.
        given: The `custom_pipelines` so far; other tasks stay in it.
    """
    implementation = f"{MODELING}.QuestionAnsweringPipeline"
    ours = {"question-answering": {"impl": implementation, "pt": ["AutoModelForQuestionAnswering"], "type": "text"}}
    others = {task: pipeline for task, pipeline in given.items() if task not in ours}
    return {**others, **(ours if model_class == "SequenceEncoderForQuestionAnswering" else {})}


def write_code(folder: Path) -> None:
    """Write the files into a folder."""
    for name, text in code_bundle().items():
        (folder / name).write_text(text, encoding="utf-8")


@cache
def code_bundle() -> dict[str, str]:
    """Return the text of each file, read once, so that one process saves one state of the code."""
    here = Path(__file__)
    if here.name in BUNDLE_FILES:
        return {name: here.with_name(name).read_text(encoding="utf-8") for name in BUNDLE_FILES}
    # Not a statement: that would merge the merging into what is saved with every model.
    merged: dict[str, str] = importlib.import_module(".merged_code", __package__).merged_code(BUNDLE_FILES, MARK)
    return merged
