"""Texts are compared with labels that are a part of the input: by the head, its pipeline and `predict --labels`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import parquet
from transformers import AutoConfig, AutoModelForSequenceClassification, pipeline

from sequence_encoder import (
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForZeroShotClassification,
    SequenceEncoderModel,
    SequenceEncoderTokenizer,
    predict_corpus,
    quantize,
)
from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.corpus_runs import table_of

Build = Callable[..., Any]

TEXTS = ["the quick brown fox jumps over the lazy dog", "packing leaves the padding out", ""]
LABELS = ["fox", "the padding", "lazy dog"]
LABEL, SEPARATOR = 90, 91


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    trained = SequenceEncoderTokenizer.train_from_iterator(TEXTS * 2, vocab_size=90, show_progress=False)
    trained.add_tokens(["<<LABEL>>", "<<SEP>>"], special_tokens=True)
    assert trained.convert_tokens_to_ids(["<<LABEL>>", "<<SEP>>"]) == [LABEL, SEPARATOR]
    return trained


@pytest.fixture(scope="module")
def make(tiny_config: Build, randomize: Build) -> Build:
    """Return `make(**fields)`, which builds a model with values of `zero_shot_classification`."""

    def build(preset: str = "bert", **fields: Any) -> SequenceEncoderForZeroShotClassification:
        given = {"label_token_id": LABEL, "text_token_id": SEPARATOR, **fields}
        config = tiny_config(preset, vocab_size=92, pooling="cls", pooler_act=None, zero_shot_classification=given)
        return randomize(SequenceEncoderForZeroShotClassification(config))

    return build


@pytest.fixture(scope="module")
def saved(make: Build, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero-shot")
    make(scorer="mlp", normalize=True).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def batch(rows: dict[str, Any], tokenizer: Any) -> dict[str, torch.Tensor]:
    return dict(tokenizer.pad(rows, return_tensors="pt"))


@pytest.mark.parametrize("preset", ["bert", "deberta-v3", "modernbert"])
@pytest.mark.parametrize(
    ("label_pooling", "reads_label_token", "scorer"),
    [("first", True, "dot"), ("first", False, "weighted_dot"), ("mean", True, "mlp"), ("mean", False, "dot")],
)
@torch.no_grad()
def test_each_label_is_compared_with_the_text(
    make: Build, tokenizer: Any, preset: str, label_pooling: str, reads_label_token: bool, scorer: str
) -> None:
    options = {"label_pooling": label_pooling, "reads_label_token": reads_label_token, "scorer": scorer}
    model = make(preset, normalize=scorer == "dot", hidden_size=10, **options)
    prompts = [
        "<<LABEL>>fox<<LABEL>>the padding<<LABEL>>lazy dog<<SEP>>" + TEXTS[0],
        "<<LABEL>>quick<<SEP>>" + TEXTS[1],
    ]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    found = model(**inputs).logits
    assert found.shape == (2, 3)
    assert (found[1, 1:] == torch.finfo(torch.float32).min).all()
    for row, count in ((0, 3), (1, 1)):
        # One text at a time, without padding.
        ids = inputs["input_ids"][row][inputs["attention_mask"][row] == 1]
        states = model.model(ids[None]).last_hidden_state[0]
        starts = [*(ids == LABEL).nonzero()[:, 0].tolist(), len(ids)]
        text = model.text_projection(states[0])
        for index in range(count):
            tokens = states[starts[index] : starts[index + 1]]
            tokens = tokens if reads_label_token else tokens[1:]
            label = model.label_projection(tokens[0] if label_pooling == "first" else tokens.mean(0))
            pair = (text[None], label[None, None])
            if model.logit_scale is not None:
                pair = tuple(vector / vector.norm() for vector in pair)
            score = model.scorer(*pair)[0, 0] * (1 if model.logit_scale is None else model.logit_scale)
            torch.testing.assert_close(found[row, index], score, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_scorers_are_those_of_gliclass(make: Build) -> None:
    text, labels = torch.randn(2, 24), torch.randn(2, 5, 24)
    torch.testing.assert_close(make(scorer="dot").scorer(text, labels), torch.einsum("bd,bcd->bc", text, labels))
    scorer = make(scorer="weighted_dot").scorer
    for row, index in ((0, 3), (1, 4)):
        a, b = scorer.text_proj(text[row]), scorer.label_proj(labels[row, index])
        inner = scorer.up_proj(torch.cat([a[:24], b[:24], a[24:] * b[24:]]))
        torch.testing.assert_close(scorer(text, labels)[row, index], scorer.down_proj(inner.relu())[0])


def test_labels_come_with_the_text_and_are_never_truncated(make: Build, tokenizer: Any) -> None:
    prompt = "<<LABEL>>fox<<LABEL>>the padding<<LABEL>>lazy dog<<SEP>>"
    for first, whole in ((True, prompt + TEXTS[0]), (False, TEXTS[0] + prompt)):
        model = make(labels_first=first)
        full = model.label_prompts(TEXTS, LABELS, tokenizer)
        assert full["input_ids"][0] == tokenizer(whole)["input_ids"]
        length = len(full["input_ids"][0])
        cut = model.label_prompts(TEXTS, LABELS, tokenizer, max_length=length - 3)["input_ids"]
        assert [len(ids) for ids in cut] == [min(len(ids), length - 3) for ids in full["input_ids"]]
        assert [ids.count(LABEL) for ids in cut] == [3, 3, 3]
        assert cut[0][-1] == full["input_ids"][0][-1]
        hostile = model.label_prompts(["a <<LABEL>> b"], LABELS, tokenizer)["input_ids"][0]
        assert hostile.count(LABEL) == 3


@pytest.mark.parametrize(
    ("labels", "max_length", "message"),
    [
        ([], None, r"labels must be a list of different texts, none of which is empty, got \[\]"),
        (["a", "a"], None, "labels must be a list of different texts"),
        (["a", "b<<LABEL>>"], None, "labels must not contain <<LABEL>>, got 'b<<LABEL>>'"),
        (["fox"], 4, "labels take . tokens, which leaves no room for a text in 4 tokens"),
    ],
)
def test_labels_that_cannot_be_read_are_refused(
    make: Build, tokenizer: Any, labels: list[str], max_length: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make().label_prompts(TEXTS, labels, tokenizer, max_length)


def test_inputs_that_the_head_cannot_use_are_refused(make: Build, tokenizer: Any) -> None:
    model = make()
    inputs = batch(model.label_prompts(TEXTS, LABELS, tokenizer), tokenizer)
    for labels, message in (
        (torch.zeros(3, 2), r"labels must have shape \(3, 3\) with a number from 0 to 1 for each label"),
        (torch.full((3, 3), 2.0), "labels must be from 0 to 1, or -100 to be ignored, got 2.0"),
        (torch.tensor([0, 1, 3]), r"labels must be from 0 to 2 \(number of labels\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**inputs, labels=labels)
    with pytest.raises(ValueError, match="Texts must have labels, each after the token 90, got 0 labels"):
        model(**tokenizer(TEXTS[:1], return_tensors="pt"))
    with pytest.raises(ValueError, match="inputs_embeds needs class_ids"):
        model(inputs_embeds=torch.randn(1, 4, 24))


def test_only_one_label_may_be_right(make: Build, tokenizer: Any) -> None:
    model = make()
    inputs = batch(model.label_prompts(TEXTS, LABELS, tokenizer), tokenizer)
    right = torch.tensor([0, 1, -100])
    outputs = model(**inputs, labels=right)
    torch.testing.assert_close(outputs.loss, torch.nn.functional.cross_entropy(outputs.logits, right))
    several = torch.tensor([[1.0, 0, 1], [0, 0, 0], [-100, 1, -100]])
    known = several >= 0
    expected = torch.nn.functional.binary_cross_entropy_with_logits(outputs.logits[known], several[known])
    torch.testing.assert_close(model(**inputs, labels=several).loss, expected)


def test_unknown_values_of_the_field_are_refused(make: Build) -> None:
    for fields, message in (
        (
            {"scorer": "cosine"},
            r"zero_shot_classification\['scorer'\] must be one of 'dot', 'weighted_dot'",
        ),
        ({"label_token_id": 92}, r"zero_shot_classification\['label_token_id'\] must be below vocab_size=92, got 92"),
        ({"dropout": 1.0}, r"zero_shot_classification\['dropout'\] must be a number from 0 to below 1, got 1.0"),
        ({"pooling": "cls"}, "zero_shot_classification must be a dict with some of label_token_id, "),
    ):
        with pytest.raises(Exception, match=message):
            make(**fields)


def test_auto_classes_load_what_a_folder_was_saved_with(saved: Path, tiny_config: Build, tmp_path: Path) -> None:
    loaded = AutoModelForSequenceClassification.from_pretrained(saved)
    assert type(loaded) is SequenceEncoderForZeroShotClassification
    assert type(loaded.model) is SequenceEncoderModel
    classifier = AutoModelForSequenceClassification.from_config(tiny_config())
    assert type(classifier) is SequenceEncoderForSequenceClassification
    classifier.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(again) is SequenceEncoderForSequenceClassification
    assert "ZeroShot" not in (tmp_path / "modeling_sequence_encoder.py").read_text()
    config = AutoConfig.from_pretrained(saved)
    assert config.auto_map["AutoModelForSequenceClassification"].endswith(".SequenceEncoderForZeroShotClassification")


def test_the_pipeline_compares_any_labels_also_without_the_package(saved: Path, without_package: Build) -> None:
    code = """
