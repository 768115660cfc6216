"""What follows `sequence-encoder COMMAND`: dataclasses become options, as `HfArgumentParser` reads them.

A command line is read twice. The first time, the dataclasses of the command itself are enough to show the help and to
refuse mistakes at once: that imports neither torch nor transformers. The second time, the options of `Trainer` join in.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import functools
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

# What people type, and what it may be called here.
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


@dataclass(frozen=True)
class CommandLine:
    """The options of a command.

    Attributes:
        command: its name.
        summary: what it does, for the help.
        example: a command line that works, without the name of the command.
        kinds: the dataclasses whose fields are its options; `_argument_group_name` is the heading of each in the help.
        with_trainer: whether the options of `Trainer` are options too.
        defaults: the defaults that follow from what is given, where they differ from those of the fields.
        narrowed_by: the options that decide which others are of use.
        out_of_use: what the help leaves out, by the values of those in `narrowed_by`: "option" or "option=choice".
    """

    command: str
    summary: str
    example: str
    kinds: tuple[type, ...]
    with_trainer: bool = False
    defaults: Callable[[Values], Values] = dict
    narrowed_by: tuple[str, ...] = ()
    out_of_use: Callable[[Values], Collection[str]] = field(default=lambda given: ())

    def check(self, arguments: list[str]) -> tuple[Any, ...]:
        """Show the help and exit, or refuse every mistake that can be seen without importing torch.

        Returns:
            One of each of `kinds`.

        Raises:
            UsageError: for names and values that are not allowed.
        """
        if asked := {"-h", "--help", "--help-all"}.intersection(arguments):
            self._print_help(arguments, everything="--help-all" in asked)
            sys.exit(0)
        return self.read(arguments, self.kinds, _trainer_options() if self.with_trainer else {})

    def read(
        self, arguments: list[str], kinds: tuple[type, ...], elsewhere: Mapping[str, str] | None = None
    ) -> tuple[Any, ...]:
        """Read a command line, which may start with a file of settings; the options after it replace its values.

        Args:
            arguments: what was typed.
            kinds: the dataclasses to make.
            elsewhere: further options that exist, by their names. They are left unread.

        Returns:
            One of each of the dataclasses.

        Raises:
            UsageError: for names and values that are not allowed.
        """
        if arguments and not arguments[0].startswith("-"):
            arguments = [*read_settings(Path(arguments[0])), *arguments[1:]]
        options = _options(kinds)
        check_names(self.command, arguments, {**(elsewhere or {}), **options})
        typed = {options.get(part.partition("=")[0]) for part in arguments}
        needed = [each for kind in kinds for each in fields(kind) if _is_required(each) and each.name not in typed]
        if needed:
            raise UsageError(
                f"{' and '.join(map(_shown, needed))} must be given. For example: "
                f"sequence-encoder {self.command} {self.example}"
            )
        parser = _hf_argument_parser()(kinds, allow_abbrev=False, add_help=False)
        parser.error = _refuse
        # `argparse` fills in the default of what the namespace lacks. So what is still unset was not given.
        unset = object()
        names = [each.name for kind in kinds for each in fields(kind)]
        found, left_over = parser.parse_known_args(arguments, argparse.Namespace(**dict.fromkeys(names, unset)))
        if left_over and not elsewhere:
            raise UsageError(f"no option takes {' '.join(left_over)}; each starts with --.")
        given = {name: _at_home(value) for name, value in vars(found).items() if value is not unset}
        for name in _takes_objects(kinds):
            if isinstance(given.get(name), str):
                given[name] = _read_object(name, given[name])
        try:
            return tuple(parser.parse_dict({**self.defaults(given), **given}, allow_extra_keys=True))
        except (ValueError, TypeError) as error:
            raise error if isinstance(error, UsageError) else UsageError(error) from error

    def _print_help(self, arguments: list[str], everything: bool) -> None:
        chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        for name in self.narrowed_by:
            chooser.add_argument(f"--{name}", default=argparse.SUPPRESS)
        given = vars(chooser.parse_known_args(arguments)[0])
        example = self.example
        for name, value in given.items():
            example = re.sub(rf"--{name} \S+", f"--{name} {value}", example)
        parser = argparse.ArgumentParser(
            prog=f"sequence-encoder {self.command}",
            usage="%(prog)s [settings.yaml or .json] [--option VALUE ...]",
            description=f"{self.summary}\n\n  sequence-encoder {self.command} {example}",
            formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=36),
            add_help=False,
        )
        defaults, hidden = self.defaults(given), () if everything else self.out_of_use(given)
        for kind in self.kinds:
            shown = [each for each in fields(kind) if each.name not in {*hidden, *given}]
            group = parser.add_argument_group(getattr(kind, "_argument_group_name", "options"))
            _add_to_help(group, shown, defaults, hidden)
        if self.with_trainer and everything:
            from transformers import TrainingArguments

            own = {each.name for kind in self.kinds for each in fields(kind)}
            shown = [each for each in fields(TrainingArguments) if each.init and each.name not in own]
            _add_to_help(parser.add_argument_group("all other options of transformers' Trainer"), shown, {}, ())
        elif self.with_trainer:
            adds = ["--help-all lists the options of transformers' Trainer too"]
            for name in self.narrowed_by[:1]:
                narrowed = f"--{name} {name.upper()} --help shows one {name}"
                adds.append(f"{self.command} --help lists all of ours" if name in given else narrowed)
            parser.epilog = f"{', '.join(adds)}."
        parser.print_help()


def check_names(command: str, arguments: Iterable[str], known: Collection[str]) -> None:
    """Check that all options exist.

    Raises:
        UsageError: that names those that do not, and what was probably meant.
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
        raise UsageError(f"there is no argument {', '.join(said)}. See sequence-encoder {command} --help.")


