"""Indexes and searches: by vector, by words, and both, with conditions and a reranker."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import sequence_encoder
from sequence_encoder import SequenceEncoderModel, SequenceEncoderTokenizer
from sequence_encoder.__main__ import main
from sequence_encoder.command_line import UsageError

lancedb = pytest.importorskip("lancedb", reason="needs the extra search")
pa = pytest.importorskip("pyarrow", reason="needs the extra search")

from sequence_encoder import Reranker, SearchIndex, index_corpus  # noqa: E402
from sequence_encoder.inference.corpora.formats import VECTORS, connect  # noqa: E402
from sequence_encoder.search.arguments import MODES  # noqa: E402
from sequence_encoder.search.indexing import add_indexes  # noqa: E402
from sequence_encoder.search.vector_search import vector_search  # noqa: E402

pytestmark = pytest.mark.since("pyarrow", "26", "writes null vectors")
Build = Callable[..., Any]
WORDS = ["model", "reads", "text", "returns", "vector", "token", "whole", "short", "long", "river", "stone", "cloud"]
ROWS = [
    {"text": " ".join(WORDS[(i * j + j) % 12] for j in range(1, 4 + i % 5)), "kind": "ab"[i % 2], "n": i}
    for i in range(40)
]


@pytest.fixture(scope="module")
def models(tiny_config: Build, randomize: Build, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders of an encoder and of a cross-encoder."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = SequenceEncoderTokenizer.train_from_iterator([row["text"] for row in ROWS], vocab_size=90)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask")}
    for head, options in (("Model", {}), ("ForSequenceClassification", {"num_labels": 1})):
        config = tiny_config("bert", vocab_size=96, **ids, **options)
        randomize(getattr(sequence_encoder, f"SequenceEncoder{head}")(config)).save_pretrained(folder / head)
        tokenizer.save_pretrained(folder / head)
    return {"encoder": folder / "Model", "reranker": folder / "ForSequenceClassification"}


@pytest.fixture(scope="module")
def folder(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an index, in which two rows have no text."""
    place = tmp_path_factory.mktemp("index")
    lines = [json.dumps(row) for row in [*ROWS, {"text": None, "kind": "a", "n": 40}]]
    (place / "texts.jsonl").write_text("\n".join(lines))
    index_corpus(str(models["encoder"]), str(place / "texts.jsonl"), str(place / "index"), columns=["kind", "n"])
    return place / "index"


@pytest.fixture(scope="module")
def index(folder: Path) -> SearchIndex:
    return SearchIndex(folder)


def test_hits_are_the_nearest_vectors(index: SearchIndex, models: dict[str, Path]) -> None:
    model = SequenceEncoderModel.from_pretrained(models["encoder"])
    tokenizer = AutoTokenizer.from_pretrained(models["encoder"])
    texts = [row["text"] for row in ROWS]
    vectors = model.encode([*texts, "the river reads"], tokenizer, normalize_embeddings=True)
    cosines = vectors[:-1] @ vectors[-1]
    hits = index.search("the river reads", 5, mode="vector")
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(cosines)[:-6:-1], atol=2e-2)
    for hit in hits:
        assert hit.text == texts[hit.id]
        assert hit.fields == {"kind": ROWS[hit.id]["kind"], "n": hit.id}
        assert hit.score == pytest.approx(cosines[hit.id], abs=2e-2)  # The index may compute in bfloat16.


def test_hits_have_the_words_of_the_query(index: SearchIndex) -> None:
    hits = index.search("river stones", 40, mode="text")
    assert {hit.id for hit in hits} == {row["n"] for row in ROWS if {"river", "stone"} & set(str(row["text"]).split())}
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert index.search("the of !? (", mode="text") == []


def test_both_kinds_of_search_are_merged(index: SearchIndex) -> None:
    found = {mode: [hit.id for hit in index.search("river stone", 10, mode=mode)] for mode in MODES}
    first = set(found["vector"][:1] + found["text"][:1])
    assert first <= set(found["hybrid"])
    assert set(found["hybrid"]) <= {*found["vector"], *found["text"]}


@pytest.mark.parametrize("mode", MODES)
def test_conditions_hold_for_all_hits(index: SearchIndex, mode: str) -> None:
    hits = index.search("river stone cloud", 5, mode=mode, where="kind = 'b' AND n > 9")
    assert hits
    assert all(hit.fields["kind"] == "b" and hit.fields["n"] > 9 for hit in hits)


