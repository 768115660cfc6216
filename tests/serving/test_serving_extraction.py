"""The route /extract answers with what the method `extract` finds, whatever other requests are in the batch."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("fastapi", reason="needs the extra serve")
httpx = pytest.importorskip("httpx")

from sequence_encoder import ServerLimits, create_app, load_served_model  # noqa: E402
from sequence_encoder.serving.served_model import EXTRACT, Group, ServedModel, WindowRow  # noqa: E402
from sequence_encoder.tests.fixtures.gliner_folders import LABELS, save_gliner  # noqa: E402
from sequence_encoder.tests.fixtures.guides import ROOT, blocks_of  # noqa: E402
from sequence_encoder.tests.fixtures.serving_apps import ask, ask_as_curl  # noqa: E402

LONG = "a cat, a red-dog is of berlin and " * 12
TEXTS = ["a cat, a red-dog is of berlin", LONG, "", "software about animals lives"]
OTHERS = ["animals", "berlin", "a", "of", "model"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    folder = tmp_path_factory.mktemp("models") / "gliner"
    torch.manual_seed(0)
    save_gliner(folder)
    return load_served_model(str(folder), dtype="float32")


@pytest.fixture(scope="module")
def app(served: ServedModel) -> Iterator[Any]:
    app = create_app([served])
    yield app
    app.state.service.scheduler.close()


def expected(served: ServedModel, texts: Any, labels: Any, **options: Any) -> Any:
    found = served.model.extract(texts, labels, served.tokenizer, **{"threshold": 0.3, **options})
    each = [found] if isinstance(texts, str) else found
    for span in (span for spans in each for span in spans):
        span["score"] = pytest.approx(span["score"], abs=1e-5)
    return found


def requests() -> list[dict[str, Any]]:
    return [{"inputs": TEXTS[number % 2], "labels": LABELS if number % 3 else OTHERS[: 1 + number % 5],
             "threshold": 0.3 if number % 4 else 0.1} for number in range(12)]  # fmt: skip


def answers_are_those_of_the_method(app: Any, served: ServedModel) -> None:
    """Send requests with different labels at the same time."""

    async def scenario() -> list[Any]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            return await asyncio.gather(*(client.post("/extract", json=body) for body in requests()))

    for body, answer in zip(requests(), asyncio.run(scenario()), strict=True):
        assert answer.json() == expected(served, body["inputs"], body["labels"], threshold=body["threshold"])


@pytest.mark.parametrize(
    ("labels", "options"),
    [(LABELS, {}), ({"cat": "a red dog", "b": "software"}, {"threshold": 0.2, "nested": True, "multi_label": True})],
    ids=["labels", "descriptions"],
)
def test_entities_are_those_of_the_method(app: Any, served: ServedModel, labels: Any, options: Any) -> None:
    body = {"inputs": TEXTS, "labels": labels, "threshold": 0.3, **options}
    found = ask(app, "/extract", body).json()
    assert found == expected(served, TEXTS, labels, **options)
    assert len(found[1]) > len(found[0]) > 0
    assert ask(app, "/extract", {**body, "inputs": LONG}).json() == expected(served, LONG, labels, **options)
    assert ask(app, "/extract", {**body, "inputs": ["", " "]}).json() == [[], []]
    assert served.name == "gliner"
    assert ask(app, "/info").json()["model_type"] == {"extract": {}}


def test_requests_with_other_labels_share_a_batch(app: Any, served: ServedModel) -> None:
    rows, wanted = [], []
    for body in requests():
        general: Any = served.extraction
        prepared = general.for_labels(body["labels"], threshold=body["threshold"])
        tokenized = prepared.tokenize([body["inputs"]])
        rows += [WindowRow(window, prepared) for window in tokenized.windows]
        wanted.append((prepared, tokenized))
    order = random.Random(0).sample(range(len(rows)), len(rows))
    computed = dict(zip(order, served.compute(Group(served, EXTRACT), [rows[place] for place in order]), strict=True))
    spans = iter([computed[place] for place in range(len(rows))])
    for body, (prepared, tokenized) in zip(requests(), wanted, strict=True):
        (found,) = prepared.of_texts(tokenized, [next(spans) for _ in tokenized.windows])
        assert found == expected(served, body["inputs"], body["labels"], threshold=body["threshold"])
    answers_are_those_of_the_method(app, served)


def test_the_labels_of_a_separate_encoder_stay_with_their_requests(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_gliner(tmp_path / "gliner", label_family="bert")
    served = load_served_model(str(tmp_path / "gliner"), dtype="float32")
    app = create_app([served])
    answers_are_those_of_the_method(app, served)
    app.state.service.scheduler.close()


def test_the_request_in_the_guide_works(app: Any, served: ServedModel) -> None:
    (block,) = [block for block in blocks_of(ROOT / "docs" / "extract.md") if "/extract" in block.code]
    answer = ask_as_curl(app, block)
    text, labels = "Marie Curie lived in Paris.", ["person", "city"]
    assert answer.json() == expected(served, text, labels, threshold=0.4)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"inputs": "a"}, 422, "labels: Field required"),
        ({"inputs": "a", "labels": []}, 400, "labels must be one or more texts"),
        ({"inputs": "a", "labels": ["a", "a"]}, 400, "labels must differ"),
        ({"inputs": "a", "labels": ["dog " * 70]}, 400, "and the model reads at most 64"),
        ({"inputs": "a", "labels": ["a"], "threshold": 2}, 422, "threshold"),
        ({"inputs": [], "labels": ["a"]}, 400, "no texts"),
        ({"inputs": ["a"] * 21, "labels": ["a"]}, 413, "21 texts, but the server accepts at most 20"),
        ({"inputs": "a", "labels": [str(n) for n in range(21)]}, 413, "21 labels, but the server accepts at most 20"),
        ({"inputs": ["a"] * 20, "labels": ["b" * 300]}, 413, "6020 characters, counting the labels once for each"),
        ({"inputs": "a " * 90, "labels": ["dog " * 56]}, 413, "each with all labels, have more than 1000 tokens"),
        ({"inputs": "a", "labels": ["a"], "model": "none"}, 404, "There is no model 'none'"),
    ],
)
def test_mistakes_and_requests_for_too_much_work_are_refused(
    served: ServedModel, body: dict[str, Any], status: int, said: str
) -> None:
    app = create_app([served], ServerLimits(max_texts=20, max_queue_tokens=1000, max_body_bytes=5000))
    answer = ask(app, "/extract", body)
    assert answer.status_code == status
    assert said in answer.json()["error"]
    other = ask(app, "/embed", {"inputs": "a"})
    assert "gliner can extract" in other.json()["error"]


def test_a_score_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    save_gliner(tmp_path / "gliner")
    served = load_served_model(str(tmp_path / "gliner"), dtype="float32")
    served.model.scorer.out_proj.weight.data.fill_(float("nan"))
    app = create_app([served])
    answer = ask(app, "/extract", {"inputs": "a cat", "labels": LABELS})
    assert (answer.status_code, answer.json()["error"]) == (424, "A result of the model is not finite.")
    app.state.service.scheduler.close()
