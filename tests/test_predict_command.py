"""The command `predict` writes the labels and scores of transformers' pipeline and of CrossEncoder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import CrossEncoder
from transformers import AutoTokenizer, pipeline

from sequence_encoder import SequenceEncoderConfig, SequenceEncoderForSequenceClassification
from sequence_encoder.__main__ import main
from sequence_encoder.bulk import predict_corpus
from sequence_encoder.command_line import UsageError
from sequence_encoder.command_line.extras import MissingLibraryError
from sequence_encoder.export import comparison, export
from sequence_encoder.search.reranking import Reranker
from sequence_encoder.tests.adaptation_runs import WORDS, save_encoder
from sequence_encoder.tests.corpus_runs import (
    LONG,
    NULL,
    arguments_of,
    assert_same_shards,
    options_of,
    rows_of,
    table_of,
    write_rows,
)

# The third text of a pair is missing.
pytestmark = pytest.mark.since("pyarrow", "26", "writes null vectors")
ROWS = [{**row, "other": WORDS[number % 7] if number != 2 else None} for number, row in enumerate(rows_of())]
GOOD = [number for number in range(len(ROWS)) if number not in (NULL, LONG)]
LABELS = {0: "cat", 1: "dog", 2: "owl"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "tiny", cls_token_id=2, sep_token_id=3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("corpus") / "rows.parquet", ROWS)


@pytest.fixture
def save_classifier(encoder: Path, tmp_path: Path, randomize: Callable[..., Any]) -> Callable[..., Path]:
    """Return `save_classifier(**fields)`, which saves a model with a head."""

    def save(**fields: Any) -> Path:
        config = SequenceEncoderConfig.from_pretrained(encoder, **fields)
        randomize(SequenceEncoderForSequenceClassification(config)).save_pretrained(tmp_path / "model")
        AutoTokenizer.from_pretrained(encoder, model_max_length=12).save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save


@pytest.mark.parametrize(
    "fields",
    [
        {"id2label": LABELS},
        {"id2label": LABELS, "problem_type": "multi_label_classification"},
        {"num_labels": 1, "problem_type": "regression"},
    ],
    ids=["single label", "multi-label", "regression"],
)
def test_labels_and_scores_are_those_of_the_pipeline(
    save_classifier: Callable[..., Path], corpus: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    model = save_classifier(**fields)
    counts = predict_corpus(**options_of(model, corpus, tmp_path / "out", scores=True, columns=["key"]))
    rows = table_of(tmp_path / "out").to_pylist()
    classify = pipeline("text-classification", model=str(model), device="cpu", top_k=None)
    expected = classify([ROWS[number]["text"] for number in GOOD], truncation=True)
    names = [classify.model.config.id2label[index] for index in range(classify.model.num_labels)]
    for number, found in zip(GOOD, expected, strict=True):
        row = rows[number]
        assert (row["id"], row["key"], row["label"]) == (number, f"k{number}", found[0]["label"])
        scores = {each["label"]: each["score"] for each in found}
        np.testing.assert_allclose(row["score"], found[0]["score"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(row["scores"], [scores[name] for name in names], rtol=1e-4, atol=1e-6)
    for number in (NULL, LONG):
        assert [rows[number][name] for name in ("label", "score", "scores")] == [None] * 3
    assert counts.truncated > 0


@pytest.mark.parametrize("activation", [None, "torch.nn.modules.linear.Identity"])
def test_scores_of_pairs_are_those_of_a_cross_encoder(
    save_classifier: Callable[..., Path], corpus: Path, tmp_path: Path, activation: str | None
) -> None:
    model = save_classifier(num_labels=1)
    if activation is not None:
        # As CrossEncoder saves it.
        file = model / "config.json"
        stated = {"sentence_transformers": {"activation_fn": activation, "version": "5.0"}}
        file.write_text(json.dumps({**json.loads(file.read_text()), **stated}))
    counts = predict_corpus(**options_of(model, corpus, tmp_path / "out", text_pair_column="other"))
    found = table_of(tmp_path / "out").column("score").to_pylist()
    assert [number for number, score in enumerate(found) if score is None] == [2, NULL, LONG]
    assert counts.bad == {"null": 2, "too long": 1}
    pairs = [number for number in GOOD if number != 2]
    expected = CrossEncoder(str(model), device="cpu").predict([(ROWS[i]["text"], ROWS[i]["other"]) for i in pairs])
    np.testing.assert_allclose([found[number] for number in pairs], expected, rtol=1e-4, atol=1e-6)


def test_predictions_continue_where_they_stopped(
    save_classifier: Callable[..., Path], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_classifier(id2label=LABELS)
    main(["predict", *arguments_of(model, corpus, tmp_path / "whole")])
    main(["predict", *arguments_of(model, corpus, tmp_path / "out")])
    (tmp_path / "out" / "shard-000001.parquet").unlink()
    main(["predict", *arguments_of(model, corpus, tmp_path / "out")])
    assert "This process has computed 8 rows" in capsys.readouterr().out
    assert_same_shards(tmp_path / "out", tmp_path / "whole")


def test_a_column_with_the_name_of_a_result_is_refused(save_classifier: Callable[..., Path], tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.parquet", [{"text": "the cat", "label": "cat"}])
    with pytest.raises(UsageError, match="--columns label: predict itself writes a column of that name"):
        predict_corpus(**options_of(save_classifier(), rows, tmp_path / "out", columns=["label"]))


def test_a_model_without_a_head_is_refused(encoder: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no head for sequence classification.*use `sequence-encoder embed`"):
        predict_corpus(**options_of(encoder, corpus, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


# Exported models


@pytest.mark.since("transformers", "5.23", "runs exported models")
@pytest.mark.since("torch", "2.11", "has what the exporters need")
def test_an_exported_cross_encoder_predicts_as_the_model(
    save_classifier: Callable[..., Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "_MEASURED", 0.0)
    source, exported = save_classifier(num_hidden_layers=1, num_labels=1), tmp_path / "exported"
    model = SequenceEncoderForSequenceClassification.from_pretrained(source)
    export(model, AutoTokenizer.from_pretrained(source), exported, "openvino")
    first = predict_corpus(**options_of(source, corpus, tmp_path / "model's", text_pair_column="other", scores=True))
    runs = [
        options_of(exported, corpus, tmp_path / name, text_pair_column="other", scores=True)
        for name in ("whole", "out")
    ]
    assert [predict_corpus(**run) for run in runs] == [first, first]
    found, expected = (table_of(tmp_path / name).to_pydict() for name in ("whole", "model's"))
    assert found["label"] == expected["label"]
    for name in ("score", "scores"):
        for ours, theirs in zip(found[name], expected[name], strict=True):
            assert ours == (None if theirs is None else pytest.approx(theirs, abs=1e-5))
    ranked = [Reranker(str(folder), "cpu").scores("the cat", WORDS) for folder in (source, exported)]
    assert ranked[1] == pytest.approx(ranked[0], abs=1e-2)

    (tmp_path / "out" / "shard-000001.parquet").unlink()
    predict_corpus(**runs[1])
    assert_same_shards(tmp_path / "out", tmp_path / "whole")
    config = json.loads((exported / "config.json").read_text())
    (exported / "config.json").write_text(json.dumps({**config, "problem_type": None}))
    with pytest.raises(UsageError, match="the files of the model have changed"):
        predict_corpus(**runs[1])


@pytest.mark.since("transformers", "5.23", "runs exported models")
def test_an_exported_model_that_cannot_run_is_refused(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(exported_to: str, **options: Any) -> None:
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / "export.json").write_text(json.dumps({"export_format": exported_to}))
        predict_corpus(**options_of(tmp_path / "model", corpus, tmp_path / "out", **options))

    with pytest.raises(UsageError, match="--precision bfloat16 is not possible with an exported model"):
        predict("openvino", precision="bfloat16")
    with pytest.raises(UsageError, match="--device nowhere"):
        predict("openvino", device="nowhere")
    with pytest.raises(ValueError, match=r"can run any code when it is loaded.*--trust_remote_code"):
        predict("dynamo")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingLibraryError, match=r"needs onnxruntime, which is not installed.*\[export\]"):
        predict("onnx")
    assert not (tmp_path / "out").exists()
