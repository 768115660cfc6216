"""Tries the cells of the table of what works: a command with a model."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch

from sequence_encoder.inference.runtimes import comparison
from sequence_encoder.tests.fixtures.hub_client import ClientError, HubClient
from sequence_encoder.tests.matrix import commands, libraries, server
from sequence_encoder.tests.matrix.command_line import Refused
from sequence_encoder.tests.matrix.models import Model, Workshop

WORKS, REFUSED, FAULT = "works", "refused", "fault"
# Returns a condition under which it works, if there is one.
Column = Callable[[Model, Workshop, Path], str | None]
# The verbs of advice. A refusal without any is a dead end.
_ADVICE = re.compile(
    r"\b(use|pass|choose|call|load|train|convert|converts|export|quantize|merge|serve|explain|start|measures)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Outcome:
    """What came of a cell.

    Attributes:
        verdict: `WORKS`, `REFUSED` or `FAULT`.
        message: The refusal, the fault, or the condition under which it works.
        trace: The traceback of a fault.
    """

    verdict: str
    message: str = ""
    trace: str = ""


def columns(client: HubClient) -> dict[str, Column]:
    """Return the columns by their titles.

    Args:
        client: A process of a user of a Hub.
    """
    return {
        "adapt": commands.adapt_from,
        "distill": commands.distill,
        "calibrate": commands.calibrate,
        "evaluate": commands.evaluate,
        "explain": commands.explain,
        "embed": commands.embed,
        "predict": commands.predict,
        "extract": commands.extract,
        "index, search": commands.index_and_search,
        **{f"serve: {protocol}": server.routes(protocol) for protocol in server.ROUTES},
        "serve: search": server.search,
        "serve: page": server.page,
        "quantize": commands.quantize,
        "export": commands.export,
        "convert --to": commands.convert,
        "pipeline": libraries.pipeline,
        "Sentence Transformer": libraries.sentence_transformer,
        "Cross Encoder": libraries.cross_encoder,
        "push and pull": libraries.Pushing(client),
    }


def attempt(column: Column, kind: str, state: str, shop: Workshop) -> Outcome:
    """Try a cell."""
    torch.manual_seed(0)
    prefix = f"{kind}-"
    with TemporaryDirectory(dir=shop.root) as work:
        try:
            with patch.object(comparison, "_MEASURED", 0.0):  # the speed of exported models
                note = column(shop.model(kind, state), shop, Path(work))
        except (Refused, ValueError, OSError) as error:
            said = _general(str(error), shop, work, prefix)
            verdict = REFUSED if _ADVICE.search(said) else FAULT
            return Outcome(verdict, said, traceback.format_exc())
        except (Exception, ClientError) as error:
            said = _general(f"{type(error).__name__}: {error}", shop, work, prefix)
            return Outcome(FAULT, said, traceback.format_exc())
    return Outcome(WORKS, note or "")


def _general(message: str, shop: Workshop, work: str, prefix: str) -> str:
    """Return a message without the names of folders, those of models after a prefix."""
    message = re.sub(rf"{re.escape(work)}/", "", message)
    message = re.sub(rf"{re.escape(str(shop.root))}/[^\s,;:'\"/`]+", "MODEL", message)
    message = re.sub(rf"\b{prefix}[\w-]+", "MODEL", message)
    return " ".join(message.split())
