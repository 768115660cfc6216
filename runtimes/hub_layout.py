"""Adds the files for transformers.js to the folder of a model, so that Python and JavaScript load the same folder.

Both read `config.json`, and each needs a model type of its own there. Transformers then reads the file that the field
`configuration_files` names, which is the model's own configuration. transformers.js does not know that field.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedConfig

from ..cards.sections import replace_section
from ..saving.auto_classes import of_type
from ..saving.model_files import GRAPHS, PYTHON_CONFIG, graph_files
from ..saving.staged_files import staged

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


def keep_beside_weights(folder: Path, new: Path, code: str) -> None:
    """Change the files that `_write_for_transformers_js` has written to those that belong beside the weights.

    Args:
        folder: The folder of the model.
        new: The folder with the new files.
        code: The JavaScript that runs the model, for the card.
    """
    own = folder / (PYTHON_CONFIG if (folder / PYTHON_CONFIG).is_file() else "config.json")
    shutil.copy(own, new / PYTHON_CONFIG)
    config = json.loads(own.read_text(encoding="utf-8"))
    ours = json.loads((new / "config.json").read_text(encoding="utf-8"))
    changed = {name: ours[name] for name in ("model_type", "architectures", "transformers.js_config")}
    if "problem_type" in ours:
        changed["problem_type"] = ours["problem_type"]
    fields = {**config, **changed, "configuration_files": [PYTHON_CONFIG]}
    (new / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    for path in [*new.iterdir()]:
        if path.name not in ("config.json", PYTHON_CONFIG, GRAPHS):
            path.unlink()
    if (folder / "README.md").is_file():
        shutil.copy(folder / "README.md", new)
        replace_section(new, "transformers.js", _SECTION.format(graphs=GRAPHS, code=code))