def test_a_reranker_reads_the_query_with_each_candidate(index: SearchIndex, models: dict[str, Path]) -> None:
    query, reranker = "river stone", Reranker(str(models["reranker"]))
    candidates = index.search(query, 12)
    hits = index.search(query, 4, reranker=reranker, candidates=12)
    scores = dict(
        zip([hit.id for hit in candidates], reranker.scores(query, [hit.text for hit in candidates]), strict=True)
    )
    assert [hit.id for hit in hits] == sorted(scores, key=scores.__getitem__, reverse=True)[:4]
    assert [hit.score for hit in hits] == [scores[hit.id] for hit in hits]
    assert index.search(query, 12, reranker=reranker, candidates=12)[:4] == hits
    assert reranker.scores(query, []) == []


def test_a_sentence_encoder_reranks_by_cosine(
    index: SearchIndex, models: dict[str, Path], tmp_path: Path, randomize: Build
) -> None:
    encoder = randomize(SequenceEncoderModel.from_pretrained(models["encoder"]), seed=7)
    tokenizer = AutoTokenizer.from_pretrained(models["encoder"])
    for part in (encoder, tokenizer):
        part.save_pretrained(tmp_path)
    hits = index.search("river stone", 12, reranker=Reranker(str(tmp_path)), candidates=12)
    assert {hit.id for hit in hits} == {hit.id for hit in index.search("river stone", 12)}
    query, *vectors = encoder.encode(["river stone", *(hit.text for hit in hits)], tokenizer, normalize_embeddings=True)
    # It may compute in bfloat16.
    np.testing.assert_allclose([hit.score for hit in hits], np.stack(vectors) @ query, atol=0.01)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    sequence_encoder.SequenceEncoderForMaskedLM(encoder.config).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(UsageError, match=r"must be a cross-encoder or a sentence encoder, but .*ForMaskedLM"):
        Reranker(str(tmp_path / "other"))


def test_threads_share_an_index(folder: Path) -> None:
    index = SearchIndex(folder)
    queries = [" ".join(WORDS[i : i + 3]) for i in range(8)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(index.search, queries))
    assert found == [index.search(query) for query in queries]


def test_the_command_prints_hits_and_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["search", "river stone", "--index", str(folder), "--limit", "2"])
    printed = capsys.readouterr().out
    assert printed.startswith(" 1  0.")
    assert "\n 2  0." in printed
    main(["search", "river", f"--index={folder}", "--limit=1", "--mode=text", "--json"])
    assert "river" in json.loads(capsys.readouterr().out)["text"]
    main(["search", "nowhere", "--index", str(folder), "--mode", "text"])
    assert capsys.readouterr().out == "No text matches.\n"


