"""The command line: `sequence-encoder COMMAND …` or `python -m sequence_encoder COMMAND …`."""

from __future__ import annotations

import argparse
import sys
from typing import Any, cast

from transformers import HfArgumentParser

from .training import UsageError


def quickstart(arguments: list[str]) -> None:
    """Pretrain, adapt, save, reload and predict, on the documentation on this disk, in a few minutes."""
    from .training.quickstart import QuickstartArguments
    from .training.quickstart import quickstart as run

    parser = HfArgumentParser(
        cast(Any, QuickstartArguments), prog="sequence-encoder quickstart", description=quickstart.__doc__
    )
    try:
        (parsed,) = parser.parse_args_into_dataclasses(arguments)
    except ValueError as error:
        raise UsageError(error) from error
    run(parsed)


def pretrain(arguments: list[str]) -> None:
    """Pretrain an encoder on masked tokens and sentence order, on any corpus, in one process or many."""
    from .training.pretraining import pretrain as run
    from .training.pretraining_arguments import parse

    # Processes that do not take leave of each other can end with an error.
    run(parse(arguments)).accelerator.end_training()


def adapt(arguments: list[str]) -> None:
    """Train an encoder for a task: classification, entities, answers, embeddings, ranking and others."""
    from accelerate import PartialState

    from .training.adaptation import adapt as run
    from .training.adaptation_arguments import parse

    run(parse(arguments))
    PartialState().destroy_process_group()


def convert(arguments: list[str]) -> None:
    """Carry a checkpoint of another family over to a SequenceEncoder, or give one back with --to."""
    from .conversion.command import convert_checkpoint
    from .conversion.source_models import FAMILIES

    parser = argparse.ArgumentParser(prog="sequence-encoder convert", description=convert.__doc__)
    parser.add_argument("source", help="the checkpoint: a folder or a Hub id")
    parser.add_argument("target", help="the folder to write")
    parser.add_argument("--to", choices=FAMILIES, help="the family to give a SequenceEncoder back to")
    parser.add_argument(
        "--base-model", action="store_true", help="carry the encoder over alone, without the head that the source has"
    )
    parser.add_argument("--force", action="store_true", help="replace the whole target folder if it is a saved model")
    parsed = parser.parse_args(arguments)
    try:
        convert_checkpoint(parsed.source, parsed.target, parsed.to, parsed.base_model, parsed.force)
    except ValueError as error:
        raise UsageError(error) from error


COMMANDS = {"quickstart": quickstart, "pretrain": pretrain, "adapt": adapt, "convert": convert}


def main(arguments: list[str] | None = None) -> None:
    """Runs the command named first; each has its own `--help`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    summary = "\n".join(f"  {name:<12} {command.__doc__}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="sequence-encoder",
        description=f"commands:\n{summary}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, help="what to do; add --help for its arguments")
    command = parser.parse_args(arguments[:1]).command
    try:
        COMMANDS[command](arguments[1:])
    except (UsageError, OSError) as error:
        sys.exit(f"sequence-encoder {command}: {error}")
    except KeyboardInterrupt as interruption:
        print(f"\nsequence-encoder {command}: {interruption or 'interrupted.'}", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
