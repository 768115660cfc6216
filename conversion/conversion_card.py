"""The card of a converted model: the card of its source, plus a section on how to load the new model."""

from __future__ import annotations

import json
import re
from pathlib import Path

from huggingface_hub.repocard import REGEX_YAML_BLOCK
from transformers import PreTrainedModel

from ..hub.card import auto_class_of
from ..modeling import SequenceEncoderPreTrainedModel
from ..saving.model_files import remove_mark, save_card
from ..saving.module_list import MODULE_LIST

_START, _END = "<!-- sequence-encoder: this section is about the conversion -->", "<!-- end of the conversion -->"
_SECTION = re.compile(rf"{re.escape(_START)}.*?{re.escape(_END)}\n*", re.DOTALL)
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
_MODEL = """\
from transformers import {auto_class}, AutoTokenizer

model = {auto_class}.from_pretrained({place}, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained({place}, trust_remote_code=True)"""
_SENTENCES = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({place}, trust_remote_code=True)"""


def adjust_card(folder: Path, name: str, model: PreTrainedModel) -> None:
    """Add a section on loading the converted model to the top of its card.

    The card of a model that was converted back to its family loses that section.

    Args:
        folder: The folder of the new model, with the card of its source, if there was one.
        name: The final name of the folder.
        model: The new model.
    """
    path = folder / "README.md"
    if not path.exists():
        return
    text = _SECTION.sub("", remove_mark(path.read_text(encoding="utf-8", errors="replace")))
    if isinstance(model, SequenceEncoderPreTrainedModel):
        kind = _SENTENCES if (folder / MODULE_LIST).exists() else _MODEL
        lines = kind.format(auto_class=auto_class_of(model), place=json.dumps(name, ensure_ascii=False))
        metadata = REGEX_YAML_BLOCK.match(text)
        start = metadata.end() if metadata else 0
        text = f"{text[:start]}\n{_START}\n{_TEXT.format(lines=lines)}{_END}\n\n{text[start:].lstrip()}"
    save_card(path, text.lstrip("\n"))