def test_a_search_for_words_starts_without_torch(folder: Path) -> None:
    program = (
        "import sys; from sequence_encoder_cli import main; main(); print({'torch', 'transformers'} & {*sys.modules})"
    )
    arguments = ["search", "river", "--index", str(folder), "--limit", "1", "--mode", "text"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert "river" in done.stdout
    assert done.stdout.endswith("set()\n")


def test_a_second_run_only_makes_what_is_missing(
    folder: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["index", str(models["encoder"]), "--corpus", str(folder.parent / "texts.jsonl")]
    arguments += ["--columns", "kind,n", "--output_dir", str(folder)]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    main(arguments)
    printed = capsys.readouterr().out
    assert printed.count("41 rows") == 1
    assert printed.endswith("A search compares all vectors exactly.\n")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    (folder / "index.json").unlink()
    with pytest.raises(UsageError, match="is not a complete index"):
        SearchIndex(folder)
    main(arguments)
    assert SearchIndex(folder).search("river", mode="text")


def test_words_of_any_language_are_found(models: dict[str, Path], tmp_path: Path) -> None:
    texts = ["北京是中国的首都", "東京は日本の首都です", "running the river"]
    (tmp_path / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    options = {"language": "any", "truncate_dim": 8, "query_prompt": "stone "}
    index_corpus(str(models["encoder"]), str(tmp_path / "texts.txt"), str(tmp_path / "index"), **options)
    index = SearchIndex(tmp_path / "index")
    assert [hit.id for hit in index.search("中国", mode="text")] == [0]
    assert [hit.id for hit in index.search("run", mode="text")] == []
    assert len(index.search("running", 3, mode="vector")) == 3
    # The prompt is not a word of the query.
    assert [hit.id for hit in index.search("river", mode="text")] == [2]
    model, tokenizer = (kind.from_pretrained(models["encoder"]) for kind in (SequenceEncoderModel, AutoTokenizer))
    expected = model.encode("stone river", tokenizer, truncate_dim=8)
    assert np.dot(index.vector("river"), expected) > 0.99 * np.linalg.norm(expected) * np.linalg.norm(
        index.vector("river")
    )


@pytest.mark.parametrize(("channels", "kind"), [(96, "IvfRq"), (12, "IvfSq")])
def test_an_index_of_many_vectors_finds_nearly_all_neighbours(tmp_path: Path, channels: int, kind: str) -> None:
    torch.manual_seed(0)
    vectors = (torch.randn(100, channels).repeat(100, 1) + 0.5 * torch.randn(10_000, channels)).numpy()
    columns = {"id": np.arange(10_000), "text": ["word"] * 10_000}
    stored = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), channels)
    table = lancedb.connect(str(tmp_path)).create_table("embeddings", pa.table({**columns, VECTORS: stored}))
    layout = add_indexes(table, vector_search(table, tmp_path, {}), "text", "English")
    assert {index.index_type for index in table.list_indices()} == {"FTS", kind}
    assert 0.97 <= layout.recall <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": "caf\udce9"}, r"query has '\\udce9', half of a character or a byte that is not UTF-8"),
        ({"mode": "fuzzy"}, "mode must be one of 'hybrid', 'vector', 'text', got 'fuzzy'"),
        ({"limit": 2.5}, "limit must be an integer, got 2.5"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"where": " "}, "where must be a condition, such as 'year > 2020', got ' '"),
        ({"where": "age > 3"}, "where='age > 3' is not a valid condition: .*No field named age"),
        ({"where": "n = 1; AND kind = 'a'"}, "must be one condition, but .* has ';' at character 6"),
        ({"where": "n = 1 -- AND kind = 'a'"}, "has '--' at character 7"),
        ({"where": "n = 1 /* AND kind = 'a' */"}, r"has '/\*' at character 7"),
        ({"where": "n = 1) OR (n = 2"}, r"has '\)' at character 6"),
        ({"where": "kind = N'a'"}, "where must be complete, with texts in plain quotes, .* has 'N' at character 8"),
        ({"where": "kind = $$a$$"}, r"has '\$' at character 8, which would start a parameter or another kind of text"),
        ({"where": "kind IN (?)"}, r"has '\?' at character 10"),
        ({"where": "n = :n"}, "has ':' at character 5"),
        ({"where": "n = 1 ORDER BY kind"}, "not a valid condition: .*found: ORDER"),
        ({"where": "n > 1 LIMIT 1"}, "not a valid condition: .*found: LIMIT"),
        ({"reranker": "model", "limit": 51}, "limit must be at most 50, the number of candidates"),
    ],
)
def test_bad_arguments_are_refused(index: SearchIndex, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        index.search(**{"query": "river", **options})
    with pytest.raises(UsageError, match="is not a complete index"):
        SearchIndex("nowhere")


@pytest.mark.parametrize(
    ("text_column", "others", "message"),
    [
        ("id", [], "--text_column id: index itself writes a column of that name"),
        ("embedding", [], "--text_column embedding: index itself writes a column of that name"),
        ("text", ["a.b", "_score"], "--columns a.b _score: a table of LanceDB cannot have a column of that name"),
    ],
)
def test_names_that_lancedb_cannot_have_are_refused(
    models: dict[str, Path], tmp_path: Path, text_column: str, others: list[str], message: str
) -> None:
    (tmp_path / "texts.jsonl").write_text(json.dumps({text_column: "river", **dict.fromkeys(others, 1)}))
    options = {"text_column": text_column, "columns": others}
    with pytest.raises(UsageError, match=message):
        index_corpus(models["encoder"], tmp_path / "texts.jsonl", tmp_path / "index", **options)
    assert not (tmp_path / "index").exists()


def test_texts_among_other_values_and_names_with_underscores(models: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"my text": "river\u001b[31m", "_year": 1}, {"my text": 3, "_year": 2}]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = {"text_column": "my text", "columns": "_year"}
    index_corpus(models["encoder"], tmp_path / "texts.jsonl", tmp_path / "index", **options)
    hits = SearchIndex(tmp_path / "index").search("river", where="_year < 2", mode="vector")
    assert [(hit.text, hit.fields) for hit in hits] == [("river\x1b[31m", {"_year": 1})]