def check_used(given: Values, instead: Iterable[tuple[str, str]]) -> None:
    """Check that nothing was given that a run would ignore.

    Args:
        given: the fields that were given, with their values.
        instead: fields, each with one that leaves it without a use.

    Raises:
        UsageError: if something was.
    """
    for name, other in instead:
        # `--max_steps -1` is its default.
        if name in given and given.get(other) not in (None, -1):
            shown = other.removesuffix("_checkpoint")
            raise UsageError(f"--{name} has no effect with --{shown}; leave one of them out.")


def read_settings(file: Path) -> list[str]:
    """The options that a file of YAML or JSON stands for.

    Raises:
        UsageError: if there are none in it.
        OSError: if it cannot be read.
    """
    import yaml

    if not file.is_file():
        raise UsageError(
            f"there is no file {file}. Settings come first, as a YAML or JSON file; options start with --."
        )
    if file.suffix not in (".json", ".yaml", ".yml"):
        raise UsageError(f"settings must be a file of .yaml, .yml or .json, got {file}.")
    try:
        # JSON is YAML too.
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        # YAML's errors show the place on lines of its own.
        raise UsageError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{file} must hold names and values, got {type(settings).__name__}.")
    options: list[str] = []
    for name, value in settings.items():
        if isinstance(value, list):
            options += [f"--{name}", *map(str, value)]
        elif value is not None:
            options.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return options


def _at_home(value: Any) -> Any:
    """A path that begins with `~/`, which a shell leaves as it is after `=` and in quotes."""
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def _takes_objects(kinds: Iterable[Any]) -> list[str]:
    """The fields that take a mapping, which a command line gives as JSON."""
    hints = {name: hint for kind in kinds for name, hint in get_type_hints(kind).items()}
    return [name for name, hint in hints.items() if {dict} & {get_origin(each) or each for each in get_args(hint)}]


def _read_object(name: str, text: str) -> dict[str, Any]:
    """A JSON object, from the command line or from the file that it names."""
    try:
        found = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UsageError(f"--{name} must be a JSON object or a file with one, got {text!r}: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"--{name} must be a JSON object or a file with one, got {text!r}.")
    return found


def _options(kinds: Iterable[Any]) -> dict[str, str]:
    """The field of each option, as `HfArgumentParser` calls them."""
    found: dict[str, str] = {}
    for each in (each for kind in kinds for each in fields(kind) if each.init):
        names = [each.name, f"no_{each.name}"] if each.default is True else [each.name]
        dashed = [f"--{form}" for name in names for form in (name, name.replace("_", "-"))]
        found |= dict.fromkeys((*dashed, *each.metadata.get("aliases", ())), each.name)
    return found


def _trainer_options() -> dict[str, str]:
    """The options of `Trainer`, from the text of its arguments: importing them takes seconds."""
    body = ast.parse(_in_transformers("training_args.py").read_text(encoding="utf-8")).body
    classes = [part for part in body if isinstance(part, ast.ClassDef) and part.name == "TrainingArguments"]
    if len(classes) == 1 and not classes[0].bases:
        names = [ast.unparse(part.target) for part in classes[0].body if isinstance(part, ast.AnnAssign)]
    else:
        # A version that spreads them over several classes.
        from transformers import TrainingArguments

        names = [each.name for each in fields(TrainingArguments)]
    forms = [form for name in names for form in (name, f"no_{name}")]
    return {f"--{each}": each for form in forms for each in (form, form.replace("_", "-"))}


@functools.cache
def _hf_argument_parser() -> Any:
    """`HfArgumentParser`, from its file alone: importing transformers takes longer than all else that is done here."""
    spec: Any = spec_from_file_location("hf_argparser", _in_transformers("hf_argparser.py"))
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError:
        # A version whose file needs others of transformers.
        import transformers as module
    return module.HfArgumentParser


def _in_transformers(file: str) -> Path:
    spec: Any = find_spec("transformers")
    return Path(spec.origin).with_name(file)


def _add_to_help(group: Any, shown: Iterable[Field[Any]], defaults: Values, hidden: Collection[str]) -> None:
    """A line for each field: its option, what it means, and its default."""
    for each in shown:
        default = defaults.get(each.name, each.default_factory() if callable(each.default_factory) else each.default)
        told = str(each.metadata.get("help", ""))
        if isinstance(default, bool):
            forms = (f"--{each.name}", f"--no_{each.name}") if default else (_shown(each),)
            group.add_argument(*forms, action="store_true", help=told)
            continue
        if default is not None and default is not MISSING:
            values = default if isinstance(default, list) else [getattr(default, "value", default)]
            told += f" (default: {' '.join(map(str, values)).replace('%', '%%')})"
        choices = [str(choice) for choice in each.metadata.get("choices", ()) if f"{each.name}={choice}" not in hidden]
        word = "{" + ",".join(choices) + "}" if choices else each.name.rpartition("_")[2].upper()
        word = each.metadata.get("metavar", word)
        group.add_argument(_shown(each), metavar=word, help=told)


def _shown(each: Field[Any]) -> str:
    """The option that the help shows for a field."""
    return next(iter(each.metadata.get("aliases", ())), f"--{each.name}")


def _is_required(each: Field[Any]) -> bool:
    return each.default is MISSING and each.default_factory is MISSING


def _is_option(part: str) -> bool:
    """Whether it is the name of an option, and not a value such as -1 or a text."""
    return part.startswith("-") and part[1:2].strip(".0123456789") != "" and " " not in part.partition("=")[0]


def _refuse(message: str) -> None:
    # The first name of an option is enough.
    raise UsageError(re.sub(r"^argument (--[^/:]+)[^:]*:", r"\1:", message))
