"""Parses the command line of every command into dataclasses, with `HfArgumentParser`.

A command line is parsed twice. The first pass uses only the dataclasses of the command itself. It shows the help and
reports mistakes at once, because it imports neither torch nor transformers. The second pass adds the options of
`Trainer`.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import functools
import itertools
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from . import UsageError
from .settings import SETTINGS_FILES, read_settings

Values = Mapping[str, Any]

# Words that people type, and the options that they may mean.
_MEANINGS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("lr", "rate"), ("learning_rate",)),
    **dict.fromkeys(("batch", "batch_size", "bs", "train_batch_size"), ("per_device_train_batch_size",)),
    "eval_batch_size": ("per_device_eval_batch_size",),
    **dict.fromkeys(("epoch", "epochs", "num_epochs"), ("num_train_epochs",)),
    **dict.fromkeys(("steps", "num_steps", "iterations"), ("max_steps",)),
    **dict.fromkeys(("wd", "decay"), ("weight_decay",)),
    **dict.fromkeys(("warmup", "warmup_ratio"), ("warmup_steps",)),
    **dict.fromkeys(("scheduler", "lr_scheduler"), ("lr_scheduler_type",)),
    "optimizer": ("optim",),
    **dict.fromkeys(("cpu", "no_cuda"), ("use_cpu",)),
    **dict.fromkeys(("from", "model_name", "model_name_or_path", "checkpoint", "encoder"), ("model",)),
    **dict.fromkeys(
        ("data", "input", "file", "files", "texts", "examples"),
        ("text_file", "corpus", "train_file", "calibration_file", "test_file"),
    ),
    **dict.fromkeys(("train", "train_data"), ("train_file", "corpus")),
    **dict.fromkeys(("validation", "valid", "dev", "dev_file", "eval_file"), ("validation_file", "eval_documents")),
    **dict.fromkeys(("test", "test_data"), ("test_file",)),
    "dataset": ("dataset_name", "corpus"),
    **dict.fromkeys(("text", "text_field"), ("text_column",)),
    "label": ("label_column",),
    **dict.fromkeys(("labels", "label_names"), ("label_names_file", "label_column")),
    **dict.fromkeys(("output", "out", "save", "save_dir"), ("output_dir",)),
    **dict.fromkeys(("force", "overwrite_output_dir"), ("overwrite",)),
    **dict.fromkeys(("length", "max_len", "max_seq_length", "seq_length"), ("max_length",)),
    **dict.fromkeys(("r", "lora_r", "lora_rank"), ("rank",)),
    **dict.fromkeys(("time", "duration", "minutes"), ("seconds",)),
    "precision": ("dtype",),
    "max_batch_tokens": ("max_tokens",),
    **dict.fromkeys(("family", "to"), ("to", "format")),
}


class AddValues(argparse.Action):
    """The `action` of an option with several values that may also be repeated, in the metadata of its field."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Append the values to the earlier ones."""
        earlier = getattr(namespace, self.dest, None)
        setattr(namespace, self.dest, [*(earlier if isinstance(earlier, list) else ()), *values])


