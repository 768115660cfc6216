"""The options of `sequence-encoder serve`. Nothing here imports torch, so that errors show at once."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, fields

from ..command_line import UsageError
from ..command_line.parser import check_names
from .limits import Limits, check_api_key

KEY_VARIABLE = "SEQUENCE_ENCODER_API_KEY"
PRECISIONS = ("auto", "float32", "bfloat16")
_LIMITS = {
    "max_batch_tokens": "maximum number of tokens that are computed together",
    "max_queue_tokens": "maximum number of tokens that wait; more are refused with status 429",
    "max_texts": "maximum number of texts in a request; more are refused with status 413",
    "max_body_bytes": "maximum size of a request; more is refused with status 413",
}


@dataclass(frozen=True)
class ServeArguments:
    """The options of a server.

    Attributes:
        models: Folders or Hub ids, with `NAME=` before those that requests ask for by another name.
        host: The address to listen on.
        port: The port to listen on; 0 for any that is free.
        limits: The limits.
        api_key: The key that requests must send; None if they need none.
        precision: One of `PRECISIONS`.
        device: A device of torch, or "auto".
        truncate: Whether to cut texts that are too long, unless a request says otherwise.
        index: The folder of an index to search, or None.
        label_file: The CSV file whose texts people label, or None.
        label_names: The file with the names of the labels, or None.
    """

    models: tuple[str, ...]
    host: str
    port: int
    limits: Limits
    api_key: str | None
    precision: str
    device: str
    truncate: bool
    index: str | None
    label_file: str | None
    label_names: str | None


def read_arguments(summary: str | None, arguments: list[str]) -> ServeArguments:
    """Parse the command line after `serve`.

    Args:
        summary: The description of the command in the help.
        arguments: The command line.

    Raises:
        UsageError: If the name or the value of an option is not allowed.
    """
    parser = argparse.ArgumentParser(
        prog="sequence-encoder serve",
        description=f"{summary}\n\n  sequence-encoder serve sentence-transformers/all-MiniLM-L6-v2 --port 8080",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "models",
        metavar="model",
        nargs="+",
        help="folder or Hub id of a model, also exported; `convert` lists the families. NAME=MODEL serves it by a name",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: 127.0.0.1, this machine")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on; default: 8080")
    for each in fields(Limits):
        parser.add_argument(
            *_forms(each.name),
            type=int,
            default=each.default,
            metavar="N",
            help=f"{_LIMITS[each.name]}; default: {each.default}",
        )
    parser.add_argument(
        *_forms("api_key"),
        default=os.environ.get(KEY_VARIABLE) or None,
        metavar="KEY",
        help=f"key that requests must send; better in {KEY_VARIABLE}, where other users cannot see it",
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="default: auto, what is fast on this machine"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, mps or another device; default: a GPU if any")
    parser.add_argument("--truncate", action="store_true", help="cut texts that are too long instead of refusing them")
    parser.add_argument("--index", metavar="FOLDER", help="index to search, which `sequence-encoder index` has made")
    parser.add_argument(
        *_forms("label_file"), metavar="FILE", help="CSV file to label in a browser, such as from `choose`"
    )
    parser.add_argument(*_forms("label_names"), metavar="FILE", help="text file with the name of a label in each line")
    check_names("serve", arguments, [*parser._option_string_actions])
    parsed = parser.parse_args(arguments)
    if not 0 <= parsed.port < 2**16:
        raise UsageError(f"--port must be from 0 to {2**16 - 1}, got {parsed.port}.")
    check_api_key(parsed.api_key)
    if parsed.label_names is not None and parsed.label_file is None:
        raise UsageError("--label_names needs --label_file.")
    limits = Limits(**{each.name: getattr(parsed, each.name) for each in fields(Limits)})
    return ServeArguments(
        tuple(parsed.models),
        parsed.host,
        parsed.port,
        limits,
        parsed.api_key,
        parsed.precision,
        parsed.device,
        parsed.truncate,
        parsed.index,
        parsed.label_file,
        parsed.label_names,
    )


def _forms(name: str) -> tuple[str, str]:
    return f"--{name}", f"--{name.replace('_', '-')}"