import json, transformers
pipe = transformers.pipeline("zero-shot-classification", model=sys.argv[1], trust_remote_code=True, device="cpu")
assert type(pipe.model).__module__.startswith("transformers_modules.")
texts, labels = json.loads(sys.argv[2]), json.loads(sys.argv[3])
print(json.dumps([pipe(texts, candidate_labels=labels, multi_label=several) for several in (False, True)]))
"""
    expected = without_package(code, saved, json.dumps(TEXTS), json.dumps(LABELS))
    classify = pipeline("zero-shot-classification", model=str(saved), device="cpu", batch_size=2)
    model, own = classify.model, classify.tokenizer
    inputs = batch(model.label_prompts(TEXTS, LABELS, own), own)
    with torch.no_grad():
        logits = model(**inputs).logits
    for several, results in enumerate(expected):
        scores = logits.sigmoid() if several else logits.softmax(-1)
        for row, result in enumerate(classify(TEXTS, LABELS, multi_label=bool(several))):
            assert (result["sequence"], result["labels"]) == (TEXTS[row], results[row]["labels"])
            np.testing.assert_allclose(result["scores"], results[row]["scores"], rtol=1e-4)
            by_label = dict(zip(result["labels"], result["scores"], strict=True))
            np.testing.assert_allclose([by_label[label] for label in LABELS], scores[row], rtol=1e-4)
    with pytest.raises(ValueError, match="hypothesis_template must be left out for a SequenceEncoderForZeroShot"):
        classify(TEXTS[0], LABELS, hypothesis_template="{}")


@pytest.mark.since("pyarrow", "26", "writes null vectors")
def test_predict_writes_the_scores_of_the_pipeline(saved: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "rows.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS, None]))
    options = {"model": saved, "corpus": corpus, "device": "cpu", "dtype": "float32", "scores": True, "labels": LABELS}
    classify = pipeline("zero-shot-classification", model=str(saved), device="cpu")
    for several in (False, True):
        output = tmp_path / str(several)
        counts = predict_corpus(**options, output_dir=output, multi_label=several)
        assert (counts.rows, counts.truncated, counts.bad) == (4, 0, {"null": 1})
        rows = table_of(output).to_pylist()
        assert rows[3]["label"] is rows[3]["scores"] is None
        for row, result in zip(rows[:3], classify(TEXTS, LABELS, multi_label=several), strict=True):
            assert row["label"] == result["labels"][0]
            scores = dict(zip(result["labels"], result["scores"], strict=True))
            np.testing.assert_allclose(row["scores"], [scores[label] for label in LABELS], rtol=1e-4)
    cut = predict_corpus(**options, output_dir=tmp_path / "cut", max_length=16)
    assert cut.truncated == 1
    metadata = parquet.read_schema(next((tmp_path / "cut").glob("*.parquet"))).metadata
    assert json.dumps(LABELS) in str(metadata)


def test_eight_bits_keep_the_scores(make: Build, tokenizer: Any) -> None:
    model = make()
    inputs = batch(model.label_prompts(TEXTS, LABELS, tokenizer), tokenizer)
    with torch.no_grad():
        before = model(**inputs).logits
        report = quantize(model, tokenizer, TEXTS * 4, target=0.9)
        after = model(**inputs).logits
    assert report.found >= 0.9
    assert not torch.equal(before, after)
    assert torch.cosine_similarity(before.flatten(), after.flatten(), dim=0) > 0.9


@pytest.mark.since("pyarrow", "26", "writes null vectors")
def test_predict_says_what_a_zero_shot_model_is_for(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("the fox\n")
    options = {"model": saved, "corpus": tmp_path / "rows.txt", "output_dir": tmp_path / "out", "device": "cpu"}
    with pytest.raises(UsageError, match=r"without a head.* with `sequence-encoder predict --labels`"):
        predict_corpus(**options)
    with pytest.raises(UsageError, match=r"--labels: labels take .* tokens, which leaves no room"):
        predict_corpus(**options, labels=LABELS, max_length=8)
    with pytest.raises(UsageError, match="--hypothesis_template is for models for natural language inference, but"):
        predict_corpus(**options, labels=LABELS, hypothesis_template="{}.")
