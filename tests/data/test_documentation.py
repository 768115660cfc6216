"""The installed documentation becomes a corpus whose texts hide their labels, and whose test texts are new."""

from __future__ import annotations

import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from sequence_encoder.command_line import UsageError
from sequence_encoder.data import documentation
from sequence_encoder.data.documentation import (
    STANDARD_LIBRARY,
    Docstring,
    NameHider,
    docstrings_of,
    find_libraries,
    read_documentation,
    split_by_file,
    without_near_duplicates,
)

STANDARD_LIBRARY_FOLDER = Path(sysconfig.get_path("stdlib"))
PACKAGES = ("asyncio", "email", "http", "json", "logging", "urllib", "xml")

Disk = Callable[[dict[str, dict[str, str]]], None]


def words(name: str, count: int, first: int = 0) -> str:
    """Return a text of `count` numbered words, from number `first`, which texts of other names do not contain."""
    return " ".join(f"{name}{i}" for i in range(first, first + count))


def doc(text: str, path: str = "file.py", library: str = "library") -> Docstring:
    return Docstring(path, library, text, text)


def kept(*texts: str) -> list[str]:
    """Return the texts that deduplication keeps, given one text per file."""
    docs = [doc(text, path=f"{index}.py") for index, text in enumerate(texts)]
    return [doc.text for doc in without_near_duplicates(docs)]


def runs(text: str) -> set[tuple[str, ...]]:
    """Return all runs of five words."""
    found = re.findall(r"\w+", text.lower())
    return {tuple(found[i : i + 5]) for i in range(max(1, len(found) - 4))}


def repeated(train: list[Docstring], test: list[Docstring]) -> list[Docstring]:
    """Return the test texts that share half of their runs or more with training texts."""
    known = set().union(*(runs(doc.hidden) for doc in train))
    return [doc for doc in test if 2 * len(runs(doc.hidden) & known) >= len(runs(doc.hidden))]


@pytest.fixture(scope="module")
def real() -> list[Docstring]:
    """Docstrings of packages that come with Python."""
    files = [(name, path) for name in PACKAGES for path in sorted((STANDARD_LIBRARY_FOLDER / name).rglob("*.py"))]
    hide = NameHider(PACKAGES)
    return [Docstring(str(path), name, text, hide(text)) for name, path in files for text in docstrings_of(path)]


