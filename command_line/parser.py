"""Parses the options of `sequence-encoder COMMAND` into dataclasses, with `HfArgumentParser`.

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
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from . import UsageError

Values = Mapping[str, Any]

# The endings of settings files.
_SETTINGS = (".json", ".yaml", ".yml")

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
    **dict.fromkeys(("model", "model_name", "checkpoint", "encoder", "base"), ("from",)),
    **dict.fromkeys(("data", "input", "train", "train_data", "file", "files"), ("train_file", "corpus")),
    **dict.fromkeys(("dataset", "texts"), ("dataset_name", "corpus")),
    **dict.fromkeys(("validation", "valid", "dev", "dev_file", "eval_file"), ("validation_file", "eval_documents")),
    **dict.fromkeys(("test", "test_data"), ("test_file",)),
    **dict.fromkeys(("text", "text_field"), ("text_column",)),
    **dict.fromkeys(("label", "labels"), ("label_column",)),
    **dict.fromkeys(("output", "out", "save", "save_dir"), ("output_dir",)),
    **dict.fromkeys(("force", "overwrite", "overwrite_output_dir"), ("overwrite", "force")),
    **dict.fromkeys(("length", "max_len", "max_seq_length", "seq_length"), ("max_length",)),
    **dict.fromkeys(("r", "lora_r", "lora_rank"), ("rank",)),
    **dict.fromkeys(("time", "duration"), ("minutes",)),
    "family": ("to",),
}


class AddValues(argparse.Action):
    """The `action` of an option with several values that may also be repeated, in the metadata of its field."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Add the values to those before."""
        before = getattr(namespace, self.dest, None)
        setattr(namespace, self.dest, [*(before if isinstance(before, list) else ()), *values])


@dataclass(frozen=True)
class CommandLine:
    """The options of a command.

    Attributes:
        command: The name of the command.
        summary: The description of the command in the help.
        example: A command line that works, without the name of the command.
        kinds: The dataclasses whose fields are the options. `_argument_group_name` is their heading in the help.
        with_trainer: Whether the command also accepts the options of `Trainer`.
        defaults: Returns the defaults that depend on the given options and differ from the defaults of the fields.
        positional: The fields that the first arguments set, unless the first one is a settings file.
        narrowed_by: The options that decide which other options apply.
        left_out: Returns what the help leaves out for given values of `narrowed_by`: "option" or "option=choice".
    """

    command: str
    summary: str
    example: str
    kinds: tuple[type, ...]
    with_trainer: bool = False
    defaults: Callable[[Values], Values] = dict
    positional: tuple[str, ...] = ()
    narrowed_by: tuple[str, ...] = ()
    left_out: Callable[[Values], Collection[str]] = field(default=lambda given: ())

    def check(self, arguments: list[str]) -> tuple[Any, ...]:
        """Show the help and exit, or report every mistake that can be found without importing torch.

        Args:
            arguments: The command line after the name of the command.

        Returns:
            An instance of each dataclass in `kinds`.

        Raises:
            UsageError: If the name or the value of an option is not allowed.
        """
        if asked := {"-h", "--help", "--help-all"}.intersection(arguments):
            self._print_help(arguments, everything="--help-all" in asked)
            sys.exit(0)
        return self.read(arguments, self.kinds, _trainer_options() if self.with_trainer else {})

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
        arguments = self.as_options(arguments)
        options = _options(kinds)
        check_names(self.command, arguments, {**(elsewhere or {}), **options})
        typed = {options.get(part.partition("=")[0]) for part in arguments}
        if missing := [_shown(each) for each in _required(kinds) if each.name not in typed]:
            raise UsageError(self._with_example(missing))
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
                given[name] = _read_object(name, given[name])
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
        first = list(itertools.takewhile(lambda part: not part.startswith("-"), arguments))
        if not first:
            return arguments
        if Path(first[0]).suffix in _SETTINGS:
            return [*read_settings(Path(first[0])), *arguments[1:]]
        if not self.positional:
            required = [_shown(each) for each in _required(self.kinds)]
            meant = f" Did you mean --from {first[0]}?" if "--from" in required else ""
            raise UsageError(
                f"{first[0]} is neither an option nor a settings file, which ends in .yaml, .yml or .json.{meant} "
                f"{self._with_example(required)}"
            )
        named = [f"--{name}={value}" for name, value in zip(self.positional, first, strict=False)]
        return [*named, *arguments[len(named) :]]

    def _with_example(self, needed: list[str]) -> str:
        """Say which options must be given, with an example of the command."""
        required = f"{' and '.join(needed)} must be given. " if needed else ""
        return f"{required}For example: sequence-encoder {self.command} {self.example}"

    def _print_help(self, arguments: list[str], everything: bool) -> None:
        chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        for name in self.narrowed_by:
            chooser.add_argument(f"--{name}", default=argparse.SUPPRESS)
        given = vars(chooser.parse_known_args(arguments)[0])
        example = self.example
        for name, value in given.items():
            example = re.sub(rf"--{name} \S+", f"--{name} {value}", example)
        first = " ".join(self.positional).upper() or "[settings.yaml or .json]"
        parser = argparse.ArgumentParser(
            prog=f"sequence-encoder {self.command}",
            usage=f"%(prog)s {first} [--option VALUE ...]",
            description=f"{self.summary}\n\n  sequence-encoder {self.command} {example}",
            formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=36),
            add_help=False,
        )
        defaults, hidden = self.defaults(given), () if everything else self.left_out(given)
        for kind in self.kinds:
            shown = [each for each in fields(kind) if each.name not in {*hidden, *given}]
            group = parser.add_argument_group(getattr(kind, "_argument_group_name", "options"))
            _add_to_help(group, shown, defaults, hidden)
        if self.with_trainer and everything:
            from transformers import TrainingArguments

            own = {each.name for kind in self.kinds for each in fields(kind)}
            shown = [each for each in fields(TrainingArguments) if each.init and each.name not in own]
            _add_to_help(parser.add_argument_group("other options of transformers' Trainer"), shown, {}, ())
        elif self.with_trainer:
            adds = ["--help-all also lists the options of transformers' Trainer"]
            for name in self.narrowed_by[:1]:
                narrowed = f"--{name} {name.upper()} --help lists the options of one {name}"
                adds.append(f"{self.command} --help lists the options of every {name}" if name in given else narrowed)
            parser.epilog = f"{'; '.join(adds)}."
        parser.print_help()


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


