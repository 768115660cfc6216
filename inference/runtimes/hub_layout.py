"""Adds the files for transformers.js to the folder of a model, so that Python and JavaScript load the same folder.

Both libraries read `config.json`, but need different model types in it: `config.json` gets the one for transformers.js.
The field `configuration_files`, which only transformers reads, names a second file with the model's own configuration.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from ...hub.card.sections import replace_section
from ...saving.auto_classes import of_type
from ...saving.model_files import GRAPHS, PYTHON_CONFIG, graph_files
from ...saving.staged_files import staged

_SECTION = """\
## Use in JavaScript

[transformers.js](https://huggingface.co/docs/transformers.js) reads the graphs in `{graphs}/`:

```js
{code}
```
"""


@contextmanager
def added_files(folder: Path, replace: bool, option: str) -> Iterator[Path]:
    """Yield a new folder, whose files move into the folder of a model at the end, unless an exception occurs.

    Args:
        folder: The folder of the model.
        replace: Whether the user allows replacing graphs in it.
        option: The option by which the user allows that, for the error.

    Raises:
        FileExistsError: If it has graphs that must not be replaced.
        ValueError: If it is not the folder of a model of this package.
    """
    config = PreTrainedConfig.get_config_dict(folder)[0] if (folder / "config.json").is_file() else {}
    if not of_type(config.get("model_type", "")) or not any(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} must be the folder of a model of this package with its weights. Convert it first.")
    outdated = graph_files(folder)
    if outdated and not replace:
        raise FileExistsError(f"{folder / GRAPHS} has graphs; replace them with {option}.")
    with staged(folder, lambda name, names: False) as new:
        yield new
        written = graph_files(new)
    for name in outdated - written:
        (folder / name).unlink(missing_ok=True)


def shared_config(folder: Path, new: Path) -> dict[str, Any]:
    """Keep the configuration of a model for transformers, and return its fields with the name of that file.

    Args:
        folder: The folder of the model.
        new: The folder with the new files.
    """
    own = folder / (PYTHON_CONFIG if (folder / PYTHON_CONFIG).is_file() else "config.json")
    shutil.copy(own, new / PYTHON_CONFIG)
    return {**json.loads(own.read_text(encoding="utf-8")), "configuration_files": [PYTHON_CONFIG]}


def add_example(folder: Path, new: Path, code: str) -> None:
    """Add the JavaScript that runs a model to its card, if it has one.

    Args:
        folder: The folder of the model.
        new: The folder with the new files.
        code: The JavaScript.
    """
    if (folder / "README.md").is_file():
        shutil.copy(folder / "README.md", new)
        replace_section(new, "transformers.js", _SECTION.format(graphs=GRAPHS, code=code))
