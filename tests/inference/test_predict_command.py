"""The command `predict` writes the labels and scores of transformers' pipeline and of CrossEncoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoTokenizer, pipeline

from sequence_encoder import SequenceEncoderConfig, SequenceEncoderForSequenceClassification, predict_corpus
from sequence_encoder.__main__ import main
from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.adaptation_runs import WORDS, save_encoder
from sequence_encoder.tests.fixtures.corpus_runs import (
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
    """Return `save_classifier(folder, **fields)`, which saves a model with a head."""

    def save(folder: str = "model", **fields: Any) -> Path:
        config = SequenceEncoderConfig.from_pretrained(encoder, **fields)
        randomize(SequenceEncoderForSequenceClassification(config)).save_pretrained(tmp_path / folder)
        AutoTokenizer.from_pretrained(encoder, model_max_length=12).save_pretrained(tmp_path / folder)
        return tmp_path / folder

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


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("answers", [["contradiction", "neutral", "entailment"], ["Entailment", "not_entailment"]])
def test_scores_of_given_labels_are_those_of_the_zero_shot_pipeline(
    save_classifier: Callable[..., Path], corpus: Path, tmp_path: Path, answers: list[str], multi_label: bool
) -> None:
    named = dict(enumerate(answers))
    model = save_classifier(id2label=named, label2id={name: index for index, name in named.items()})
    labels, template = ["cat", "red dog", "owl"], "we saw {}"
    options = {"labels": labels, "hypothesis_template": template, "multi_label": multi_label}
    counts = predict_corpus(**options_of(model, corpus, tmp_path / "out", scores=True, max_tokens=16, **options))
    rows = table_of(tmp_path / "out").to_pylist()
    classify = pipeline("zero-shot-classification", model=str(model), device="cpu")
    call = {"candidate_labels": labels, "hypothesis_template": template, "multi_label": multi_label}
    for number in GOOD:
        # The pipeline refuses an empty text.
        expected = classify(ROWS[number]["text"] or " ", **call)
        assert rows[number]["label"] == expected["labels"][0]
        np.testing.assert_allclose(rows[number]["score"], expected["scores"][0], rtol=1e-4)
        scores = dict(zip(expected["labels"], expected["scores"], strict=True))
        np.testing.assert_allclose(rows[number]["scores"], [scores[label] for label in labels], rtol=1e-4)
    for number in (NULL, LONG):
        assert [rows[number][name] for name in ("label", "score", "scores")] == [None] * 3
    assert counts.rows == len(ROWS)
    assert 0 < counts.truncated < len(GOOD)


def test_labels_that_the_model_cannot_score_are_refused(
    save_classifier: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    model, output = save_classifier(id2label=LABELS), tmp_path / "out"
    with pytest.raises(UsageError, match=r"--labels needs a model for natural language inference.* has the labels cat"):
        predict_corpus(**options_of(model, corpus, output, labels="cat, dog"))
    model = save_classifier(id2label={0: "entailment", 1: "other"}, label2id={"entailment": 0, "other": 1})
    with pytest.raises(UsageError, match=r"--labels: '.* fox' takes .. tokens in its hypothesis.* in 12 tokens"):
        predict_corpus(**options_of(model, corpus, output, labels=["dog", "the cat and the dog and the brown fox"]))
    assert not output.exists()


def test_a_larger_model_reads_the_texts_that_the_first_is_not_sure_of(
    save_classifier: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    small, large = save_classifier(id2label=LABELS), save_classifier("large", id2label=LABELS, num_hidden_layers=1)
    alone = [tmp_path / name for name in ("of small", "of large")]
    for model, output in zip((small, large), alone, strict=True):
        predict_corpus(**options_of(model, corpus, output, scores=True))
    first, second = (table_of(output).to_pylist() for output in alone)
    below = float(np.median([first[number]["score"] for number in GOOD]))
    command = ["predict", *arguments_of(small, corpus, tmp_path / "both", then=large, then_below=below)]
    main([*command, "--scores"])
    rows = table_of(tmp_path / "both").to_pylist()
    for number in GOOD:
        passed_on = first[number]["score"] < below
        expected = (second if passed_on else first)[number]
        assert rows[number]["label"] == expected["label"]
        assert rows[number]["answered_by"] == str(large if passed_on else small)
        np.testing.assert_allclose(rows[number]["scores"], expected["scores"], rtol=1e-5)
    assert {rows[number]["answered_by"] for number in GOOD} == {str(small), str(large)}
    for number in (NULL, LONG):
        assert [rows[number][name] for name in ("label", "score", "answered_by")] == [None] * 3
    lowest = min(first[number]["score"] for number in GOOD)
    predict_corpus(**options_of(small, corpus, tmp_path / "sure", then=str(large), then_below=lowest))
    answered = {row["answered_by"] for row in table_of(tmp_path / "sure").to_pylist()}
    assert answered == {str(small), None}
    # The results are those of both models, so another larger one is another run.
    save_classifier("large", id2label=LABELS, num_hidden_layers=2)
    with pytest.raises(SystemExit, match="results of other settings"):
        main([*command, "--scores"])


def test_a_larger_model_must_have_the_same_labels(
    save_classifier: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    small = save_classifier(id2label=LABELS)
    other = save_classifier("other", id2label={0: "dog", 1: "cat", 2: "owl"})
    with pytest.raises(UsageError, match=r"--then .* must have the labels of .*, cat, dog, owl, .* got dog, cat, owl"):
        predict_corpus(**options_of(small, corpus, tmp_path / "out", then=str(other)))
    score = save_classifier("score", num_labels=1, problem_type="regression")
    with pytest.raises(UsageError, match=r"--then needs classifiers with one label per text, which .*score is not"):
        predict_corpus(**options_of(small, corpus, tmp_path / "out", then=str(score)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stated", ["nowhere", "in config.json", "as now"])
def test_scores_of_pairs_are_those_of_a_cross_encoder(
    save_classifier: Callable[..., Path],
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stated: str,
) -> None:
    model = save_classifier(num_labels=1)
    if stated == "in config.json":
        # As CrossEncoder saved it before version 6.
        file = model / "config.json"
        activation = {"activation_fn": "torch.nn.modules.linear.Identity", "version": "5.0"}
        file.write_text(json.dumps({**json.loads(file.read_text()), "sentence_transformers": activation}))
    elif stated == "as now":
        CrossEncoder(str(model), device="cpu", activation_fn=torch.nn.Identity()).save_pretrained(str(model))
    counts = predict_corpus(**options_of(model, corpus, tmp_path / "out", text_pair_column="other"))
    found = table_of(tmp_path / "out").column("score").to_pylist()
    assert [number for number, score in enumerate(found) if score is None] == [2, NULL, LONG]
    assert counts.bad == {"null": 2, "too long": 1}
    pairs = [number for number in GOOD if number != 2]
    said = capsys.readouterr().out
    predict_corpus(**options_of(model, corpus, tmp_path / "alone"))
    assert "--text_pair_column" not in said
    assert ("It is a cross-encoder, and each text is read alone" in capsys.readouterr().out) == (stated != "nowhere")
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
    with pytest.raises(UsageError, match=r"without a head for sequence classification.* with `sequence-encoder embed`"):
        predict_corpus(**options_of(encoder, corpus, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
