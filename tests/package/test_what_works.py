"""A sample of the cells of docs/what-works.md, which covers each kind and state of models and each command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("lancedb", reason="needs the extra search")
pytest.importorskip("sentence_transformers", reason="needs the extra adapt")

from sequence_encoder.tests.fixtures.hub_client import HubClient
from sequence_encoder.tests.fixtures.hub_server import Hub
from sequence_encoder.tests.matrix.cells import FAULT, Column, attempt, columns
from sequence_encoder.tests.matrix.models import EXPORTED, Workshop, rows
from sequence_encoder.tests.matrix.table import read

pytestmark = pytest.mark.since("transformers", "5.24", "has the messages that the page quotes")
# Cells that share a model are next to each other.
SAMPLE = (
    ("unnamed", "fresh", "evaluate"),
    ("unnamed", "calibrated", "predict"),
    ("classifier", "adapt --tuning head", "predict"),
    ("multi-label", "fresh", "convert --to"),
    ("multi-label", "fresh", "pipeline"),
    ("multi-label", "adapt --tuning full", "serve: TEI"),
    ("multi-label", "adapt --tuning lora", "explain"),
    ("multi-label", "eight bits", "adapt"),
    ("multi-label", "saved by Trainer", "calibrate"),
    ("multi-label", "saved without the package", "Sentence Transformer"),
    ("qa", "fresh", "embed"),
    ("regression", "fresh", "serve: OpenAI"),
    ("ranker", "fresh", "Cross Encoder"),
    ("ranker", "fresh", "distill"),
    ("tagger", "fresh", "serve: page"),
    ("extractor", "fresh", "distill"),
    ("extractor", "fresh", "explain"),
    ("extractor", "fresh", "Sentence Transformer"),
    ("extractor", "fresh", "serve: extract"),
    ("extractor", "unmerged peft folder", "extract"),
    ("zeroshot", "fresh", "adapt"),
    ("zeroshot", "fresh", "calibrate"),
    ("zeroshot", "fresh", "Cross Encoder"),
    ("zeroshot", "fresh", "push and pull"),
    ("zeroshot", "unmerged peft folder", "predict"),
    ("choice", "fresh", "quantize"),
    ("retrieval", "fresh", "serve: search"),
    ("retrieval", "fresh", "push and pull"),
    ("encoder", "fresh", "index, search"),
    ("static", "fresh", "distill"),
    ("static", "fresh", "convert --to"),
    ("masked", "fresh", "serve: Hugging Face"),
    ("writer", "adapt --tuning full", "evaluate"),
    ("classifier", "adapt --tuning adapter", "evaluate"),
    ("classifier", "adapt --tuning prompt", "predict"),
    ("classifier", "adapt --tuning dora", "convert --to"),
    ("classifier", "adapt --tuning ia3", "explain"),
    ("classifier", "unmerged peft folder", "predict"),
)


@pytest.fixture(scope="module")
def tried(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Column]]:
    """Return the commands."""
    client = HubClient(hub.url, tmp_path_factory.mktemp("user"), token="hf_of_the_user")
    yield columns(client)
    client.close()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize(("kind", "state", "command"), SAMPLE)
def test_the_page_says_what_works(
    tried: dict[str, Column], shop: Workshop, kind: str, state: str, command: str
) -> None:
    outcome: Any = attempt(tried[command], kind, state, shop)
    stated = read()[kind, state, command]
    assert (outcome.verdict, outcome.message) == (stated.verdict, stated.message), outcome.trace


def test_the_rows_of_the_page_are_complete_and_have_no_fault(tried: dict[str, Column]) -> None:
    cells = read()
    assert {*cells} == {(kind, state, command) for kind, state, _ in cells for command in tried}
    assert {cell[:2] for cell in cells} <= {*rows()}
    assert not [cell for cell, outcome in cells.items() if outcome.verdict == FAULT]


def test_the_sample_covers_all_models_and_commands() -> None:
    kinds, states, commands = ({*each} for each in zip(*read(), strict=True))
    # An export takes longer than the whole sample. Other tests export, and use what they exported.
    expected = [kinds, states - {*EXPORTED}, commands - {"export"}]
    assert [{*each} for each in zip(*SAMPLE, strict=True)] == expected
