"""The columns of the table of what works that are protocols of the server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sequence_encoder import create_app, load_served_model
from sequence_encoder.tests.fixtures.adaptation_runs import COLOURS
from sequence_encoder.tests.fixtures.serving_apps import ask
from sequence_encoder.tests.matrix.commands import TEXTS, index
from sequence_encoder.tests.matrix.models import Model, Workshop

_MASKED = "the red [MASK] is here"
# For each protocol, its routes for models, with a request. A model need only answer one. The last is our own.
ROUTES: dict[str, dict[str, dict[str, Any]]] = {
    "OpenAI": {
        "/v1/embeddings": {"input": TEXTS},
        "/v1/rerank": {"query": TEXTS[0], "documents": TEXTS},
    },
    "TEI": {
        "/embed": {"inputs": TEXTS},
        "/embed_sparse": {"inputs": TEXTS},
        "/rerank": {"query": TEXTS[0], "texts": TEXTS},
        "/predict": {"inputs": TEXTS[0]},
    },
    "Hugging Face": {
        "/": {"inputs": TEXTS[0]},
        "/fill_mask": {"inputs": _MASKED},
    },
    "extract": {"/extract": {"inputs": TEXTS, "labels": COLOURS, "threshold": 0}},
}


def routes(protocol: str) -> Any:
    """Return the column of a protocol."""

    def column(model: Model, shop: Workshop, work: Path) -> None:
        with _app(model) as app:
            answers = [ask(app, route, body) for route, body in ROUTES[protocol].items()]
        if not any(answer.status_code == 200 and answer.json() for answer in answers):
            raise ValueError(_message(answers[0].json()))

    column.__doc__ = f"`serve`, with the protocol of {protocol}."
    return column


def search(model: Model, shop: Workshop, work: Path) -> None:
    """`serve --index`: a text finds itself."""
    from sequence_encoder import SearchIndex

    found = SearchIndex(index(model, work))
    with _app(model, index=found) as app:
        answer = ask(app, "/search", {"query": TEXTS[1], "limit": 1, "mode": "vector"})
    if answer.status_code != 200:
        raise ValueError(_message(answer.json()))
    assert answer.json()["hits"][0]["text"] == TEXTS[1]


def page(model: Model, shop: Workshop, work: Path) -> None:
    """`serve`: the page in the browser and the state."""
    with _app(model) as app:
        for route in ("/", "/info", "/health", "/metrics", "/v1/models"):
            answer = ask(app, route)
            assert answer.status_code == 200, (route, answer.text)
        tokens = ask(app, "/tokenize", {"inputs": TEXTS[0]}).json()
        assert len(tokens[0]) > 2


@contextmanager
def _app(model: Model, **options: Any) -> Iterator[Any]:
    app = create_app([load_served_model(str(model.folder), "float32", "cpu")], **options)
    try:
        yield app
    finally:
        app.state.service.scheduler.close()


def _message(answer: dict[str, Any]) -> str:
    error = answer["error"]
    return str(error["message"] if isinstance(error, dict) else error)
