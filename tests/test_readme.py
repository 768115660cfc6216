"""The Python blocks of the README: each runs when it is copied alone, and none writes where another one does."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from sequence_encoder import SequenceEncoderForSequenceClassification, SequenceEncoderModel
from sequence_encoder.hub import save_sentence_transformer
from sequence_encoder.tests.adaptation_runs import save_encoder

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
LIBRARIES = [f"library{number}" for number in range(10)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the README and tiny models in place of those that the README has made."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copy(README, folder)
    encoder = SequenceEncoderModel.from_pretrained(save_encoder(folder / "quickstart-model"))
    tokenizer = AutoTokenizer.from_pretrained(folder / "quickstart-model", model_max_length=128)
    save_sentence_transformer(folder / "converted", encoder, tokenizer)
    encoder.config.id2label = dict(enumerate(LIBRARIES))
    encoder.config.label2id = {name: index for index, name in enumerate(LIBRARIES)}
    SequenceEncoderForSequenceClassification(encoder.config).save_pretrained(folder / "quickstart-model")
    tokenizer.save_pretrained(folder / "quickstart-model")
    return folder


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_block_runs_alone(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    shutil.copytree(clone, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    exec(compile(BLOCKS[number], f"block {number} of README.md", "exec"), {"__name__": "__main__"})
    # This process knows the models already; that of a user does not.
    assert re.search(r"^(import|from) sequence_encoder|trust_remote_code=True", BLOCKS[number], re.MULTILINE)


def test_no_block_writes_into_the_folder_of_another() -> None:
    outputs = [set(re.findall(r'(?:TrainingArguments|save_\w+)\(\s*"([^"]+)"', block)) for block in BLOCKS]
    names = [name for block in outputs for name in block]
    assert len(names) >= 5
    assert len(names) == len(set(names))
