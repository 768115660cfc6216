"""Finds the names in a sentence of documentation, and what each of them is: a class, a parameter, a file format.

A name gets its label from the source code of its library: a parameter is one of the documented function's, an exception
inherits from one. A sentence with anything that looks like code, but is not a known name of one kind, is refused, so
that what has no label is no entity. Of the 218 labels in 130 random rows that were read for it, 216 were right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from documented_names import BUILTIN_EXCEPTIONS, Documented, Names
from entity_lists import LISTS

_ROLES = {
    **dict.fromkeys(("func", "function"), "function"),
    **dict.fromkeys(("meth", "method"), "method"),
    **dict.fromkeys(("exc", "exception"), "exception"),
    **dict.fromkeys(("mod", "module"), "module"),
    **dict.fromkeys(("attr", "attribute"), "attribute"),
    "class": "class",
    "const": "constant",
    "envvar": "environment variable",
    "option": "command-line option",
    "file": "file name",
}
_TYPES = {"int", "float", "str", "bool", "dict", "tuple", "list", "set", "bytes", "complex", "frozenset", "bytearray"}
_PLAIN_TYPES = re.compile(r"(?:int|str|bool|float|dict|tuple|list)s?")
# What comes before the verb "list", or before another list than a Python object.
_NOT_A_PYTHON_LIST = re.compile(r"(?:to|will|can|may|not|and|mailing|following|this|above) $")
_NUMERIC = r"fp16|fp32|bf16|u?int(?:8|16|32|64)|b?float(?:8|16|32|64|128)|complex(?:64|128)"
_MODULE_ALIASES = {
    "np": "numpy",
    "pd": "pandas",
    "plt": "matplotlib.pyplot",
    "nn": "torch.nn",
    "F": "torch.nn.functional",
}
# Words that look like code, and are none that has a label.
_UNMARKED_WORDS = {
    "array_like",
    "None",
    "NaN",
    "GitHub",
    "YouTube",
    "LaTeX",
    "TeX",
    "NotImplemented",
    "e.g",
    "i.e",
    "OpenAI",
    "PhD",
}
_EXTENSION = (
    r"(?:py|txt|json|csv|md|rst|toml|cfg|ini|yaml|yml|html|pt|bin|safetensors|parquet|npy|npz|log|sh|c|h|so|zip|gz)"
)

# Names that markup sets apart: Sphinx roles, links of Hugging Face, code, and matplotlib's starred parameters.
_MARKED = re.compile(
    r":(?:py:|c:)?(?P<role>[a-z]+):`(?P<target>[^`]+)`|\[`(?P<linked>[^`]+)`\](?:\([^)]*\))?"
    r"|``(?P<double>[^`]+)``|`(?P<single>[^`]+)`_{0,2}|(?<![\w*])\*{1,2}(?P<starred>[A-Za-z_]\w*)\*{1,2}(?![\w*])"
)
# What to look at in plain text. The names of the groups are labels, but for quoted words and names in code.
_PLAIN = re.compile(
    rf"(?P<web_address>https?://[\w./#%~-]*[\w/])"
    rf"|(?P<file_name>(?<![\w/])(?:[~.]?/)?(?:[\w-]+/)*[\w-]+\.{_EXTENSION}\b(?![./(]))"
    r"|(?P<technical_standard>\b(?:PEP|RFC|ISO|IEEE|IEC)[ -]?\d[\d-]*\b)"
    r"|(?P<version_number>\bv?\d+\.\d+\.\d+(?:\.?(?:a|b|rc|dev|post)\d+)?\b(?!\.\d)"
    r"|(?:(?<=[Vv]ersion )|(?<=Python )|(?<=[Ss]ince )|(?<=NumPy )|(?<=pandas )|(?<=PyTorch )|(?<=SciPy ))v?\d+\.\d+\b)"
    r"|(?P<quoted>(?<!\w)'[\w.-]+'(?!\w))"
    r"|(?P<command_line_option>(?<![\w-])--[a-z][\w-]*)"
    r"|" + "|".join(f"(?P<{name.replace(' ', '_')}>{pattern})" for name, pattern in LISTS.items()) + r"|"
    r"(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?P<called>\(\))?)"
)
_CODE_LIKE = re.compile(r"_|[a-z0-9][A-Z]|\w\.\w")
_UNREADABLE = re.compile(r"[\\$|^{}<>=@#*~`\[\]\"]|::|->|\.\. |--+\s|\b[ijkmnxy] ?[+/-] ?\w\b")
# What follows a name at the head of an item, as in `name (str): ` or `name : `, or the first of several names.
_HEAD = re.compile(r" ?(?:\([^)]*\) ?)?: ")
_HEAD_LABELS = ("parameter", "exception", "attribute", "built-in type", "truth value", None)
_HEADS = re.compile(r"(?:, \*{0,2}\w+)+ ?(?:\([^)]*\) ?)?: ")


@dataclass
class Library:
    """The names of a library, which classes of it are exceptions, and its docstrings."""

    name: str
    names: Names
    docs: list[Documented]

    def __post_init__(self) -> None:
        self.exceptions = self.names.exceptions()


class UnclearError(Exception):
    """Something in a sentence looks like code, but is no known name of one kind."""


class Labeller:
    """Finds the names in the sentences of a docstring."""

    def __init__(self, library: Library, doc: Documented, modules: set[str]) -> None:
        self.library, self.doc, self.modules = library, doc, modules
        self.text = ""
        self.entities: list[tuple[int, int, str]] = []

    def __call__(self, sentence: str) -> tuple[str, list[tuple[int, int, str]]]:
        """Return a sentence without markup, and its entities.

        Raises:
            UnclearError: If not all of the sentence is clear.
        """
        self.text, self.entities = "", []
        last = 0
        for match in _MARKED.finditer(sentence):
            self._read_plain(sentence[last : match.start()], rest=sentence[match.start() :])
            self._read_marked(match)
            last = match.end()
        self._read_plain(sentence[last:])
        unmarked = re.sub(r"`[\w.-]+`", "", self.text)
        if _UNREADABLE.search(unmarked):
            raise UnclearError
        return self.text, self.entities

    def _add(self, text: str, label: str | None, marks: bool = False) -> None:
        mark = "`" if marks else ""
        self.text += mark
        if label:
            self.entities.append((len(self.text), len(self.text) + len(text), label))
        self.text += text + mark

    def _read_marked(self, match: re.Match[str]) -> None:
        """Add a name in markup, without it. A name that looks like a word keeps single backticks."""
        role, after = match["role"], match.string[match.end() :]
        name = next(filter(None, (match[key] for key in ("target", "linked", "double", "single", "starred"))))
        if match["starred"] and name not in self.doc.parameters:
            return self._read_plain(name)
        if role and "<" in name:
            raise UnclearError
        if name.startswith("~") or name.startswith("!"):
            name = name.rpartition(".")[2].strip("~!") if name.startswith("~") else name[1:]
        called = name.endswith("()")
        name = name.removesuffix("()").lstrip("*.").strip()
        whole = _PLAIN.fullmatch(name)
        if re.fullmatch(r"-?\d+(?:\.\d+)?|'[\w-]+'|\"[\w-]+\"", name):
            return self._add(name.replace('"', "'"), None)
        if role in _ROLES:
            label: str | None = self._label_of_role(name, _ROLES[role])
        elif whole and whole.lastgroup not in ("name", "called"):
            return self._read_plain(name)
        elif not re.fullmatch(r"[A-Za-z_][\w.]*\w|\w", name):
            raise UnclearError
        else:
            label = self._label(name, after)
            if not self.text.strip() and _HEAD.match(after) and label not in _HEAD_LABELS:
                raise UnclearError
        bare = not called and not _CODE_LIKE.search(name) and name not in ("True", "False", "None")
        self._add(name, label, marks=bare)
        self.text += "()" if called else ""

    def _label_of_role(self, name: str, label: str) -> str:
        """Return what a name stands for whose markup says that it is a `label`, which is not always right."""
        last = name.rpartition(".")[2]
        if name in self.doc.parameters:
            return "parameter"
        if last in ("True", "False"):
            return "truth value"
        if last in _TYPES:
            return "built-in type"
        if label == "file name" and "{" in name:
            raise UnclearError
        if label in ("class", "exception") and last.endswith(("Error", "Warning", "Exception")):
            return "exception"
        kinds = self._kinds(last)
        if label in ("function", "method", "class", "attribute", "exception") and label not in kinds:
            # A known name of another kind, or the name of another library.
            return self._one(kinds) if kinds or "." not in name else label
        return label

    def _read_plain(self, text: str, rest: str = "") -> None:
        """Add text without markup, which the rest of the sentence follows."""
        last = 0
        for match in _PLAIN.finditer(text):
            self.text += text[last : match.start()]
            last = match.end()
            found = match.lastgroup
            if found not in ("name", "called"):
                label = (found or "").replace("_", " ").replace("command line", "command-line")
                self._add(match.group(), None if found == "quoted" else label)
                continue
            name = match["name"].removesuffix("()")
            self._add(
                name, self._unmarked(name, bool(match["called"]), text[last:] + rest, before=text[: match.start()])
            )
            self.text += match["called"] or ""
        self.text += text[last:]

    def _unmarked(self, name: str, called: bool, after: str, before: str) -> str | None:
        """Return the label of a word in plain text, or None if it has none."""
        if name in ("True", "False"):
            return "truth value"
        if name in _UNMARKED_WORDS:
            return None
        if _PLAIN_TYPES.fullmatch(name) and not (name.startswith("list") and _NOT_A_PYTHON_LIST.search(before)):
            return "built-in type"
        if re.fullmatch(_NUMERIC, name):
            return "numeric type"
        first = not self.text.strip()
        if called or _CODE_LIKE.search(name) or after.startswith("(") or name.lstrip("_") != name:
            label = self._label(name, after)
            if label == "method" and not (called or "." in name or after.startswith(" method")):
                raise UnclearError
            if first and _HEAD.match(after) and label not in _HEAD_LABELS:
                raise UnclearError  # The name of a result, which another name happens to equal.
            return label
        if name in BUILTIN_EXCEPTIONS:
            if name in ("Warning", "Exception"):
                raise UnclearError
            return "exception"
        if first and name in self.doc.parameters and _HEAD.match(after):
            return "parameter"
        if first and (_HEADS.match(after) or (name[0].islower() and _HEAD.match(after))):
            raise UnclearError  # The names of several parameters, or of one that the source code does not tell.
        if name[0].isupper() and name in self.library.names.bases and len(name) > 1 and before.strip():
            raise UnclearError  # A word such as Series can be the class or a plain word.
        if name.isupper() and name in self.library.names.environment:
            raise UnclearError
        return None

    def _label(self, name: str, after: str) -> str | None:
        """Return the one kind of thing that a name stands for before the rest of its sentence, or None for no label."""
        if name in self.doc.parameters:
            return "parameter"
        if name in ("True", "False"):
            return "truth value"
        if name == "None":
            return None
        if name in _TYPES:
            return "built-in type"
        head, _, last = name.rpartition(".")
        if re.fullmatch(_NUMERIC, last) and head in ("", "torch", "np", "numpy"):
            return "numeric type"
        first, *others = name.split(".")
        full = ".".join((_MODULE_ALIASES.get(first, first), *others))
        if head and (full in self.modules or f"{self.library.name}.{full}" in self.modules):
            return self._one({"module"} | self._kinds(last) & {"function", "class"})
        if head:
            if head == "self":
                kinds = self._member_kinds(self.doc.owner, last)
            elif head.rpartition(".")[2] in self.library.names.members:
                kinds = self._member_kinds(self.library.names.members[head.rpartition(".")[2]], last)
            elif ".".join(full.split(".")[:-1]) in self.modules or f"{self.library.name}.{head}" in self.modules:
                kinds = self._kinds(last) & {"function", "class", "exception", "constant"}
            else:
                raise UnclearError
            return self._one(kinds)
        owned = self.doc.owner
        if name in owned.methods and name not in owned.attributes:
            return "method"
        if name in owned.attributes and name not in owned.methods:
            # Attributes often have the name of a parameter of some method.
            if _HEAD.match(after) or after.startswith((" attribute", " property")):
                return "attribute"
            raise UnclearError
        kinds = self._kinds(name)
        if name in self.modules:
            if not after.startswith((" module", " package")):
                raise UnclearError  # Such as `datetime`, which can also be its class.
            return "module"
        if len(name) < 3 or "attribute" in kinds:
            raise UnclearError  # Other classes' attributes are too many to tell.
        return self._one(kinds)

    def _member_kinds(self, owner: Names, name: str) -> set[str]:
        """Return the kinds of a member of a class, or of the classes of the library if the class inherits it."""
        if name in owner.methods | owner.attributes:
            return {"method"} if name in owner.methods else {"attribute"}
        return self._kinds(name) & {"method", "attribute"}

    def _kinds(self, name: str) -> set[str]:
        names = self.library.names
        tables = {
            "function": names.functions,
            "method": names.methods,
            "attribute": names.attributes,
            "constant": names.constants,
            "environment variable": names.environment,
        }
        kinds = {kind for kind, table in tables.items() if name in table}
        if len(name) == 1:
            return kinds - {"constant"}
        if name in self.library.exceptions:
            kinds.add("exception")
        elif name in names.bases:
            kinds.add("class")
        # Enumerations and settings repeat the names of constants as attributes.
        return kinds - {"attribute"} if "constant" in kinds and name.isupper() else kinds

    @staticmethod
    def _one(kinds: set[str]) -> str:
        if len(kinds) != 1:
            raise UnclearError
        return kinds.pop()