@dataclass(frozen=True)
class Command:
    """The name and the options of a command.

    Attributes:
        name: Its name.
        summary: What the command does. The list of commands shows the first line.
        example: A command line that works, without the name of the command.
        kinds: The dataclasses whose fields are the options. `_argument_group_name` is their heading in the help.
        positional: The fields that the first arguments set, unless the first one is a settings file. If the last one
            is a list, it takes all of the remaining arguments before the first option.
        completed: Returns the options, completed with those that an earlier run has saved.
        check: Checks the parsed dataclasses before torch is imported, such as for missing libraries.
        needs_models: Returns whether the parsed command loads models, and so needs torch.
        with_trainer: Whether the command also accepts the options of `Trainer`.
        defaults: Returns the defaults that depend on the given options and differ from the defaults of the fields.
        narrowed_by: The options that decide which other options apply.
        left_out: Returns what the help leaves out for given values of `narrowed_by`: "option" or "option=choice".
    """

    name: str
    summary: str
    example: str
    kinds: tuple[type, ...]
    positional: tuple[str, ...] = ("model",)
    completed: Callable[[list[str]], list[str]] = field(default=lambda arguments: arguments)
    check: Callable[..., object] = field(default=lambda *parsed: None)
    needs_models: Callable[..., bool] = field(default=lambda *parsed: True)
    with_trainer: bool = False
    defaults: Callable[[Values], Values] = dict
    narrowed_by: tuple[str, ...] = ()
    left_out: Callable[[Values], Collection[str]] = field(default=lambda given: ())

    def parse(self, arguments: list[str]) -> tuple[Any, ...]:
        """Report every mistake that can be found without importing torch.

        Args:
            arguments: The command line after the name of the command.

        Returns:
            An instance of each dataclass in `kinds`.

        Raises:
            UsageError: If the name or the value of an option is not allowed.
        """
        parsed = self.read(arguments, self.kinds, _trainer_options() if self.with_trainer else {})
        self.check(*parsed)
        return parsed

    def read(
        self, arguments: list[str], kinds: tuple[type, ...], elsewhere: Mapping[str, str] | None = None
    ) -> tuple[Any, ...]:
        """Parse a command line, which may start with a settings file. The options after it override its values.

        Args:
            arguments: The command line after the name of the command.
            kinds: The dataclasses to create.
            elsewhere: Further valid options, which are not parsed, mapped to their fields.

        Returns:
            An instance of each dataclass.

        Raises:
            UsageError: If the name or the value of an option is not allowed.
        """
        arguments = self.completed(self.as_options(arguments))
        options = _options(kinds)
        self._check_names(arguments, {**(elsewhere or {}), **options})
        typed = {options.get(part.partition("=")[0]) for part in arguments}
        if missing := [self.shown(each.name) for each in _required(kinds) if each.name not in typed]:
            place = ", before the options" if arguments and any(map(str.isupper, missing)) else ""
            named = " and ".join(filter(None, (", ".join(missing[:-1]), missing[-1])))
            raise UsageError(f"{named} must be given{place}. {self.with_example}")
        parser = _hf_argument_parser()(kinds, allow_abbrev=False, add_help=False)
        parser.error = _refuse
        # `argparse` fills in defaults only for what the namespace lacks, so what is still unset was not given.
        unset = object()
        names = [each.name for kind in kinds for each in fields(kind)]
        found, left_over = parser.parse_known_args(arguments, argparse.Namespace(**dict.fromkeys(names, unset)))
        if left_over and not elsewhere:
            raise UsageError(_stray(left_over, arguments))
        given = {name: _at_home(value) for name, value in vars(found).items() if value is not unset}
        for name in _takes_objects(kinds):
            if isinstance(given.get(name), str):
                given[name] = read_object(name, given[name])
        try:
            return tuple(parser.parse_dict({**self.defaults(given), **given}, allow_extra_keys=True))
        except (ValueError, TypeError) as error:
            raise error if isinstance(error, UsageError) else UsageError(error) from error

    def as_options(self, arguments: list[str]) -> list[str]:
        """Return a command line whose first arguments, a settings file or values without a name, are options.

        Args:
            arguments: The command line after the name of the command.

        Raises:
            UsageError: If the first argument is neither an option nor a settings file, and the command takes no others.
            OSError: If the settings file cannot be read.
        """
        first = list(itertools.takewhile(lambda part: not _is_option(part), arguments))
        rest = arguments[len(first) :]
        # A query may end in the name of a file.
        named = first and Path(first[0]).suffix in SETTINGS_FILES
        if named and ("query" not in self.positional or os.path.isfile(first[0])):
            return [*read_settings(Path(first[0])), *arguments[1:]]
        if len(first) > len(self.positional) and self.positional and self._takes_list(self.positional[-1]):
            return [f"--{self.positional[-1]}", *first, *rest]
        if len(first) > len(self.positional):
            unexpected = " ".join(first[len(self.positional) :])
            allowed = f"only {' and '.join(map(str.upper, self.positional))}" if self.positional else "only options"
            raise UsageError(f"{unexpected} is unexpected: {self.name} takes {allowed}. {self.with_example}")
        return [*(f"--{name}={value}" for name, value in zip(self.positional, first, strict=False)), *rest]

    def shown(self, name: str) -> str:
        """Return how help and errors show a field: MODEL for an argument that needs no name, or else --model."""
        return name.upper() if name in self.positional else f"--{name}"

    @property
    def with_example(self) -> str:
        """A sentence with an example of the command."""
        return f"For example: sequence-encoder {self.name} {self.example}"

    def _takes_list(self, name: str) -> bool:
        return any(get_origin(get_type_hints(kind).get(name)) is list for kind in self.kinds)

    def _check_names(self, arguments: Iterable[str], known: Collection[str]) -> None:
        """Check that all options exist. The error names those that do not, and suggests others."""
        said = []
        for name in dict.fromkeys(part.partition("=")[0] for part in arguments if _is_option(part)):
            if name not in known:
                word = name.lstrip("-").replace("-", "_")
                meant = [each for each in _MEANINGS.get(word, ()) if f"--{each}" in known]
                begins = [each[2:] for each in known if each.startswith((f"--{word}_", f"--{word}-"))]
                near = [each[2:] for each in difflib.get_close_matches(f"--{word}", known, n=1, cutoff=0.75)]
                suggested = [*meant, *begins, *near][:1]
                said += [f"{name} (did you mean {self.shown(each)}?)" for each in suggested] or [name]
        if said:
            raise UsageError(f"there is no option {', '.join(said)}. See sequence-encoder {self.name} --help.")


