"""Pipelines of calibrated models: with and without the package, and unchanged for all other models."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    pipeline,
)
from transformers.pipelines.text_classification import TextClassificationPipeline
from transformers.pipelines.token_classification import TokenClassificationPipeline

from sequence_encoder import (
    QuestionAnsweringPipeline,
    SequenceEncoderForQuestionAnswering,
    SequenceEncoderForTokenClassification,
    SequenceEncoderModel,
    TaskAdapter,
    calibrate,
    create_app,
    export,
    exported_pipeline,
    predict_corpus,
)
from sequence_encoder.command_line import UsageError
from sequence_encoder.inference.runtimes import comparison
from sequence_encoder.inference.runtimes.exported_heads import load_exported_head
from sequence_encoder.modeling.calibration.entities import group_tags
from sequence_encoder.serving.served_model import ServedModel
from sequence_encoder.tests.fixtures.calibrated_models import (
    AWAY,
    HOME,
    TEMPERATURE,
    examples_with,
    overconfident,
    texts_of,
    tokenizer_of_words,
)
from sequence_encoder.tests.fixtures.corpus_runs import table_of, write_rows
from sequence_encoder.tests.fixtures.serving_apps import ask

Build = Callable[..., Any]

TEXTS = [*texts_of(HOME, 3, seed=5), *texts_of(AWAY, 2)]
CALLS: list[dict[str, Any]] = [
    {},
    {"coverage": 0.95},
    {"abstain_below": 0.05},
    {"top_k": None, "batch_size": 2, "abstain_below": 0.05},
    {"top_k": 1, "coverage": 0.8, "batch_size": 5},
]
RUN = """
import json, transformers
pipe = transformers.pipeline("text-classification", model=sys.argv[1], trust_remote_code=True)
assert type(pipe).__module__.startswith("transformers_modules.")
print(json.dumps([pipe(json.loads(sys.argv[2]), **options) for options in json.loads(sys.argv[3])]))
"""


@pytest.fixture(scope="module")
def folders(tiny_config: Build, randomize: Build, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save a model before and after its calibration."""
    tokenizer = tokenizer_of_words()
    model = overconfident(tiny_config, randomize, tokenizer, labels=3)
    folders = {name: tmp_path_factory.mktemp(name) for name in ("plain", "calibrated")}
    for name, folder in folders.items():
        if name == "calibrated":
            examples, away = examples_with(model, tokenizer, 100), texts_of(AWAY, 20, seed=1)
            calibrate(model, tokenizer, examples, away=away, scaling="adaptive")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folders


@pytest.fixture
def pipe(folders: dict[str, Path]) -> Any:
    return pipeline("text-classification", model=str(folders["calibrated"]))


def test_a_result_has_the_labels_of_a_set_and_a_p_value(pipe: Any) -> None:
    model = pipe.model
    for text, result in zip(TEXTS, pipe(TEXTS), strict=True):
        with torch.no_grad():
            scores = model(**pipe.tokenizer(text, return_tensors="pt")).logits.softmax(-1)
        inside = model.calibration.sets.contain(scores)[0].tolist()
        assert result["score"] == pytest.approx(float(scores.max()), abs=1e-5)
        assert result["label"] == result["labels"][0]
        assert set(result["labels"]) == {name for index, name in model.config.id2label.items() if inside[index]}
        assert 0 < result["unfamiliarity"] <= 1
    assert pipe(TEXTS[0]) == pipe(TEXTS[:1])


def test_more_coverage_needs_more_labels(pipe: Any) -> None:
    texts = texts_of(HOME, 20, seed=6)
    sizes = [sum(len(each["labels"]) for each in pipe(texts, coverage=coverage)) for coverage in (0.8, 0.9, 0.98)]
    assert sizes[0] <= sizes[1] < sizes[2]


def test_unfamiliar_texts_are_refused(pipe: Any) -> None:
    results = pipe(TEXTS, abstain_below=0.05)
    for result, usual in zip(results, pipe(TEXTS), strict=True):
        refused = usual["unfamiliarity"] < 0.05
        assert (result["label"] is None) == (result["score"] is None) == refused
        assert len(result["labels"]) == 3 if refused else result == usual
    assert [result["label"] is None for result in results[3:]] == [True, True]


def test_the_same_results_without_the_package(folders: dict[str, Path], without_package: Build, pipe: Any) -> None:
    found = without_package(RUN, folders["calibrated"], json.dumps(TEXTS), json.dumps(CALLS))
    assert found == json.loads(json.dumps([pipe(TEXTS, **options) for options in CALLS]))


