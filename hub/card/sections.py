"""Sections that a command puts at the top of the card of a model that it derives from another one."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub.repocard import REGEX_YAML_BLOCK
from transformers import PreTrainedModel

from ...saving.auto_classes import model_class_of
from ...saving.calibration_files import CALIBRATION, CALIBRATION_PICTURE
from ...saving.card_mark import is_unedited, remove_mark, save_card
from ...saving.module_list import MODULE_LIST
from ...saving.whole_folders import write_atomically
from .section_marks import section_marks, without_section

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
    if hasattr(model, "encode_multi"):
        kind = _MODEL + _RETRIEVAL
    return kind.format(auto_class=model_class_of(model).auto_classes[0], place=json.dumps(name, ensure_ascii=False))


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
    card = without_section(remove_mark(path.read_text(encoding="utf-8", errors="replace")), topic)
    if text is not None:
        start, end = section_marks(topic)
        metadata = REGEX_YAML_BLOCK.match(card)
        top = metadata.end() if metadata else 0
        card = f"{card[:top]}\n{start}\n{text}{end}\n\n{card[top:].lstrip()}"
    save_card(path, card.lstrip("\n"))


def trim_card(model: PreTrainedModel, folder: Path) -> None:
    """Remove the section about the calibration, and its picture, from a folder that has no calibration any more.

    Args:
        model: The model that was saved.
        folder: Its folder.
    """
    path = folder / "README.md"
    if (folder / CALIBRATION).exists() or not path.is_file():
        return
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError:
        return  # It is not a card of this package.
    card = without_section(text, "calibration")
    if card == text:
        return
    if is_unedited(path):
        save_card(path, card)
    else:
        write_atomically(path, [card])
    if f"({CALIBRATION_PICTURE})" in text and f"({CALIBRATION_PICTURE})" not in card:
        (folder / CALIBRATION_PICTURE).unlink(missing_ok=True)