def as_words(options: Any, *without: str) -> list[str]:
    """Return the words of a command line that set the options of a dataclass which differ from their defaults.

    Args:
        options: The dataclass.
        *without: Fields to leave out.
    """
    words = []
    for each in fields(options):
        value = getattr(options, each.name)
        default = each.default if each.default_factory is MISSING else each.default_factory()
        if each.name not in without and value != default:
            several = value if isinstance(value, list) else () if value is True else (value,)
            words += [f"--{each.name}", *map(str, several)]
    return words


def check_used(given: Values, instead: Iterable[tuple[str, str]]) -> None:
    """Check that no option was given that the run would ignore.

    Args:
        given: The fields that were given, with their values.
        instead: Pairs of a field and another field that makes it ineffective.

    Raises:
        UsageError: If both fields of a pair were given.
    """
    for name, other in instead:
        # -1 is the default of --max_steps.
        if name in given and given.get(other) not in (None, -1):
            shown = "MODEL" if other == "model" else f"--{other}"
            raise UsageError(f"--{name} has no effect with {shown}; leave one of them out.")


def _at_home(value: Any) -> Any:
    """Expand a leading `~/`, which a shell leaves alone after `=` and in quotes."""
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def _takes_objects(kinds: Iterable[Any]) -> list[str]:
    """Return the fields that take a mapping, which is written as JSON on the command line."""
    hints = {name: hint for kind in kinds for name, hint in get_type_hints(kind).items()}
    return [name for name, hint in hints.items() if {dict} & {get_origin(each) or each for each in get_args(hint)}]


