"""Names that reveal the library of a text are hidden, and the rest of the text is unchanged."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

import pytest

from sequence_encoder.data.documentation import Docstring, NameHider, docstrings_of

STANDARD_LIBRARY_FOLDER = Path(sysconfig.get_path("stdlib"))
PACKAGES = ("asyncio", "email", "http", "json", "logging", "urllib")
LIBRARIES = ["huggingface_hub", "numpy", "PIL", "python", "sklearn", "torch", "_private"]


@pytest.fixture(scope="module")
def real() -> list[Docstring]:
    """Docstrings of packages that come with Python."""
    files = [(name, path) for name in PACKAGES for path in sorted((STANDARD_LIBRARY_FOLDER / name).rglob("*.py"))]
    hide = NameHider(PACKAGES)
    return [Docstring(str(path), name, text, hide(text)) for name, path in files for text in docstrings_of(path)]


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


def test_real_documentation_loses_all_names_and_no_other_word(real: list[Docstring]) -> None:
    named = 0
    for doc in real:
        assert not any(name in doc.hidden.lower() for name in PACKAGES)
        pieces = re.split(r"\w*(?:" + "|".join(PACKAGES) + r")\w*", doc.text, flags=re.IGNORECASE)
        named += len(pieces) > 1
        assert doc.hidden == NameHider(PACKAGES)(PACKAGES[0]).join(pieces)
    assert named > len(PACKAGES)
