"""The page of a server works in a real browser, with a key, a keyboard and nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")

from sequence_encoder import load_served_model
from sequence_encoder.data.label_file import LabelFile
from sequence_encoder.serving.served_model import ServedModel
from sequence_encoder.tests.fixtures.gliner_folders import save_gliner
from sequence_encoder.tests.fixtures.serving_apps import TEXTS, indexed, listening, served_models


def opened(browser: Any, *models: ServedModel, **options: Any) -> Iterator[Any]:
    """Open the page of a server, and fail if it makes mistakes or leaves the server."""
    complaints: list[str] = []
    asked: list[str] = []
    for address in listening(*models, **options):
        page = browser.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        yield page
        page.close()
        assert [url for url in asked if not url.startswith(address)] == []
    assert complaints == []


@pytest.fixture
def page(browser: Any, vector_folders: dict[str, Path], tmp_path: Path) -> Iterator[Any]:
    torch.manual_seed(0)
    save_gliner(tmp_path / "gliner")
    folders = [vector_folders["sparse"], vector_folders["late"], tmp_path / "gliner"]
    others = [load_served_model(str(folder), "float32", "cpu") for folder in folders]
    yield from opened(browser, *served_models().values(), *others, api_key="key")


def compute(page: Any, **fields: str) -> list[list[str]]:
    """Fill in the fields of the open tab, and return the rows of the table that it shows."""
    panel = page.get_by_role("tabpanel")
    for label, text in fields.items():
        panel.get_by_label(label).fill(text)
    panel.get_by_role("button", name="Compute").click()
    panel.get_by_role("table").wait_for()
    return [row.locator("td").all_inner_texts() for row in panel.locator("tbody tr").all()]


def test_every_task_has_a_tab_that_works(page: Any) -> None:
    assert "API key" in page.locator(".error").inner_text()
    page.get_by_label("API key").fill("key")
    page.get_by_label("API key").press("Tab")

    def tabs() -> list[str]:
        return page.get_by_role("tab").all_inner_texts()

    page.get_by_role("tab", name="Compare pairs").wait_for()
    assert tabs() == ["Compare pairs", "Sort by similarity"]
    assert len(compute(page)) == 3
    rows = compute(page, Sentences="a dog\nit\na dog")
    assert [row[0] for row in rows] == ["1. a dog", "2. it", "3. a dog"]
    assert rows[0][1] == rows[0][3] == "1.000"
    assert rows[0][2] == rows[1][1] != "1.000"
    page.get_by_role("tab", name="Compare pairs").press("ArrowRight")
    rows = compute(page, Question=TEXTS[0], Texts="\n".join(TEXTS))
    assert rows[0] == ["1.000", TEXTS[0]]
    assert len(rows) == len(TEXTS)

    page.get_by_label("Model").select_option("ranker")
    assert tabs() == ["Rank", "Classify"]
    assert sorted(row[1] for row in compute(page, Question="a dog", Texts="\n".join(TEXTS))) == sorted(TEXTS)
    page.get_by_label("Model").select_option("classifier")
    assert {row[1] for row in compute(page, Texts="a dog\nit")} == {"red", "green", "blue"}
    page.get_by_label("Model").select_option("late")
    assert tabs() == ["Late interaction"]
    rows = compute(page, Question="a dog", Texts="\n".join(TEXTS))
    assert {row[1] for row in rows} == set(TEXTS)
    assert float(rows[0][0]) >= float(rows[1][0])
    page.get_by_label("Model").select_option("sparse")
    assert tabs() == ["Sparse weights"]
    rows = compute(page, Texts="a dog\nit")
    assert [row[0] for row in rows] == ["a dog"] * 9 + ["it"] * 9
    assert float(rows[0][2]) >= float(rows[1][2])
    page.get_by_label("Model").select_option("gliner")
    assert tabs() == ["Extract entities"]
    rows = compute(page, Labels="cat, red dog", Lowest="0.1", Texts="a cat\na red-dog is of berlin")
    assert {row[1] for row in rows} <= {"cat", "red dog"}
    assert all(row[0] in row[3] for row in rows)
    assert len(rows) > 1
    page.get_by_label("Model").select_option("masked")
    assert len(compute(page)) == 5
    page.get_by_label("Text with [MASK]").fill("<b>no mask</b>")
    page.get_by_role("button", name="Compute").click()
    assert "has no [MASK]" in page.locator(".error").inner_text()


@pytest.mark.since("pyarrow", "26", "writes null vectors")
def test_an_index_has_a_tab(browser: Any, tmp_path: Path) -> None:
    pytest.importorskip("lancedb", reason="needs the extra search")
    encoder = served_models()["encoder"]
    index = indexed(encoder, tmp_path)
    for page in opened(browser, encoder, index=index):
        page.get_by_role("tab", name="Search the index").wait_for()
        assert page.get_by_role("tab").all_inner_texts() == ["Search the index", "Compare pairs", "Sort by similarity"]
        vector = encoder.model.encode(TEXTS[0], encoder.tokenizer, prompt_name="query")
        found = [[hit.text, str(hit.fields["n"])] for hit in index.search(TEXTS[0], 10, vector=vector)]
        assert [row[1:] for row in compute(page, Question=TEXTS[0])] == found


def test_texts_are_labelled_with_the_keyboard(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "chosen.csv"
    reason = "typical of 3 similar texts"
    file.write_text("id,text,label,reason\n" + "".join(f"{row},{text},,{reason}\n" for row, text in enumerate(TEXTS)))
    labels = LabelFile(str(file))
    labels.names = ["red", "green"]

    def written() -> list[str]:
        return [row["label"] for row in LabelFile(str(file)).rows]

    for page in opened(browser, served_models()["classifier"], api_key="key", labels=labels):
        page.goto(page.url + "label")
        page.get_by_text("API key is missing").wait_for()
        page.get_by_role("button", name="Skip").click()
        assert "API key is missing" in page.locator("main").inner_text()
        page.get_by_label("API key").fill("key")
        page.get_by_label("API key").press("Tab")
        page.get_by_text("Text 1 of 4, 0 labelled").wait_for()
        assert page.locator("#text").inner_text() == TEXTS[0]
        assert reason not in page.locator("main").inner_text()
        # The second label is for the second text, although the first one is not saved yet.
        page.keyboard.type("12")
        page.get_by_text("Text 3 of 4, 2 labelled").wait_for()
        assert written() == ["red", "green", "", ""]
        page.get_by_text(f"Saved: green. Chosen as: {reason}. The model says ").wait_for()
        page.keyboard.press("u")
        page.get_by_text("Text 2 of 4, 1 labelled").wait_for()
        assert written() == ["red", "", "", ""]
        page.keyboard.press("s")
        page.keyboard.press("ArrowRight")
        page.get_by_text("Text 4 of 4, 1 labelled").wait_for()
        page.get_by_label("New label").fill("1u")
        page.get_by_role("button", name="Add and use").click()
        page.get_by_text("Text 2 of 4, 2 labelled").wait_for()
        assert written() == ["red", "", "", "1u"]
        # Another tab has labelled this text.
        labels.set(1, "red", "")
        page.get_by_role("button", name="green").click()
        page.get_by_text("This text was labelled 'red' in the meantime.").wait_for()
        assert page.get_by_role("button", name="red").get_attribute("aria-pressed") == "true"
        assert written() == ["red", "red", "", "1u"]
        # A button keeps the focus when the next text appears.
        page.get_by_role("button", name="green").focus()
        page.keyboard.press("Enter")
        page.get_by_text("Text 3 of 4").wait_for()
        page.keyboard.press("Enter")
        page.get_by_text("Text 4 of 4").wait_for()
        assert written() == ["red", "green", "green", "1u"]
        with page.expect_download() as download:
            page.get_by_role("button", name="Download CSV").click()
        assert Path(download.value.path()).read_text() == file.read_text()
