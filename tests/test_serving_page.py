"""The page of a server works in a real browser, with a key, a keyboard and nothing from elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")

from sequence_encoder.serving import create_app, load_served_model
from sequence_encoder.tests.serving_apps import TEXTS, ask, listening, served_models

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def page(vector_folders: dict[str, Path]) -> Iterator[Any]:
    """Open the page of a server with all kinds of models, and fail if it makes mistakes or leaves the server."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    models = served_models()
    models |= {name: load_served_model(str(vector_folders[name]), "float32", "cpu") for name in ("sparse", "late")}
    complaints: list[str] = []
    asked: list[str] = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for address in listening(*models.values(), api_key="key"):
            page = browser.new_page()
            page.set_default_timeout(10_000)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(address)
            yield page
            assert [url for url in asked if not url.startswith(address)] == []
        browser.close()
    assert complaints == []


def test_every_task_has_a_tab_that_works(page: Any) -> None:
    assert "API key" in page.locator(".error").inner_text()
    page.get_by_label("API key").fill("key")
    page.get_by_label("API key").press("Tab")

    def tabs() -> list[str]:
        return page.get_by_role("tab").all_inner_texts()

    def compute(**fields: str) -> list[list[str]]:
        panel = page.get_by_role("tabpanel")
        for label, text in fields.items():
            panel.get_by_label(label).fill(text)
        panel.get_by_role("button", name="Compute").click()
        panel.get_by_role("table").wait_for()
        return [row.locator("td").all_inner_texts() for row in panel.locator("tbody tr").all()]

    page.get_by_role("tab", name="Similarity").wait_for()
    assert tabs() == ["Similarity", "Search"]
    rows = compute(Sentences="a dog\nit\na dog")
    assert [row[0] for row in rows] == ["1. a dog", "2. it", "3. a dog"]
    assert rows[0][1] == rows[0][3] == "1.000"
    assert rows[0][2] == rows[1][1] != "1.000"
    page.get_by_role("tab", name="Similarity").press("ArrowRight")
    rows = compute(Question=TEXTS[0], Texts="\n".join(TEXTS))
    assert rows[0] == ["1.000", TEXTS[0]]
    assert len(rows) == len(TEXTS)

    page.get_by_label("Model").select_option("ranker")
    assert tabs() == ["Rank", "Classify"]
    assert sorted(row[1] for row in compute(Question="a dog", Texts="\n".join(TEXTS))) == sorted(TEXTS)
    page.get_by_label("Model").select_option("classifier")
    assert {row[1] for row in compute(Texts="a dog\nit")} == {"red", "green", "blue"}
    page.get_by_label("Model").select_option("late")
    assert tabs() == ["Late interaction"]
    rows = compute(Question="a dog", Texts="\n".join(TEXTS))
    assert {row[1] for row in rows} == set(TEXTS)
    assert float(rows[0][0]) >= float(rows[1][0])
    page.get_by_label("Model").select_option("sparse")
    assert tabs() == ["Weights"]
    rows = compute(Texts="a dog\nit")
    assert [row[0] for row in rows] == ["a dog"] * 9 + ["it"] * 9
    assert float(rows[0][2]) >= float(rows[1][2])
    page.get_by_label("Model").select_option("masked")
    assert len(compute(Text="a [MASK] dog")) == 5
    page.get_by_label("Text with a mask").fill("<b>no mask</b>")
    page.get_by_role("button", name="Compute").click()
    assert "has no [MASK]" in page.locator(".error").inner_text()


def test_the_page_loads_nothing_from_elsewhere() -> None:
    answer = ask(create_app([served_models()["encoder"]], api_key="key"), "/")
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "//" not in answer.text.replace("</", "")
