"""A search page without a server finds in Chromium what Python finds, shows texts as texts, and works offline."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lancedb", reason="needs the extra search")
pytest.importorskip("pyarrow", reason="needs the extra search")

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from sequence_encoder import SequenceEncoderModel, index_corpus, static_encoder
from sequence_encoder.command_line import UsageError
from sequence_encoder.modeling.text_encoding.embedding_recipe import EmbeddingRecipe, Normalize
from sequence_encoder.search.static_site.wordpiece import wordpiece_fields
from sequence_encoder.search.static_site.words import words_of
from sequence_encoder.search.static_site.writing import SiteText, write_static_site
from sequence_encoder.tests.fixtures.guides import ROOT
from sequence_encoder.tests.fixtures.texts import tokenizer_of
from sequence_encoder.tests.fixtures.vector_folders import tiny_bert

pytestmark = pytest.mark.since("pyarrow", "26", "writes null vectors")
PACKAGES = ROOT / ".venv" / "javascript" / "node_modules"
NEEDS_NPM = pytest.mark.skipif(not PACKAGES.is_dir(), reason="needs packages of npm, which `make browser` installs")
HTML = "<img src=x onerror=alert(1)> & <script>alert(2)</script>"
CHINESE = f"標題 {'試' * 300}詢{'試' * 300}"
LONG = f"{'filler words ' * 300}needle{' more filler' * 300}"
UNUSUAL = [
    "Naïve ΣΊΣΥΦΟΣ İstanbul ﬁne ½ ¿qué?",
    "日本語のテキスト and 한국어 ไทย हिन्दी",
    "👩‍👩‍👧 emoji 🎉🎉 a\u200bb\u00ad c\ufeffd \x07",
    "[MASK]x[CLS] don't re-read snake_case __init__ e\u0301",
    f"{'x' * 120} classes queries matrices bus glass caches matches boxes",
]
ROWS = [
    {"text": HTML, "title": "About <b>HTML</b>", "url": "https://example.org/html"},
    {"text": "A script in an address.", "title": "Unsafe", "url": "javascript:alert(3)"},
    {"text": LONG, "title": None, "url": "/long", "year": 2020},
    {"text": ""},
    {"text": None},
    *({"text": text, "year": 1990} for text in UNUSUAL),
    {"text": CHINESE},
    {"text": "The same text."},
    {"text": "The same text."},
    *({"text": f"The json decoder reads text {number} of the file."} for number in range(30)),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a static encoder with prompts."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tokenizer_of()
    torch.manual_seed(0)
    static_encoder(torch.randn(len(tokenizer), 24)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def site(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a search page."""
    place = tmp_path_factory.mktemp("site")
    write_page(model, place)
    return place / "page"


def write_page(model: Path, folder: Path, **options: Any) -> None:
    """Write the page of the rows in `page`."""
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    options |= {"columns": "title,url,year", "query_prompt": "read: ", "static_site": folder / "page"}
    index_corpus(model, folder / "rows.jsonl", folder / "index", **options)


@pytest.fixture(scope="module")
def page(browser: Any, site: Path) -> Iterator[Any]:
    with opened(browser, site) as page:
        page.get_by_text("searched by meaning and by words").wait_for()
        yield page


