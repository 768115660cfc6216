"""Sections that a command puts at the top of the card of a model that it derives from another one."""

from __future__ import annotations

import json
import re
from pathlib import Path

from huggingface_hub.repocard import REGEX_YAML_BLOCK
from transformers import PreTrainedModel

from ..saving.auto_classes import RETRIEVAL
from ..saving.model_files import remove_mark, save_card
from ..saving.module_list import MODULE_LIST
from .card import auto_class_of

_MODEL = """\
from transformers import {auto_class}, AutoTokenizer

model = {auto_class}.from_pretrained({place}, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained({place}, trust_remote_code=True)"""
_RETRIEVAL = """

vectors = model.encode_multi(["A text."], tokenizer)  # dense_vecs, lexical_weights, colbert_vecs"""
_SENTENCES = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({place}, trust_remote_code=True)"""


def example_of(folder: Path, name: str, model: PreTrainedModel) -> str:
    """Return the code that loads a saved model.

    A model with the files of sentence-transformers is loaded with it, unless it has more than dense vectors.

    Args:
        folder: The folder of the model.
        name: The final name of the folder.
        model: The model.
    """
    kind = _SENTENCES if (folder / MODULE_LIST).exists() else _MODEL
    auto_class = auto_class_of(model)
    if auto_class == RETRIEVAL:
        kind = _MODEL + _RETRIEVAL
    return kind.format(auto_class=auto_class, place=json.dumps(name, ensure_ascii=False))


def replace_section(folder: Path, topic: str, text: str | None) -> None:
    """Put a section at the top of the card in a folder, in place of an earlier one about the same topic.

    Args:
        folder: The folder. If it has no card, nothing is written.
        topic: The word that names the topic in the comments around the section.
        text: The section, or None to remove it.
    """
    path = folder / "README.md"
    if not path.exists():
        return
    start, end = f"<!-- sequence-encoder: this section is about the {topic} -->", f"<!-- end of the {topic} -->"
    section = re.compile(rf"{re.escape(start)}.*?{re.escape(end)}\n*", re.DOTALL)
    card = section.sub("", remove_mark(path.read_text(encoding="utf-8", errors="replace")))
    if text is not None:
        metadata = REGEX_YAML_BLOCK.match(card)
        top = metadata.end() if metadata else 0
        card = f"{card[:top]}\n{start}\n{text}{end}\n\n{card[top:].lstrip()}"
    save_card(path, card.lstrip("\n"))
