"""Names that reveal the library of a text are hidden, and the rest of the text is unchanged."""

from __future__ import annotations

import re

import pytest

from sequence_encoder.data.documentation import NameHider

LIBRARIES = ["huggingface_hub", "numpy", "PIL", "python", "sklearn", "torch", "_private"]


NAMES = ["numpy", "torch", "python", "sklearn", "private", "huggingface_hub", "huggingface-hub"]
INSIDE = ["numpy_array", "torchvision", "PyTorch", "_torch_", "python3", "Pythonic", "cpython", "is_torch_tensor"]
ALIASES = ["np", "hf", "hub", "pep", "aten", "scikit-learn", "scikit", "Hugging Face", "huggingface"]
ALIASES += ["Hugging\n    Face", "scikit_learn", "scikit learn"]


FRAMES = ["{}", "{}.", "See `{}`, or <{}>; ({}.Array)", " \tA\n\n  {}-like «Ünïcode»: {}… 'x'_\r\n"]


@pytest.mark.parametrize("name", NAMES + INSIDE + ALIASES)
def test_names_are_replaced_by_one_word_and_the_rest_is_unchanged(name: str) -> None:
    hide = NameHider(LIBRARIES)
    neutral = hide("numpy")
    assert re.fullmatch(r"[a-z]+", neutral)
    assert not [name for name in NAMES + ALIASES if name.lower() in neutral]
    for spelling in (name, name.upper(), name.title()):
        for frame in FRAMES:
            assert hide(frame.replace("{}", spelling)) == frame.replace("{}", neutral)


def test_only_the_names_of_the_given_libraries_are_hidden() -> None:
    text = "torch and pd, Hugging Face, scikit-learn, library"
    assert NameHider(["numpy"])(text) == text
    assert NameHider([])(text) == text
    assert NameHider(["pandas"])("pd np") != NameHider(["numpy"])("pd np")
