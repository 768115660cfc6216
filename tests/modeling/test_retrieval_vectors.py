"""`embed` and `index` with the dense, sparse and multi-vector representations of BGE-M3."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lancedb", reason="needs the extra search")
pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra embed")
pytestmark = pytest.mark.since("pyarrow", "26", "writes null vectors")

from transformers import AutoTokenizer  # noqa: E402

from sequence_encoder import (  # noqa: E402
    SearchIndex,
    SequenceEncoderForRetrieval,
    embed_corpus,
    index_corpus,
)
from sequence_encoder.command_line import UsageError  # noqa: E402
from sequence_encoder.tests.fixtures.stand_ins import STAND_INS  # noqa: E402

TEXTS = ["a cat of the cat", "the text of the software", "dog", "a model"]
POOLING = "1_Pooling/config.json"
COLUMNS = {"dense": "embedding", "sparse": "sparse_embedding", "token": "token_embeddings"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "bge-m3"
    STAND_INS["bge-m3"].build(folder)
    rows = [{"text": text} for text in (*TEXTS, None)]
    (folder.parent / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, Any]:
    model = SequenceEncoderForRetrieval.from_pretrained(folder)
    return model.encode_multi(TEXTS, AutoTokenizer.from_pretrained(folder))


@pytest.mark.parametrize("kinds", [["dense", "sparse", "token"], ["token", "sparse"], ["dense"], []])
def test_embed_writes_the_kinds_that_are_asked_for(
    folder: Path, expected: dict[str, Any], tmp_path: Path, kinds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"dtype": "float32", "precision": "float32", "vectors": ",".join(kinds)}
    embed_corpus(folder, folder.parent / "texts.jsonl", tmp_path, **options)
    assert "1 bad row has no result (1 null). " in capsys.readouterr().out
    (file,) = tmp_path.glob("*.parquet")
    rows = pq.read_table(file).to_pylist()
    assert set(rows[0]) == {"id", *(COLUMNS[kind] for kind in kinds or ["dense"])}
    assert {name for name, value in rows[-1].items() if value is not None} == {"id"}
    for index, row in enumerate(rows[:-1]):
        if "embedding" in row:
            np.testing.assert_allclose(row["embedding"], expected["dense_vecs"][index], atol=1e-5)
        if "sparse_embedding" in row:
            weights = {int(token): weight for token, weight in expected["lexical_weights"][index].items()}
            assert row["sparse_embedding"]["indices"] == sorted(weights)
            values = [weights[token] for token in sorted(weights)]
            np.testing.assert_allclose(row["sparse_embedding"]["values"], values, atol=1e-4)
        if "token_embeddings" in row:
            np.testing.assert_allclose(row["token_embeddings"], expected["colbert_vecs"][index], atol=1e-5)


def test_dense_vectors_beside_others_are_those_without_them(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    settings, pooling = (tmp_path / "model" / name for name in ("config_sentence_transformers.json", POOLING))
    settings.write_text(json.dumps({"truncate_dim": 4}))
    for name, kinds in (("alone", None), ("both", "dense,sparse")):
        options = {"dtype": "float32", "normalize": True, "vectors": kinds}
        embed_corpus(tmp_path / "model", folder.parent / "texts.jsonl", tmp_path / name, **options)
    alone, both = (pq.read_table(tmp_path / name / "shard-000000.parquet")["embedding"] for name in ("alone", "both"))
    np.testing.assert_allclose(both.to_pylist()[:4], alone.to_pylist()[:4], atol=1e-6)
    pooling.write_text(json.dumps({"pooling_mode_mean_tokens": True, "include_prompt": False}))
    with pytest.raises(ValueError, match=r"include_prompt=False, which only `encode` and `embed` without --vectors"):
        embed_corpus(tmp_path / "model", folder.parent / "texts.jsonl", tmp_path / "prompt", vectors="dense,sparse")


def test_sparse_vectors_are_those_of_lowercase_texts_if_the_folder_says_so(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in ("a CAT", "a cat")))
    embed_corpus(tmp_path / "model", tmp_path / "texts.jsonl", tmp_path / "out", vectors="sparse")
    upper, lower = pq.read_table(tmp_path / "out" / "shard-000000.parquet")["sparse_embedding"].to_pylist()
    assert upper == lower


@pytest.mark.parametrize("kind", ["sparse", "token"])
def test_search_and_serve_find_the_text_itself_in_an_index_of_one_kind(folder: Path, tmp_path: Path, kind: str) -> None:
    index_corpus(folder, folder.parent / "texts.jsonl", tmp_path, dtype="float32", vectors=kind)
    index = SearchIndex(tmp_path)
    hits = index.search(TEXTS[1], limit=2, mode="vector")
    assert hits[0].text == TEXTS[1]
    pytest.importorskip("fastapi", reason="needs the extra serve")
    from sequence_encoder import create_app, load_served_model
    from sequence_encoder.tests.fixtures.serving_apps import ask

    app = create_app([load_served_model(str(folder))], index=index)
    found = ask(app, "/search", {"query": TEXTS[1], "limit": 2, "mode": "vector"}).json()["hits"]
    app.state.service.scheduler.close()
    assert [hit["text"] for hit in found] == [hit.text for hit in hits]
    assert [hit["score"] for hit in found] == pytest.approx([hit.score for hit in hits], rel=1e-3)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ("dense,other", "vectors must be some of dense, sparse, token, got other"),
        ("dense,sparse", "has one kind"),
    ],
)
def test_kinds_that_do_not_exist_or_fit_are_refused(folder: Path, tmp_path: Path, vectors: str, message: str) -> None:
    run: Any = embed_corpus if "other" in vectors else index_corpus
    with pytest.raises((UsageError, ValueError), match=message):
        run(folder, folder.parent / "texts.jsonl", tmp_path / "out", vectors=vectors)


def test_an_exported_model_has_dense_vectors_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text("{}")
    with pytest.raises(UsageError, match="computes only dense vectors; pass the original model"):
        embed_corpus(tmp_path, folder.parent / "texts.jsonl", tmp_path / "out", vectors="sparse")
