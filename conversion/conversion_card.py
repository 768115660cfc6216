"""The card of a converted model: that of its source, and how the new model is loaded."""

from __future__ import annotations

import json
import re
from pathlib import Path

from huggingface_hub.repocard import REGEX_YAML_BLOCK
from transformers import PreTrainedModel

from ..hub.card import auto_class_of
from ..modeling import SequenceEncoderPreTrainedModel
from ..saving.model_files import save_card, without_mark
from ..saving.module_list import MODULE_LIST

_START, _END = "<!-- sequence-encoder: this section is about the conversion -->", "<!-- end of the conversion -->"
_SECTION = re.compile(rf"{re.escape(_START)}.*?{re.escape(_END)}\n*", re.DOTALL)
_TEXT = """\
## Load this converted model

Its weights were carried over to a SequenceEncoder, which has the same outputs. The rest of this card, including its
lines of code, describes the original model.

```python
{lines}
```

`trust_remote_code=True` runs the Python files of this repository. Where the package `sequence-encoder` is installed,
`import sequence_encoder` first and leave `trust_remote_code` out.
"""
_MODEL = """\
from transformers import {auto_class}, AutoTokenizer

model = {auto_class}.from_pretrained({place}, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained({place}, trust_remote_code=True)"""
_SENTENCES = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({place}, trust_remote_code=True)"""


def adjust_card(folder: Path, name: str, model: PreTrainedModel) -> None:
    """Adds to the card in the folder of a converted model how that is loaded, at its beginning.

    In the card of a model that was given back to its family, that section goes away again.

    Args:
        folder: of the new model, with the card of its source, if that had one.
        name: what the folder will be called.
        model: the new model.
    """
    path = folder / "README.md"
    if not path.exists():
        return
    text = _SECTION.sub("", without_mark(path.read_text(encoding="utf-8", errors="replace")))
    if isinstance(model, SequenceEncoderPreTrainedModel):
        kind = _SENTENCES if (folder / MODULE_LIST).exists() else _MODEL
        lines = kind.format(auto_class=auto_class_of(model), place=json.dumps(name, ensure_ascii=False))
        metadata = REGEX_YAML_BLOCK.match(text)
        start = metadata.end() if metadata else 0
        text = f"{text[:start]}\n{_START}\n{_TEXT.format(lines=lines)}{_END}\n\n{text[start:].lstrip()}"
    save_card(path, text.lstrip("\n"))