@pytest.fixture
def corpus() -> list[Docstring]:
    """Return texts of 40 files: unique texts, a licence at the start of each file, and texts that files share."""
    licence = words("licence", 30)
    docs = []
    for file in range(40):
        path = f"{file:02}.py"
        docs.append(doc(f"{licence} {words(f'author{file}x', 3)}", path))
        docs += [doc(words(f"own{file}x{text}y", 20 + text), path) for text in range(3)]
        docs.append(doc(f"{words(f'shared{file % 10}x', 25)} {words(f'ending{file}x', file % 7)}", path))
        # Half of one shared text and half of another.
        docs.append(doc(f"{words(f'shared{file % 10}x', 12)} {words(f'shared{(file + 1) % 10}x', 12)}", path))
    return docs


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Return `disk({library: {file name: docstring}})`, which pretends that only these libraries are installed."""

    def install(libraries: dict[str, dict[str, str]]) -> None:
        found: dict[str, list[Path]] = {}
        for library, files in libraries.items():
            (tmp_path / library).mkdir()
            found[library] = [tmp_path / library / name for name in files]
            for name, text in files.items():
                (tmp_path / library / name).write_text(f'"""{text}"""\n')
        monkeypatch.setattr(documentation, "find_libraries", lambda: found)

    return install


def read(**options: int) -> list[Docstring]:
    return read_documentation(show_progress=False, **options)


DOCUMENTED = '''
"""Of the module."""

class Outer:
    """Of the class."""

    attribute = 1
    """Of an attribute: none."""

    def method(self):
        """Of the method:

            indented

        and not.
        """

    class Inner:
        """Of the inner class."""

async def coroutine():
    """Of the coroutine."""

    def nested():
        \'\'\'Of the nested function.\'\'\'

def undocumented():
    return "of no one"

def empty():
    """  """

raise SystemExit("The file is run.")
'''


def test_docstrings_of_modules_classes_functions_and_coroutines_are_found(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text(DOCUMENTED)
    assert sorted(docstrings_of(file)) == [
        "Of the class.",
        "Of the coroutine.",
        "Of the inner class.",
        "Of the method:\n\n    indented\n\nand not.",
        "Of the module.",
        "Of the nested function.",
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'"""Begins well."""\ndef broken(:\n',
        b'"""Python 2."""\nprint "x"\n',
        b"\x7fELF\x02\x01\x00\x00\xff\xfe",
        b'"""No \xff UTF-8."""',
        b'"""Zero \x00."""',
        b'# coding: no-such-coding\n"""Unknown."""',
        b'"""Deep."""\n' + b"-" * 100_000 + b"1",
    ],
    ids=["empty", "broken", "old", "binary", "encoding", "zero", "coding", "deep"],
)
def test_a_file_that_cannot_be_parsed_has_no_docstrings(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file.py"
    file.write_bytes(content)
    assert docstrings_of(file) == []


def test_a_file_is_read_in_its_declared_encoding(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_bytes('# coding: latin-1\n"""Über."""'.encode("latin-1"))
    assert docstrings_of(file) == ["Über."]


def test_warnings_about_parsed_code_are_silenced(tmp_path: Path) -> None:
    file = tmp_path / "file.py"
    file.write_text('"""Any digit: \\d."""\nassert (1, "always true")')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert docstrings_of(file) == [r"Any digit: \d."]


@pytest.mark.parametrize("first", [0, 1], ids=["short_last", "short_first"])
def test_the_longer_of_two_near_duplicates_is_kept(first: int) -> None:
    texts = [words("a", 40), f"{words('a', 30)} {words('b', 5)}"]
    assert kept(texts[first], texts[1 - first]) == [texts[0]]


def test_texts_that_share_half_of_their_runs_are_duplicates() -> None:
    # 24 words are 20 runs of 5; 14 shared words are 10 of them, and 13 are 9.
    long = words("a", 40)
    half = f"{words('a', 14)} {words('b', 10)}"
    less = f"{words('a', 13)} {words('c', 11)}"
    assert kept(long, half) == [long]
    assert kept(long, less) == [long, less]


def test_a_text_made_of_two_others_is_removed() -> None:
    one, other = words("a", 40), words("b", 40)
    both = f"{words('a', 15)} {words('b', 15)}"
    assert 2 * len(runs(one) & runs(both)) < len(runs(both))
    assert kept(both, one, other) == [one, other]


def test_near_duplicates_are_compared_by_their_words() -> None:
    text = words("a", 20)
    assert len(kept(text, text.upper(), f"({text.replace(' ', ', ')})", text.replace(" ", "\n\n"))) == 1


def test_texts_that_differ_only_in_hidden_names_are_duplicates() -> None:
    hide = NameHider(["numpy", "torch"])
    frame = "The {} sum of {} elements of a {} along {} axis of a {} in {} order."
    texts = [frame.replace("{}", name) for name in ("torch", "numpy")]
    assert not runs(texts[0]) & runs(texts[1])
    docs = [Docstring(f"{index}.py", "x", text, hide(text)) for index, text in enumerate(texts)]
    assert len(without_near_duplicates(docs)) == 1


def test_texts_shorter_than_a_run_are_compared_whole() -> None:
    assert sorted(kept("one two", "One, two!", "two one", "one two three four")) == sorted(
        ["one two three four", "One, two!", "two one"]
    )
    assert kept() == []


def test_the_seed_determines_the_split_and_its_order(corpus: list[Docstring]) -> None:
    train, test = split_by_file(corpus, seed=1)
    assert split_by_file(corpus, seed=1) == (train, test)
    other_train, other_test = split_by_file(corpus, seed=2)
    assert {doc.path for doc in test} != {doc.path for doc in other_test}
    for side in (train, test, other_train, other_test):
        assert side != [doc for doc in corpus if doc in side]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("source", ["corpus", "real"])
def test_test_texts_share_less_than_half_with_training_texts(
    request: pytest.FixtureRequest, source: str, seed: int
) -> None:
    docs = request.getfixturevalue(source)
    # A split by files alone does not suffice, without the removal of duplicates.
    assert repeated(*split_by_file(docs, seed=seed)) != []
    train, test = split_by_file(without_near_duplicates(docs), seed=seed)
    assert len(test) > 0
    assert repeated(train, test) == []


def test_libraries_are_importable_packages_without_tests_and_this_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site-packages"
    files = ["alpha/__init__.py", "alpha/core.py", "alpha/sub/more.py", "beta_2/__init__.py"]
    left_out = [
        "alpha/tests/test_core.py",
        "alpha/sub/testing/tools.py",
        "alpha/_vendor/gamma/__init__.py",
        "alpha/data.txt",
        "sequence_encoder/__init__.py",
        "folder/module.py",
        "module.py",
        "alpha-1.0.dist-info/__init__.py",
    ]
    for name in files + left_out:
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).touch()
    monkeypatch.syspath_prepend(str(site))
    libraries = find_libraries()
    assert libraries["alpha"] == [site / name for name in files[:3]]
    assert libraries["beta_2"] == [site / files[3]]
    found = {path for paths in libraries.values() for path in paths if path.is_relative_to(site)}
    assert found == {site / name for name in files}
    assert "sequence_encoder" not in libraries


def test_the_standard_library_excludes_its_tests_and_site_packages() -> None:
    files = find_libraries()[STANDARD_LIBRARY]
    assert {STANDARD_LIBRARY_FOLDER / name for name in ("ast.py", "json/__init__.py", "json/decoder.py")} <= set(files)
    folders = {part for path in files for part in path.relative_to(STANDARD_LIBRARY_FOLDER).parts[:-1]}
    assert not folders & {"test", "tests", "site-packages", "dist-packages"}


def test_documentation_is_labelled_by_its_library_and_hides_the_names(disk: Disk) -> None:
    disk(
        {
            "alpha": {"a.py": f"Alpha is not beta_2: {words('a', 20)}", "b.py": words("b", 20)},
            "beta": {"c.py": words("c", 20)},
        }
    )
    found = {Path(doc.path).name: doc for doc in read()}
    assert {name: doc.library for name, doc in found.items()} == {"a.py": "alpha", "b.py": "alpha", "c.py": "beta"}
    assert found["a.py"].text == f"Alpha is not beta_2: {words('a', 20)}"
    hide = NameHider(["alpha", "beta"])
    assert found["a.py"].hidden == hide(found["a.py"].text) != found["a.py"].text
    assert found["c.py"].hidden == found["c.py"].text


def test_documentation_drops_short_texts_and_duplicates_and_truncates_long_ones(disk: Disk) -> None:
    disk(
        {
            "alpha": {"short.py": words("a", 9), "enough.py": words("b", 10), "same.py": words("c", 12)},
            "beta": {"long.py": words("d", 100), "same.py": words("c", 12), "empty.py": ""},
        }
    )
    docs = read(min_words=10, max_characters=200)
    assert sorted(doc.text for doc in docs) == sorted([words("b", 10), words("c", 12), words("d", 100)[:200]])


def test_the_libraries_with_the_most_documentation_are_chosen(disk: Disk) -> None:
    counts = {"few": 1, "most": 4, "more": 3, "some": 2}
    disk({name: {f"{i}.py": words(f"a{count}b{i}c", 20) for i in range(count)} for name, count in counts.items()})
    assert {doc.library for doc in read(max_libraries=2)} == {"most", "more"}
    assert {doc.library for doc in read(max_libraries=3)} == {"most", "more", "some"}
    assert Counter(doc.library for doc in read()) == counts


@pytest.mark.parametrize(("max_bytes", "expected"), [(10**6, 20), (3000, 7), (1, 1)])
def test_only_some_files_of_large_libraries_are_read(disk: Disk, max_bytes: int, expected: int) -> None:
    # Each file has 400 bytes, 7 of them around the text.
    text = {f"{i:02}.py": f"{words(f'{i:02}x', 20)} ".ljust(393, "-") for i in range(20)}
    disk({"alpha": text, "beta": {name: part.replace("x", "y") for name, part in text.items()}})
    docs = read(max_bytes=max_bytes)
    assert Counter(doc.library for doc in docs) == {"alpha": expected, "beta": expected}
    assert docs == read(max_bytes=max_bytes)


@pytest.mark.parametrize(
    "libraries",
    [{}, {"alpha": {"a.py": words("a", 20)}}, {"alpha": {"a.py": words("a", 20)}, "beta": {"b.py": words("b", 3)}}],
    ids=["nothing", "one", "one_and_a_short_text"],
)
def test_fewer_than_two_libraries_are_an_error(disk: Disk, libraries: dict[str, dict[str, str]]) -> None:
    disk(libraries)
    with pytest.raises(UsageError, match="fewer than two installed libraries"):
        read()


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