def check_names(command: str, arguments: Iterable[str], known: Collection[str]) -> None:
    """Check that all options exist.

    Args:
        command: The name of the command, for the error message.
        arguments: The command line after the name of the command.
        known: The options that exist, with their dashes.

    Raises:
        UsageError: If options do not exist. The message names them and suggests others.
    """
    names = dict.fromkeys(part.partition("=")[0] for part in arguments if _is_option(part))
    said = []
    for name in names:
        if name not in known:
            word = name.lstrip("-").replace("-", "_")
            meant = [f"--{each}" for each in _MEANINGS.get(word, ()) if f"--{each}" in known]
            begins = [each for each in known if each.startswith(f"--{word}_") or each.startswith(f"--{word}-")]
            near = meant or begins or difflib.get_close_matches(f"--{word}", known, n=1, cutoff=0.75)
            said.append(f"{name} (did you mean {near[0]}?)" if near else name)
    if said:
        raise UsageError(f"there is no option {', '.join(said)}. See sequence-encoder {command} --help.")


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
            shown = other.removesuffix("_checkpoint")
            raise UsageError(f"--{name} has no effect with --{shown}; leave one of them out.")


def read_settings(file: Path) -> list[str]:
    """Read a YAML or JSON file of settings as command line options.

    Raises:
        UsageError: If the file does not hold settings.
        OSError: If the file cannot be read.
    """
    import yaml

    if not file.is_file():
        raise UsageError(f"there is no file {file}. The first argument can be a YAML or JSON settings file.")
    try:
        # JSON is YAML too.
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        # A YAML error spans several lines.
        raise UsageError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{file} must contain names and values, got {type(settings).__name__}.")
    options: list[str] = []
    for name, value in settings.items():
        if isinstance(value, list):
            options += [f"--{name}", *map(str, value)]
        elif value is not None:
            options.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return options


def _at_home(value: Any) -> Any:
    """Expand a leading `~/`, which a shell leaves alone after `=` and in quotes."""
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def _takes_objects(kinds: Iterable[Any]) -> list[str]:
    """Return the fields that take a mapping, which is written as JSON on the command line."""
    hints = {name: hint for kind in kinds for name, hint in get_type_hints(kind).items()}
    return [name for name, hint in hints.items() if {dict} & {get_origin(each) or each for each in get_args(hint)}]


def _read_object(name: str, text: str) -> dict[str, Any]:
    """Read a JSON object from the command line, or from the file that it names."""
    try:
        found = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UsageError(f"--{name} must be a JSON object or a file with one, got {text!r}: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"--{name} must be a JSON object or a file with one, got {text!r}.")
    return found


def _options(kinds: Iterable[Any]) -> dict[str, str]:
    """Map each option to its field, with the option names of `HfArgumentParser`."""
    found: dict[str, str] = {}
    for each in (each for kind in kinds for each in fields(kind) if each.init):
        names = [each.name, f"no_{each.name}"] if each.default is True else [each.name]
        dashed = [f"--{form}" for name in names for form in (name, name.replace("_", "-"))]
        found |= dict.fromkeys((*dashed, *each.metadata.get("aliases", ())), each.name)
    return found


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
    forms = [form for name in names for form in (name, f"no_{name}")]
    return {f"--{each}": each for form in forms for each in (form, form.replace("_", "-"))}


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


def _add_to_help(group: Any, shown: Iterable[Field[Any]], defaults: Values, hidden: Collection[str]) -> None:
    """Add a line for each field to the help: its option, its meaning and its default."""
    for each in shown:
        default = defaults.get(each.name, each.default_factory() if callable(each.default_factory) else each.default)
        help_text = str(each.metadata.get("help", ""))
        if isinstance(default, bool):
            forms = (f"--{each.name}", f"--no_{each.name}") if default else (_shown(each),)
            group.add_argument(*forms, action="store_true", help=help_text)
            continue
        if default not in (None, MISSING, []):
            values = default if isinstance(default, list) else [getattr(default, "value", default)]
            help_text += f" (default: {' '.join(map(str, values)).replace('%', '%%')})"
        choices = [str(choice) for choice in each.metadata.get("choices", ()) if f"{each.name}={choice}" not in hidden]
        word = "{" + ",".join(choices) + "}" if choices else each.name.rpartition("_")[2].upper()
        word = each.metadata.get("metavar", word)
        group.add_argument(_shown(each), metavar=word, help=help_text)


def _shown(each: Field[Any]) -> str:
    """Return the option that the help shows for a field."""
    return next(iter(each.metadata.get("aliases", ())), f"--{each.name}")


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


def _refuse(message: str) -> None:
    # Show only the first name of the option.
    raise UsageError(re.sub(r"^argument (--[^/:]+)[^:]*:", r"\1:", message))
