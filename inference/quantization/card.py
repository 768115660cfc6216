"""The card of a quantized model: the card of its source, plus a section on the quantization."""

from __future__ import annotations

import textwrap
from pathlib import Path

from transformers import PreTrainedModel

from ...hub.card.sections import example_of, replace_section
from .quantizing import QuantizationReport

_TEXT = """\
## Load this quantized model

{report}

The rest of this card, including its code and its results, describes the model before quantization.

```python
{lines}
```

`trust_remote_code=True` runs the Python files of this repository. If you have installed the package
`sequence-encoder`, you can `import sequence_encoder` instead and leave out `trust_remote_code`.
"""


def adjust_card(folder: Path, name: str, model: PreTrainedModel, report: QuantizationReport) -> None:
    """Add a section on the quantization to the top of the card.

    Args:
        folder: The folder of the new model, with the card of its source, if there was one.
        name: The final name of the folder.
        model: The new model.
        report: What `quantize` has done.
    """
    paragraph = textwrap.fill(str(report), 120, break_long_words=False, break_on_hyphens=False)
    text = _TEXT.format(report=paragraph, lines=example_of(folder, name, model))
    # The section on the conversion of the source has the same code.
    replace_section(folder, "conversion", None)
    replace_section(folder, "quantization", text)