@contextmanager
def opened(browser: Any, site: Path) -> Iterator[Any]:
    """Open a page, which must not make mistakes, or ask anyone else for anything."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    complaints: list[str] = []
    asked: list[str] = []
    page = browser.new_page()
    page.set_default_timeout(60_000)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    yield page
    page.close()
    server.shutdown()
    server.server_close()
    assert [url for url in asked if not url.startswith(address)] == []
    assert complaints == []


def found(page: Any, query: str) -> list[str]:
    """Search, and return what the page shows of each hit."""
    status = page.get_by_role("status")
    status.filter(has_not_text="Loading").wait_for()
    page.get_by_label("Search for").fill("")
    page.get_by_text("searched by").wait_for()
    page.get_by_label("Search for").fill(query)
    status.filter(has_text="best").or_(status.filter(has_text="No text")).wait_for()
    shown = [item.inner_text() for item in page.get_by_role("listitem").all()]
    return ["\n".join(filter(None, text.splitlines())) for text in shown]


def test_the_page_shows_texts_as_texts(page: Any) -> None:
    first = found(page, "about html onerror")[0]
    assert first.splitlines() == ["About <b>HTML</b>", HTML]
    heading = page.get_by_role("listitem").first.get_by_role("link")
    assert heading.get_attribute("href") == "https://example.org/html"
    assert found(page, "script in an address")[0].splitlines() == ["Unsafe", "A script in an address."]
    assert page.get_by_role("link", name="Unsafe").count() == 0
    assert page.locator("main img, main script").count() == 0


def test_a_long_text_is_shown_around_the_word(page: Any) -> None:
    heading, text, *facts = found(page, "needle")[0].splitlines()
    assert heading == "/long"
    assert "needle" in text
    assert len(text) < 400
    assert facts == ["year", "2020"]
    assert "詢" in found(page, "詢")[0]
    found(page, "needle")
    page.get_by_role("button", name="Show all").first.click()
    assert page.locator(".text").first.inner_text() == LONG


def test_all_hits_can_be_reached(page: Any) -> None:
    assert len(found(page, "json decoder")) == 10
    page.get_by_role("button", name="Show more").click()
    page.get_by_text("The best 20 of 43 texts").wait_for()
    assert page.get_by_role("listitem").count() == 20
    assert "q=json+decoder" in page.url
    # The last word may be unfinished.
    assert found(page, "needl")[0].startswith("/long")
    page.get_by_label("Search for").press("Escape")
    page.locator("body").press("/")
    assert page.evaluate("document.activeElement.id") == "query"


def test_without_a_model_a_page_finds_words(browser: Any, tmp_path: Path) -> None:
    fields = {"title": "", "price": float("nan"), "number": 2**63 - 1, "kinds": ["a", "b"], "none": None}
    texts = [SiteText("Boxes of apples.", {"title": "Fruit"}), SiteText(""), SiteText("A box.", fields)]
    write_static_site(tmp_path / "page", texts, title="Words & more", language="English")
    with opened(browser, tmp_path / "page") as page:
        page.get_by_text("3 texts, searched by words").wait_for()
        assert page.title() == "Words & more"
        facts = "price\nnan\nnumber\n9223372036854775807\nkinds\n['a', 'b']"
        assert found(page, "a box") == [f"A box.\n{facts}", "Fruit\nBoxes of apples."]
        assert found(page, "appl") == ["Fruit\nBoxes of apples."]
        assert found(page, "pears 🍐 <b>") == []
        assert page.get_by_role("status").inner_text() == "No text matches."


def compare(page: Any, model: Path, atol: float) -> None:
    """Compare the cosines of texts in the page and in Python."""
    encoder, tokenizer = SequenceEncoderModel.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    texts = [row["text"] or "" for row in ROWS]
    vectors = encoder.encode(texts, tokenizer)
    program = """async (queries) => {
      const { Search } = await import("./search.js");
      const search = await Search.open();
      await Promise.all([search.readWords(), search.readVectors()]);
      const all = [];
      for (const query of queries) all.push(Array.from(await search.vectors.scores(query)));
      return all;
    }"""
    queries = [*UNUSUAL, "decode json", LONG]
    expected = encoder.encode(queries, tokenizer, prompt="read: ") @ vectors.T
    scores = np.array([[-1 if each == -np.inf else each for each in row] for row in page.evaluate(program, queries)])
    # A text without words has no vector in an index.
    has_vector = np.array([bool(text) for text in texts])
    assert (scores[:, ~has_vector] == -1).all()
    np.testing.assert_allclose(scores[:, has_vector], expected[:, has_vector], atol=atol)


def test_the_page_finds_the_texts_that_python_finds(page: Any, model: Path) -> None:
    compare(page, model, atol=0.01)


@NEEDS_NPM
def test_the_page_splits_texts_with_a_library(browser: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = tokenizer_of("byte_level_bpe")
    static_encoder(torch.randn(len(tokenizer), 24)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_page(tmp_path / "model", tmp_path, node_modules=PACKAGES)
    with opened(browser, tmp_path / "page") as page:
        page.get_by_text("searched by meaning and by words").wait_for()
        compare(page, tmp_path / "model", atol=0.01)


@NEEDS_NPM
def test_the_page_runs_a_model_with_layers(browser: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SequenceEncoderModel(tiny_bert(tokenizer_of(), max_position_embeddings=64)).eval()
    model.embedding_recipe = EmbeddingRecipe(after=(Normalize(),))
    model.save_pretrained(tmp_path / "model")
    tokenizer_of().save_pretrained(tmp_path / "model")
    write_page(tmp_path / "model", tmp_path, node_modules=PACKAGES)
    with opened(browser, tmp_path / "page") as page:
        page.get_by_text("searched by meaning and by words").wait_for()
        compare(page, tmp_path / "model", atol=0.1)
        assert found(page, "needle")[0].startswith("/long")


@pytest.mark.parametrize("lowercase", [True, False])
def test_the_page_and_python_find_the_same_tokens(page: Any, lowercase: bool) -> None:
    texts = [*UNUSUAL, HTML, CHINESE, "Σίσυφος É"]
    characters = sorted({*"".join(texts), *unicodedata.normalize("NFD", "".join(texts).lower())} - {"ü", "x"})
    pieces = [*characters, *(f"##{character}" for character in characters), "xx", "##xx"]
    vocabulary = {token: place for place, token in enumerate(["[UNK]", "[MASK]", *pieces])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[MASK]"])
    program = """async ([fields, texts]) => {
      const { WordPiece } = await import("./wordpiece.js");
      const tokenizer = new WordPiece(fields);
      return texts.map((text) => tokenizer.tokenize(text));
    }"""
    fields = wordpiece_fields(json.loads(tokenizer.to_str()))
    expected = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    assert page.evaluate(program, [fields, texts]) == expected
    assert {0, 1} <= {token for tokens in expected for token in tokens}


def test_the_page_and_python_find_the_same_words(page: Any) -> None:
    program = """async (texts) => {
      const { wordsOf } = await import("./words.js");
      return ["English", "German"].map((language) => texts.map((text) => wordsOf(text, language)));
    }"""
    texts = [*UNUSUAL, HTML, LONG]
    expected = [[list(words_of(text, language)) for text in texts] for language in ("English", "German")]
    assert page.evaluate(program, texts) == expected
    assert expected[0][4][1:] == ["class", "query", "matrice", "bus", "glass", "cache", "match", "box"]
    assert expected[1][1][:3] == ["日", "本", "語"]


def test_the_page_works_without_a_network(page: Any) -> None:
    program = """async () => {
      const { files } = await (await fetch("site.json")).json();
      await navigator.serviceWorker.ready;
      for (let tries = 0; tries < 600; ++tries) {
        if ((await Promise.all(files.map((name) => caches.match(name)))).every(Boolean)) return true;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      return false;
    }"""
    assert page.evaluate(program)
    page.context.set_offline(True)
    page.reload()
    assert found(page, "needle")[0].startswith("/long")
    page.context.set_offline(False)


def test_a_page_is_replaced_only_on_request(site: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "page")
    (tmp_path / "page" / "robots.txt").write_text("kept")
    (tmp_path / "page" / "mine.bin").write_text("kept")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("kept")
    (tmp_path / "one.txt").write_text("A single text.\n")

    def write(name: str, **options: Any) -> None:
        index_corpus(model, tmp_path / "one.txt", tmp_path / "index", static_site=tmp_path / name, **options)

    with pytest.raises(FileExistsError, match=r"page has a search page; .* --overwrite"):
        write("page")
    with pytest.raises(FileExistsError, match="notes has files, but no search page"):
        write("notes", overwrite=True)
    with pytest.raises(FileExistsError, match=r"one\.txt is a file"):
        write("one.txt")
    with pytest.raises(UsageError, match="index is the folder of the index"):
        write("index")
    assert not (tmp_path / "index").exists()
    write("page", overwrite=True)
    names = {path.name for path in (tmp_path / "page").iterdir()}
    manifest = json.loads((tmp_path / "page" / "site.json").read_text())
    assert {name for name in names if name.endswith(".bin")} == {*manifest["files"], "mine.bin"}
    assert {"robots.txt", "index.html"} <= names
    assert manifest["rows"] == 1


def test_models_that_a_page_cannot_run_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("A single text.\n")

    def write(name: str) -> None:
        index_corpus(tmp_path / name, tmp_path / "one.txt", tmp_path / "index", static_site=tmp_path / "page")

    tokenizer = tokenizer_of("byte_level_bpe")
    static_encoder(torch.randn(len(tokenizer), 8)).save_pretrained(tmp_path / "bytes")
    tokenizer.save_pretrained(tmp_path / "bytes")
    with pytest.raises(UsageError, match="its tokenizer has a BPE model and other normalizers"):
        write("bytes")
    SequenceEncoderModel(tiny_bert(tokenizer_of())).save_pretrained(tmp_path / "layers")
    tokenizer_of().save_pretrained(tmp_path / "layers")
    with pytest.raises(UsageError, match="needs libraries from npm, because it has layers"):
        write("layers")
    assert not (tmp_path / "index").exists()
    assert not (tmp_path / "page").exists()
