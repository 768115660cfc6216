"""The card of a converted model: the card of its source, plus a section on how to load the new model."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from ..cards.sections import example_of, replace_section
from ..modeling import SequenceEncoderPreTrainedModel

_TEXT = """\
## Load this converted model

Its weights were converted to a SequenceEncoder, which has the same outputs. The rest of this card, including its code,
describes the original model.

```python
{lines}
```

`trust_remote_code=True` runs the Python files of this repository. If you have installed the package
`sequence-encoder`, you can `import sequence_encoder` instead and leave out `trust_remote_code`.
"""


def adjust_card(folder: Path, name: str, model: PreTrainedModel) -> None:
    """Add a section on loading the converted model to the top of its card.

    The card of a model that was converted back to its family loses that section.

    Args:
        folder: The folder of the new model, with the card of its source, if there was one.
        name: The final name of the folder.
        model: The new model.
    """
    converted = isinstance(model, SequenceEncoderPreTrainedModel)
    text = _TEXT.format(lines=example_of(folder, name, model)) if converted else None
    replace_section(folder, "conversion", text)
