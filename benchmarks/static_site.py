"""Measure search pages without a server in Chromium: time, download, and recall beside the exact search in Python.

    python benchmarks/static_site.py FOLDER [NODE_MODULES]

The pages have 25,000 sentences of `vector_tasks.corpus`. The first has a static student of all-MiniLM-L6-v2, which has
read none of them, and the second, with NODE_MODULES, all-MiniLM-L6-v2 itself in eight bits. 200 further sentences are
the queries. Chromium reads a page from this machine, with an empty profile. The time of the first result starts with
the navigation, and that of the others when the text of the query changes; the page then waits 15 ms for the next key.
FOLDER keeps the pages for further runs.
"""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from minilm import MINILM
from peers import print_machine
from playwright.sync_api import Page, sync_playwright
from transformers import AutoTokenizer
from vector_tasks import corpus

from sequence_encoder import SearchIndex, convert, distill_static, index_corpus

TEXTS, QUERIES, NEIGHBOURS = 25_000, 200, 10
# When the page has shown hits, as milliseconds since the navigation.
SHOWN = "performance.getEntriesByName('shown').map((mark) => mark.startTime)"
BYTES = """performance.getEntriesByType("resource").concat(performance.getEntriesByType("navigation"))
.reduce((sum, entry) => sum + entry.transferSize, 0)"""
TYPE = """async (text) => {
  const before = performance.getEntriesByName("shown").length;
  const query = document.getElementById("query");
  const start = performance.now();
  query.value = text;
  query.dispatchEvent(new Event("input"));
  let marks;
  do {
    await new Promise((resolve) => setTimeout(resolve));
    marks = performance.getEntriesByName("shown");
  } while (marks.length === before);
  return marks.at(-1).startTime - start;
}"""
NEAREST = """async ([queries, limit]) => {
  const { Search } = await import("./search.js");
  const search = await Search.open();
  await search.readVectors();
  const found = [];
  for (const query of queries) found.push(await search.byMeaning(query, limit));
  return found;
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Sends files as `python -m http.server`, without a word."""

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""


def measure(page: Page, address: str, queries: list[str], exact: list[list[int]]) -> None:
    """Print what the page needs, and what it finds."""
    page.goto(f"{address}?q={queries[0].split()[0]}")
    while len(shown := page.evaluate(SHOWN)) < 2:
        page.wait_for_timeout(10)
    print(f"first result: {shown[0]:.0f} ms by words, {shown[1]:.0f} ms by meaning and by words")
    print(f"read until then: {page.evaluate(BYTES) / 2**20:.1f} MiB")
    times = [page.evaluate(TYPE, query) for query in queries]
    quantiles = ", ".join(f"{np.quantile(times, q):.0f} ms" for q in (0.5, 0.95, 1))
    print(f"further queries: {quantiles} (median, 95 %, longest)")
    found = page.evaluate(NEAREST, [queries, NEIGHBOURS])
    recall = np.mean([len({*rows} & {*right}) / NEIGHBOURS for rows, right in zip(found, exact, strict=True)])
    print(f"recall of the {NEIGHBOURS} nearest texts: {recall:.4f}")
    page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    page.wait_for_timeout(3000)
    print(f"read in all: {page.evaluate(BYTES) / 2**20:.1f} MiB")
    page.context.set_offline(True)
    page.reload()
    page.get_by_role("listitem").first.wait_for()
    print("it works without a network")


def write(folder: Path, model: Path, texts: Path, **options: Any) -> None:
    """Write an index and its page into a folder, unless they are there."""
    if not (folder / "page").exists():
        index_corpus(model, texts, folder / "index", static_site=folder / "page", **options)


def exact_neighbours(folder: Path, queries: list[str]) -> list[list[int]]:
    """Return the rows that are nearest to each query, by comparing all vectors in float32."""
    index = SearchIndex(folder / "index")
    vectors = np.stack(index.table.to_arrow()["embedding"].to_numpy())
    products = np.stack([index.vector(query) for query in queries]) @ vectors.T
    return np.argsort(-products, 1, kind="stable")[:, :NEIGHBOURS].tolist()


def main(folder: Path, packages: str | None = None) -> None:
    """Write the pages, and measure them."""
    print_machine()
    folder.mkdir(exist_ok=True)
    file, held_out = folder / "texts.jsonl", folder / "queries.json"
    if not held_out.exists():
        texts = corpus(TEXTS + QUERIES)
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:TEXTS]), encoding="utf-8")
        for part in distill_static(convert(MINILM), AutoTokenizer.from_pretrained(MINILM)):
            part.save_pretrained(folder / "student")
        held_out.write_text(json.dumps(texts[TEXTS:]), encoding="utf-8")
    write(folder / "static", folder / "student", file)
    if packages is not None:
        write(folder / "layers", MINILM, file, node_modules=packages)
    queries = json.loads(held_out.read_text(encoding="utf-8"))
    for name in ("static", *(["layers"] if packages is not None else [])):
        print(f"\n{name}")
        exact = exact_neighbours(folder / name, queries)
        handler = functools.partial(Quiet, directory=folder / name / "page")
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as started:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            measure(browser.new_page(), f"http://127.0.0.1:{server.server_port}/", queries, exact)
            browser.close()
            server.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