def test_other_models_have_the_pipeline_of_transformers(folders: dict[str, Path], pipe: Any) -> None:
    bert = BertForSequenceClassification(
        BertConfig(vocab_size=200, hidden_size=24, num_hidden_layers=1, num_attention_heads=3, intermediate_size=8)
    )
    assert type(pipeline("text-classification", model=bert, tokenizer=pipe.tokenizer)) is TextClassificationPipeline
    plain = pipeline("text-classification", model=str(folders["plain"]))
    expected = TextClassificationPipeline(model=plain.model, tokenizer=pipe.tokenizer)
    for options in ({}, {"top_k": None}, {"top_k": 2, "batch_size": 2}, {"function_to_apply": "none"}):
        assert plain(TEXTS, **options) == expected(TEXTS, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"coverage": 1}, "coverage must be a number between 0 and 1"),
        ({"coverage": "0.9"}, "got '0.9'"),
        ({"coverage": 0.995}, "needs at least 199 calibration texts, and there are 100"),
        ({"abstain_below": -0.1}, "abstain_below must be a p-value between 0 and 1"),
        ({"abstain_below": True}, "got True"),
    ],
)
def test_other_values_are_refused(pipe: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pipe(TEXTS, **options)


@pytest.mark.parametrize("options", [{"coverage": 0.9}, {"abstain_below": 0.1}])
def test_a_folder_without_a_calibration_has_no_sets_and_refusals(
    folders: dict[str, Path], options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}=0.* needs a calibrated model"):
        pipeline("text-classification", model=str(folders["plain"]), **options)


def test_a_task_adapter_has_no_refusals(tiny_config: Build, pipe: Any) -> None:
    encoder = SequenceEncoderModel(tiny_config("bert", vocab_size=len(pipe.tokenizer)))
    adapter = pipeline("text-classification", model=TaskAdapter(encoder, num_classes=2), tokenizer=pipe.tokenizer)
    with pytest.raises(ValueError, match=r"abstain_below=0\.1 needs a calibrated model"):
        adapter("fox", abstain_below=0.1)


# Entities


@pytest.fixture(scope="module")
def tagger(tiny_config: Build, randomize: Build, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Save a calibrated model that finds entities, each right in three of four cases, and return it with its report."""
    torch.manual_seed(0)
    tokenizer = tokenizer_of_words()
    tags = ["O", "B-animal", "I-animal", "B-place"]
    labels = {"id2label": dict(enumerate(tags)), "label2id": {tag: index for index, tag in enumerate(tags)}}
    config = tiny_config("bert", vocab_size=len(tokenizer), **labels)
    model = randomize(SequenceEncoderForTokenClassification(config))
    model.classifier.weight.data *= 20
    rng = random.Random(0)
    examples = []
    for text in texts_of(HOME, 80):
        words = text.split()
        batch = tokenizer(words, is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            found = model(**batch).logits[0].argmax(-1).tolist()
        places = batch.word_ids()
        likely = [tags[found[places.index(word)]] for word in range(len(words))]
        examples.append({"tokens": words, "ner_tags": [tag if rng.random() < 0.75 else "O" for tag in likely]})
    report = calibrate(model, tokenizer, examples)
    folder = tmp_path_factory.mktemp("tagger")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, report


def test_the_scores_of_entities_are_calibrated(tagger: Any) -> None:
    metrics = tagger[1].calibration.facts["metrics"]
    for worse in ("expected_calibration_error", "answer_brier_score"):
        assert metrics["after"][worse] < 0.9 * metrics["before"][worse]
    assert metrics["before"]["accuracy"] == metrics["after"]["accuracy"]
    held_out = tagger[1].calibration.facts["sets_on_held_out_texts"]["0.9"]
    assert held_out["coverage"] == pytest.approx(0.9, abs=0.05)


ENTITIES: list[dict[str, Any]] = [
    {"aggregation_strategy": "first"},
    {"aggregation_strategy": "none", "coverage": 0.95},
    {"aggregation_strategy": "simple", "batch_size": 3},
    {"aggregation_strategy": "average", "abstain_below": 0.05},
]


def test_entities_are_runs_of_words_of_one_kind() -> None:
    assert group_tags(["B-a", "I-a", "I-a", "O", "I-a", "B-a", "I-b"]) == [
        (0, 3, "a"),
        (4, 5, "a"),
        (5, 6, "a"),
        (6, 7, "b"),
    ]


def test_entities_have_sets_of_kinds_and_p_values_of_their_texts(tagger: Any) -> None:
    pipe = pipeline("token-classification", model=str(tagger[0]))
    plain = TokenClassificationPipeline(model=pipe.model, tokenizer=pipe.tokenizer)
    for options in ENTITIES:
        usual = {name: options[name] for name in options if name not in ("coverage", "abstain_below")}
        for found, expected in zip(pipe(TEXTS, **options), plain(TEXTS, **usual), strict=True):
            for entity, other in zip(found, expected, strict=True):
                labels, p_value = entity.pop("labels"), entity.pop("unfamiliarity")
                kind = "entity_group" if "entity_group" in other else "entity"
                if p_value < options.get("abstain_below", 0):
                    assert entity == {**other, kind: None, "score": None}
                    assert sorted(labels) == ["O", "animal", "place"]
                else:
                    assert entity == other
                    assert other[kind].rpartition("-")[2] in labels


# Answers


@pytest.mark.parametrize("scaling", ["vector", "adaptive"])
def test_other_scalings_would_change_entities(tagger: tuple[Path, Any], scaling: str) -> None:
    model = SequenceEncoderForTokenClassification.from_pretrained(tagger[0])
    examples = [{"tokens": text.split(), "ner_tags": ["O"] * len(text.split())} for text in texts_of(HOME, 20)]
    with pytest.raises(UsageError, match=f"scaling must be temperature or auto for entities, got '{scaling}'"):
        calibrate(model, AutoTokenizer.from_pretrained(tagger[0]), examples, scaling=scaling)


@pytest.fixture(scope="module")
def reader(tiny_config: Build, randomize: Build, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Save a calibrated model that was overconfident in its answers to questions, and return it with its report."""
    torch.manual_seed(0)
    tokenizer = tokenizer_of_words()
    model = randomize(SequenceEncoderForQuestionAnswering(tiny_config("bert", vocab_size=len(tokenizer))))
    # Each answer is a single token, so that its start and its end agree.
    model.qa_outputs.weight.data[:] = 20 * model.qa_outputs.weight.data[:1]
    contexts = texts_of(HOME, 80)
    found = QuestionAnsweringPipeline(model=model, tokenizer=tokenizer)(question="which", context=contexts)
    rng, examples = random.Random(0), []
    for context, answer in zip(contexts, found, strict=True):
        is_right = rng.random() < answer["score"]
        start, end = (answer["start"], answer["end"]) if is_right else (0, len(context))
        answers = {"text": [context[start:end]], "answer_start": [start]}
        examples.append({"question": "which", "context": context, "answers": answers})
    model.qa_outputs.weight.data *= TEMPERATURE
    report = calibrate(model, tokenizer, examples)
    folder = tmp_path_factory.mktemp("reader")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, report


def test_answers_are_calibrated_and_have_sets_and_p_values(reader: Any) -> None:
    metrics = reader[1].calibration.facts["metrics"]
    assert reader[1].calibration.scaling["temperature"] == pytest.approx(TEMPERATURE, rel=0.5)
    for worse in ("expected_calibration_error", "answer_brier_score"):
        assert metrics["after"][worse] < metrics["before"][worse]
    assert metrics["after"]["accuracy"] == metrics["before"]["accuracy"]
    model = AutoModelForQuestionAnswering.from_pretrained(reader[0])
    pipe = QuestionAnsweringPipeline(model=model, tokenizer=AutoTokenizer.from_pretrained(reader[0]))
    threshold = model.calibration.sets.threshold(0.8)
    for result in pipe(question="which", context=TEXTS, top_k=20, coverage=0.8):
        inside = [each["answer"] for place, each in enumerate(result) if not place or 1 - each["score"] <= threshold]
        assert result[0]["answers"] == list(dict.fromkeys(inside))
        assert 0 < result[0]["unfamiliarity"] <= 1
    refused = [each for each in pipe(question="which", context=TEXTS, abstain_below=1) if each["unfamiliarity"] < 1]
    assert refused
    assert all(each["answer"] is each["score"] is each["start"] is None and each["answers"] for each in refused)
    model.calibration = None
    with pytest.raises(ValueError, match=r"coverage=0\.9 needs a calibrated model"):
        QuestionAnsweringPipeline(model=model, tokenizer=pipe.tokenizer)(question="which", context="fox", coverage=0.9)


# Other ways to run the model


@pytest.mark.since("pyarrow", "26", "writes null vectors")
@pytest.mark.parametrize("options", [{}, {"coverage": 0.8, "abstain_below": 0.05}])
def test_predict_writes_the_results_of_the_pipeline(
    folders: dict[str, Path], pipe: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    corpus = write_rows(tmp_path / "rows.parquet", [{"text": text} for text in [*TEXTS, None]])
    predict_corpus(folders["calibrated"], corpus, tmp_path / "out", dtype="float32", **options)
    *rows, last = table_of(tmp_path / "out").to_pylist()
    for row, result in zip(rows, pipe(TEXTS, **options), strict=True):
        assert row.pop("score") == (None if result["score"] is None else pytest.approx(result.pop("score"), abs=1e-5))
        assert row.pop("unfamiliarity") == pytest.approx(result.pop("unfamiliarity"), abs=1e-6)
        assert row["label"] == result["label"]
        assert row["labels"] == result["labels"]
    assert {last[name] for name in ("label", "score", "labels", "unfamiliarity")} == {None}


@pytest.mark.since("pyarrow", "26", "writes null vectors")
def test_predict_refuses_refusals_without_a_calibration(folders: dict[str, Path], tmp_path: Path) -> None:
    corpus = write_rows(tmp_path / "rows.parquet", [{"text": text} for text in TEXTS])
    with pytest.raises(ValueError, match=r"abstain_below=0\.1 needs a calibrated model"):
        predict_corpus(folders["plain"], corpus, tmp_path / "out", abstain_below=0.1)


def test_the_server_returns_the_results_of_the_pipeline(folders: dict[str, Path], pipe: Any) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folders["calibrated"])
    plain = AutoModelForSequenceClassification.from_pretrained(folders["plain"])
    served = [ServedModel(name, each, pipe.tokenizer) for name, each in (("calibrated", model), ("plain", plain))]
    app = create_app(served)
    for options in ({}, {"coverage": 0.8, "abstain_below": 0.05}):
        found = ask(app, "/predict", {"inputs": [[text] for text in TEXTS], **options}).json()
        expected = pipe(TEXTS, top_k=None, **options)
        for mine, others in zip(found, expected, strict=True):
            for each, other in zip(mine, others, strict=True):
                assert each.pop("score") == pytest.approx(other.pop("score"), abs=1e-5)
                assert each == other
    refusal = ask(app, "/predict", {"inputs": TEXTS[0], "model": "plain", "abstain_below": 0.1})
    assert refusal.status_code == 400
    assert "needs a calibrated model" in refusal.text
    assert "unfamiliarity" not in ask(app, "/predict", {"inputs": TEXTS[0], "model": "plain"}).json()[0]


@pytest.mark.since("pyarrow", "26", "writes null vectors")
@pytest.mark.since("transformers", "5.23", "runs exported models")
@pytest.mark.since("torch", "2.11", "has what the exporters need")
def test_an_exported_model_keeps_its_scores_sets_and_p_values(
    folders: dict[str, Path], pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "_MEASURED", 0.0)
    export(pipe.model.to("cpu"), pipe.tokenizer, tmp_path / "exported", to="torch")
    exported = exported_pipeline("text-classification", tmp_path / "exported", trust_remote_code=True)
    for found, expected in zip(exported(TEXTS, coverage=0.95), pipe(TEXTS, coverage=0.95), strict=True):
        assert found["score"] == pytest.approx(expected["score"], abs=1e-5)
        assert found["labels"] == expected["labels"]
        assert found["unfamiliarity"] == pytest.approx(expected["unfamiliarity"], abs=0.011)
    assert [each["label"] for each in exported(TEXTS, abstain_below=0.1)] == [
        each["label"] for each in pipe(TEXTS, abstain_below=0.1)
    ]
    head = load_exported_head(tmp_path / "exported", trust_remote_code=True)
    app, options = create_app([ServedModel("exported", *head)]), {"coverage": 0.95, "abstain_below": 0.1}
    answers = ask(app, "/predict", {"inputs": [[text] for text in TEXTS], **options}).json()
    for (best, *_), expected in zip(answers, exported(TEXTS, **options), strict=True):
        assert best["score"] == (pytest.approx(expected["score"], abs=1e-5) if expected["score"] else None)
        assert {**best, "score": None} == {**expected, "score": None}
    corpus = write_rows(tmp_path / "rows.parquet", [{"text": text} for text in TEXTS])
    options["dtype"] = "float32"
    predict_corpus(folders["calibrated"], corpus, tmp_path / "before", **options)
    predict_corpus(tmp_path / "exported", corpus, tmp_path / "after", trust_remote_code=True, **options)
    rows = zip(*(table_of(tmp_path / name).to_pylist() for name in ("after", "before")), strict=True)
    for row, before in rows:
        assert row.pop("unfamiliarity") == pytest.approx(before.pop("unfamiliarity"), abs=0.011)
        assert (score := before.pop("score")) == row["score"] is None or row["score"] == pytest.approx(score, abs=1e-5)
        assert {**row, "score": None} == {**before, "score": None}
    # As earlier versions exported it.
    manifest = tmp_path / "exported" / "export.json"
    manifest.write_text(manifest.read_text().replace("layer_vectors", "other"))
    exported = exported_pipeline("text-classification", tmp_path / "exported", trust_remote_code=True)
    assert "unfamiliarity" not in exported(TEXTS[0])[0]
    with pytest.raises(ValueError, match=r"abstain_below=0\.1 needs p-values.* exported it, export it again"):
        exported(TEXTS, abstain_below=0.1)