def read_object(name: str, text: str) -> dict[str, Any]:
    """Read a JSON object from the command line, or from the file that it names.

    Args:
        name: The name of the option.
        text: The object, or the name of the file.

    Raises:
        UsageError: If it is not a JSON object.
    """
    try:
        found = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UsageError(f"--{name} must be a JSON object or a file with one, got {text!r}: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"--{name} must be a JSON object or a file with one, got {text!r}.")
    return found


def read_label_descriptions(given: Mapping[str, Any] | str | None) -> dict[str, str] | None:
    """Read the value of `--label_descriptions`: a JSON object, or a file with one.

    Raises:
        UsageError: If it is not a JSON object, has no labels, or has an empty name or description.
    """
    found = read_object("label_descriptions", given) if isinstance(given, str) else given
    if found is None:
        return None
    for name, description in found.items():
        if not (isinstance(description, str) and name.strip() and description.strip()):
            raise UsageError(
                "--label_descriptions must have a text that is not empty for each label, got "
                f"{description!r} for {name!r}."
            )
    if not found:
        raise UsageError("--label_descriptions must have at least one label, got {}.")
    return dict(found)


def _options(kinds: Iterable[Any]) -> dict[str, str]:
    """Map each option to its field, with the option names of `HfArgumentParser`."""
    found: dict[str, str] = {}
    for each in (each for kind in kinds for each in fields(kind) if each.init):
        names = [each.name, f"no_{each.name}"] if each.default is True else [each.name]
        found |= dict.fromkeys((f"--{form}" for name in names for form in _forms(name)), each.name)
    return found


def _forms(name: str) -> tuple[str, str]:
    return name, name.replace("_", "-")


def _trainer_options() -> dict[str, str]:
    """Return the options of `Trainer`, from the source of its arguments, because importing them takes seconds."""
    body = ast.parse(_in_transformers("training_args.py").read_text(encoding="utf-8")).body
    classes = [part for part in body if isinstance(part, ast.ClassDef) and part.name == "TrainingArguments"]
    if len(classes) == 1 and not classes[0].bases:
        names = [ast.unparse(part.target) for part in classes[0].body if isinstance(part, ast.AnnAssign)]
    else:
        # This version of transformers spreads the arguments over several classes.
        from transformers import TrainingArguments

        names = [each.name for each in fields(TrainingArguments)]
    return {f"--{form}": name for name in names for each in (name, f"no_{name}") for form in _forms(each)}


@functools.cache
def _hf_argument_parser() -> Any:
    """Load `HfArgumentParser` from its file alone, because importing transformers takes seconds."""
    spec: Any = spec_from_file_location("hf_argparser", _in_transformers("hf_argparser.py"))
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError:
        # In this version, the file imports other modules of transformers.
        import transformers as module
    return module.HfArgumentParser


def _in_transformers(file: str) -> Path:
    spec: Any = find_spec("transformers")
    return Path(spec.origin).with_name(file)


def _required(kinds: Iterable[type]) -> list[Field[Any]]:
    every = (each for kind in kinds for each in fields(kind))
    return [each for each in every if each.default is MISSING and each.default_factory is MISSING]


def _is_option(part: str) -> bool:
    """Return whether an argument is an option, and not a value such as -1 or a text."""
    return part.startswith("-") and part[1:2].strip(".0123456789") != "" and " " not in part.partition("=")[0]


def _stray(left_over: list[str], arguments: list[str]) -> str:
    """Return the error for values that belong to no option, with the option before the first of them."""
    before = list(itertools.takewhile(lambda part: part != left_over[0], arguments))
    options = [part for part in before if _is_option(part) and "=" not in part]
    reason = f"{options[-1]} takes one value" if options else "options start with --"
    return (
        f"{' '.join(left_over)} does not belong to any option; {reason}. Put a text with spaces, or a pattern of "
        "files, in quotes."
    )


# What argparse and `HfArgumentParser` say about a value, and what we say.
_REFUSALS = (
    (r"invalid int value: (.*)", r"must be an integer, got \1."),
    (r"invalid float value: (.*)", r"must be a number, got \1."),
    (r"Truthy value expected: got (.*) but.*", r"must be True or False, got '\1'."),
    (r"expected (one|at least one) argument", r"needs a value."),
)


def _refuse(message: str) -> None:
    # Show only the first name of the option.
    option, reason = re.sub(r"^argument (--[^/:]+)[^:]*: ", "\\1\n", message).split("\n", 1)
    if choice := re.fullmatch(r"invalid choice: (.*) \(choose from (.*)\)", reason):
        # Whether the allowed values are in quotes depends on the version of Python.
        reason = f"must be one of {choice[2].replace(chr(39), '')}, got {choice[1]}."
    for pattern, ours in _REFUSALS:
        reason = re.sub(f"^{pattern}$", ours, reason)
    raise UsageError(f"{option} {reason}")
