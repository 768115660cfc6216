"""The examples of writing: conversations about functions, and a picture of a text that is being unmasked."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from PIL import Image

from sequence_encoder.examples import draw_unmasking
from sequence_encoder.examples.function_dialogues import dialogue, functions_of
from sequence_encoder.tests.grammar_models import SENTENCES, grammar_model, grammar_tokenizer

SOURCE = '''
def mean(values, axis=0, *, keep=False):
    """Return the mean of the values.

    More about it.
    """

class Table:
    def sort(self, key):
        """Sort the rows
        by a key. Rows with the same key stay in order."""

def _hidden(x):
    """Return what nobody should read."""

def undocumented(x):
    pass
'''


def test_functions_become_conversations(tmp_path: Path) -> None:
    file = tmp_path / "library.py"
    file.write_text(SOURCE)
    found = list(functions_of(file))
    assert found == [
        ("def mean(values, axis, keep)", ["values", "axis", "keep"], "Return the mean of the values."),
        ("def sort(key)", ["key"], "Sort the rows by a key."),
    ]
    texts = set()
    for seed in range(20):
        messages = dialogue(*found[0], random.Random(seed))
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
        texts |= {message["content"] for message in messages}
    assert {found[0][0], found[0][2], "It takes values, axis and keep."} <= texts
    (tmp_path / "broken.py").write_text("def (")
    assert not list(functions_of(tmp_path / "broken.py"))


def test_a_picture_shows_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grammar_model().save_pretrained(tmp_path / "writer")
    grammar_tokenizer().save_pretrained(tmp_path / "writer")
    picture = tmp_path / "unmasking.gif"
    command = [str(tmp_path / "writer"), "two [MASK] [MASK]{2} walk .", "--output", str(picture)]
    monkeypatch.setattr(sys, "argv", ["draw_unmasking.py", *command])
    draw_unmasking.main()
    assert capsys.readouterr().out.strip() in SENTENCES
    with Image.open(picture) as image:
        # The masks, three steps, and the whole text without colours.
        assert image.n_frames == 5