def test_empty_texts_are_counted_and_never_found(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.csv").write_text('text\n""\nriver\n"  "\nstone\n')
    index_corpus(models["encoder"], tmp_path / "texts.csv", tmp_path / "index")
    assert "2 bad rows have no result (2 empty)" in capsys.readouterr().out
    for mode in MODES:
        texts = {hit.text for hit in SearchIndex(tmp_path / "index").search("river stone", mode=mode)}
        assert texts == {"river", "stone"}


def test_conditions_compare_numbers_if_the_column_has_numbers(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("text,year\nriver,900\nriver,2021\n")
    for column in ("year", "year:int"):
        index_corpus(models["encoder"], tmp_path / "texts.csv", tmp_path / column, columns=column)
    with pytest.raises(ValueError, match="index texts of a CSV file that are numbers with --columns year:int"):
        SearchIndex(tmp_path / "year").search("river", where="year > 1000", mode="vector")
    hits = SearchIndex(tmp_path / "year:int").search("river", where="year > 1000", mode="vector")
    assert [hit.fields for hit in hits] == [{"year": 2021}]


def test_another_model_is_refused_for_queries(folder: Path, models: dict[str, Path], tmp_path: Path) -> None:
    model = SequenceEncoderModel.from_pretrained(models["encoder"])
    norm = model.layers[-1].mlp_norm
    norm.weight.data.neg_(), norm.bias.data.neg_()
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(models["encoder"]).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"is not the model of the index: .* a cosine of -1\.00 with .* as --encoder"):
        SearchIndex(folder, str(tmp_path)).search("river")
    index = SearchIndex(folder)
    index.facts["model"] = str(folder / "moved")
    with pytest.raises(UsageError, match=r"no longer in .*moved; pass its new folder as --encoder"):
        index.search("river")
    assert index.search("river", mode="text")


def test_the_index_of_words_is_made_again_if_the_language_or_the_table_changes(
    folder: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"columns": ["kind", "n"]}
    arguments = (models["encoder"], folder.parent / "texts.jsonl", folder)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sequence_encoder.search.indexing.add_indexes", interrupt)
        with pytest.raises(KeyboardInterrupt, match=r"the vectors stay in .*run the same command again"):
            index_corpus(*arguments, language="any", **options)
    with pytest.raises(UsageError, match="is not a complete index"):
        SearchIndex(folder)
    index_corpus(*arguments, language="any", **options)
    assert SearchIndex(folder).search("stones", mode="text") == []
    index_corpus(*arguments, **options)
    assert SearchIndex(folder).search("stones", mode="text")
    shutil.rmtree(folder / "embeddings.lance")
    index_corpus(*arguments, **options)
    assert SearchIndex(folder).search("stones", mode="text")


@pytest.mark.parametrize("good", [20, 10_000])
def test_rows_without_vectors_and_repeated_texts_are_indexed(tmp_path: Path, good: int) -> None:
    has_none = np.arange(10_500) >= good
    vectors = np.ones((10_500, 8), np.float32)
    stored = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 8, mask=pa.array(has_none))
    columns = pa.table({"id": np.arange(10_500), "text": ["word"] * 10_500, VECTORS: stored})
    table = connect(tmp_path).create_table("embeddings", schema=columns.schema)
    table.add(columns)
    layout = add_indexes(table, vector_search(table, tmp_path, {}), "text", "English")
    assert (layout.probes, layout.recall) == ((None, None) if good == 20 else (20, 1.0))


def test_an_index_of_examples_shows_the_nearest_in_explanations(
    folder: Path, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = str(models["encoder"])
    given = ["--text", ROWS[3]["text"], "--text_pair", "text", "--index", str(folder)]
    main(["explain", encoder, *given, "--label_column", "kind", "--nearest", "2"])
    hits = SearchIndex(folder).search(ROWS[3]["text"], 2, mode="vector")
    near = [line for line in capsys.readouterr().out.splitlines() if line.startswith("near: ")]
    assert [line.split(": ")[2] for line in near] == [hit.text for hit in hits]
    assert near[0] == f"near: 1.000 {hits[0].fields['kind']}: {ROWS[3]['text']}"
    other = SequenceEncoderModel.from_pretrained(encoder)
    with torch.no_grad():
        for weight in other.parameters():
            weight.copy_(torch.randn_like(weight))
    other.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(tmp_path)
    for options, message in (
        ([encoder], r"has no column label \(--label_column\); it has id, text, kind, n"),
        ([str(tmp_path), "--label_column", "kind"], "which are not those of the model that is explained"),
        ([encoder, "--train_file", "none.csv"], "--train_file and --index are mutually exclusive"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["explain", *options, *given])
