"""`distill` makes a smaller model from a trained one, with texts alone, and continues where it was stopped."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer, BertConfig, BertModel

from sequence_encoder import (
    SequenceEncoderConfig,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForTokenClassification,
    SequenceEncoderModel,
    SequenceEncoderTokenizer,
    distill,
    distill_static,
    save_sentence_transformer,
)
from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.adaptation_runs import WORDS, save_encoder
from sequence_encoder.training.adaptation.runs.callbacks import BestWeights
from sequence_encoder.training.distillation.objectives import SimilarityObjective
from sequence_encoder.training.distillation.report import Report
from sequence_encoder.training.distillation.run import parse
from sequence_encoder.training.distillation.student import make_student
from sequence_encoder.training.distillation.teacher import load_teacher
from sequence_encoder.training.distillation.teacher_outputs import TeacherVectors

pytestmark = pytest.mark.since("pyarrow", "26", "writes null vectors")
TEXTS = [" ".join(random.Random(seed).choices(WORDS, k=1 + seed % 12)) for seed in range(160)]
FAST: dict[str, Any] = {
    "max_steps": 24,
    "max_tokens": 128,
    "learning_rate": 5e-3,
    "use_cpu": True,
    "bf16": False,
    "eval_steps": 0.5,
    "save_steps": 0.5,
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, randomize: Callable[..., Any]) -> Path:
    folder = tmp_path_factory.mktemp("teachers")
    fields = {"num_hidden_layers": 4, "hidden_dropout": 0.1, "cls_token_id": 2, "sep_token_id": 3}
    encoder = save_encoder(folder / "encoder", **fields)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = randomize(SequenceEncoderModel.from_pretrained(encoder))
    save_sentence_transformer(folder / "teacher", model, tokenizer, pooling="mean", normalize_embeddings=True)
    return folder / "teacher"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    pairs = zip(TEXTS, TEXTS[3:] + TEXTS[:3], strict=True)
    rows = [{"text": text, "second": second, "label": seed % 3} for seed, (text, second) in enumerate(pairs)]
    rows += [{"text": None, "second": "", "label": 0}, {"text": "", "second": "", "label": 0}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def run(teacher: Path, corpus: Path, output: Path, **options: Any) -> Report:
    return distill(teacher, corpus, output, **{**FAST, **options})


def test_a_student_with_fewer_layers_learns_the_vectors_of_its_teacher(
    teacher: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled = tmp_path / "labelled.csv"
    labelled.write_text("text,about\n" + "".join(f"{text},{'cat' in text}\n" for text in TEXTS))
    report = run(teacher, corpus, tmp_path / "student", layers=2, test_file=labelled, label_column="about")
    assert report.labelled["metric"] == "accuracy of a linear classifier"
    assert min(report.labelled["student"], report.labelled["teacher"]) > 0.6
    assert report.quality["cosine"] > 0.9
    assert report.layers == {"teacher": 4, "student": 2}
    assert (report.texts, report.held_out) == (161, 9)
    read = re.search(r"^152 texts of ([\d,]+) tokens to learn from", capsys.readouterr().out, re.M)
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    # Some texts also have the words of others.
    assert read is not None
    assert int(read[1].replace(",", "")) > sum(map(len, tokenizer(TEXTS)["input_ids"]))
    student = SentenceTransformer(str(tmp_path / "student"))
    vectors, wanted = student.encode(TEXTS), SentenceTransformer(str(teacher)).encode(TEXTS)
    assert np.mean(np.sum(vectors * wanted, axis=1)) == pytest.approx(report.quality["cosine"], abs=0.05)
    config = SequenceEncoderModel.from_pretrained(tmp_path / "student").config
    assert (config.num_hidden_layers, config.hidden_dropout) == (2, 0.1)
    card = (tmp_path / "student" / "README.md").read_text()
    assert "Distilled from teacher on 161 texts without labels from texts.jsonl" in card
    assert "times as fast" in card
    assert 'SentenceTransformer("student", trust_remote_code=True)' in card
    assert "On 160 labelled texts, the accuracy of a linear classifier is" in card
    assert not list(tmp_path.glob(".*"))


def test_a_narrower_student_learns_the_directions_of_the_vectors(teacher: Path, corpus: Path, tmp_path: Path) -> None:
    report = run(teacher, corpus, tmp_path / "student", layers=4, hidden_size=16, max_steps=40)
    assert report.quality["cosine"] > 0.8
    config = SequenceEncoderModel.from_pretrained(tmp_path / "student").config
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (16, 1, 24)
    vectors, wanted = (SentenceTransformer(str(each)).encode(TEXTS) for each in (tmp_path / "student", teacher))
    assert vectors.shape == (len(TEXTS), 16)
    similarities = [(each @ each.T)[np.triu_indices(len(TEXTS), 1)] for each in (vectors, wanted)]
    assert np.corrcoef(similarities)[0, 1] > 0.4


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrower sentence encoder whose tokenizer splits most words."""
    folder = tmp_path_factory.mktemp("pretrained")
    tokenizer = SequenceEncoderTokenizer.train_from_iterator(
        ["abcdefghiknoprstuwy?", *WORDS[:6]], vocab_size=60, show_progress=False
    )
    fields = {"hidden_size": 16, "num_attention_heads": 1, "hidden_dropout": 0.2, "vocab_size": len(tokenizer)}
    fields |= {"pad_token_id": tokenizer.pad_token_id, "cls_token_id": 2, "sep_token_id": 3}
    model = SequenceEncoderModel.from_pretrained(save_encoder(folder / "encoder", **fields))
    save_sentence_transformer(folder / "small", model, tokenizer, pooling="mean", normalize_embeddings=True)
    return folder / "small"


def test_a_pretrained_student_learns_with_its_own_tokenizer(
    teacher: Path, pretrained: Path, corpus: Path, tmp_path: Path
) -> None:
    report = run(teacher, corpus, tmp_path / "student", student=str(pretrained), max_steps=240)
    assert report.layers == {"teacher": 4, "student": 2}
    vectors = [SentenceTransformer(str(each)).encode(TEXTS) for each in (teacher, pretrained, tmp_path / "student")]
    assert vectors[2].shape == (len(TEXTS), 16)
    cosines = [(each @ each.T)[np.triu_indices(len(TEXTS), 1)] for each in vectors]
    _, before, after = np.corrcoef(cosines)[0]
    assert after > before + 0.1
    assert report.quality["correlation"] == pytest.approx(after, abs=0.2)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(pretrained).get_vocab()
    assert SequenceEncoderModel.from_pretrained(tmp_path / "student").config.hidden_dropout == 0.2
    assert "The student started from small." in (tmp_path / "student" / "README.md").read_text()


@pytest.mark.parametrize("swapped", [False, True])
def test_a_student_that_is_larger_than_its_teacher_is_pointed_out(
    teacher: Path, pretrained: Path, corpus: Path, capsys: pytest.CaptureFixture[str], swapped: bool
) -> None:
    large, small = str(teacher), str(pretrained)
    models = [small, "--student", large] if swapped else [large, "--student", small]
    load_teacher(parse([*models, "--corpus", str(corpus), "--output_dir", "student"]))
    assert (f"--student {large} has" in capsys.readouterr().out) == swapped


@pytest.mark.parametrize("reads", [True, False], ids=["texts", "no texts"])
def test_a_static_student_is_a_table(teacher: Path, corpus: Path, tmp_path: Path, reads: bool) -> None:
    options = {"static": True, "dim": 16, "use_cpu": True, "bf16": False}
    options |= {"corpus": corpus} if reads else {}
    report = distill(model=teacher, output_dir=tmp_path / "student", **options)
    assert report.layers["student"] == 0
    vectors = SentenceTransformer(str(tmp_path / "student")).encode(TEXTS)
    assert vectors.shape == (len(TEXTS), 16)
    assert ("161 texts without labels" in (tmp_path / "student" / "README.md").read_text()) == reads


@pytest.mark.parametrize("idle", [(1, 2), (2, 3)])
def test_a_student_keeps_the_layers_that_matter(teacher: Path, corpus: Path, tmp_path: Path, idle: tuple[int]) -> None:
    shutil.copytree(teacher, tmp_path / "teacher")
    weights = load_file(teacher / "model.safetensors")
    for name, weight in weights.items():
        if name.startswith(tuple(f"layers.{layer}." for layer in idle)):
            weight.mul_("o_proj" not in name and "down_proj" not in name)
    save_file(weights, tmp_path / "teacher" / "model.safetensors", {"format": "pt"})
    report = run(tmp_path / "teacher", corpus, tmp_path / "student", layers=2, max_steps=1, learning_rate=1e-12)
    assert report.quality["cosine"] > 0.999
    after = load_file(tmp_path / "student" / "model.safetensors")
    kept = [layer for layer in range(4) if layer not in idle]
    for index, layer in enumerate(kept):
        name = "self_attn.qkv_proj.weight"
        assert after[f"layers.{index}.{name}"].allclose(weights[f"layers.{layer}.{name}"], atol=1e-6)


@pytest.mark.parametrize("is_pretrained", [False, True], ids=["layers", "pretrained"])
def test_a_run_that_was_stopped_continues_with_the_same_result(
    teacher: Path,
    pretrained: Path,
    corpus: Path,
    tmp_path: Path,
    is_pretrained: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options: dict[str, Any] = {"student": str(pretrained)} if is_pretrained else {}
    monkeypatch.setattr("sequence_encoder.training.distillation.distill._SHARD_ROWS", 50)
    run(teacher, corpus, tmp_path / "whole", **options)
    saved, computed = BestWeights.on_save, TeacherVectors.compute

    def stop_at_second_shard(self: TeacherVectors, chunk: Any, *given: Any) -> Any:
        if chunk.shard == 1:
            raise KeyboardInterrupt
        return computed(self, chunk, *given)

    with monkeypatch.context() as patched:
        patched.setattr(TeacherVectors, "compute", stop_at_second_shard)
        with pytest.raises(KeyboardInterrupt, match="keeps what is computed"):
            run(teacher, corpus, tmp_path / "student", **options)

    def stop(*args: Any, **kwargs: Any) -> None:
        saved(*args, **kwargs)
        if args[2].global_step >= 12:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(BestWeights, "on_save", stop)
        with pytest.raises(KeyboardInterrupt, match="keeps what is computed"):
            run(teacher, corpus, tmp_path / "student", **options, resume=True)
    assert "1 complete shard is in" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="contains an interrupted run; continue it with --resume"):
        run(teacher, corpus, tmp_path / "student", **options)
    with pytest.raises(UsageError, match=r"these differ: seed \(was 0, is 1\)"):
        run(teacher, corpus, tmp_path / "student", **options, seed=1, resume=True)
    capsys.readouterr()
    run(teacher, corpus, tmp_path / "student", **options, resume=True)
    assert "rows of" not in capsys.readouterr().out, "The teacher computed its outputs again."
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "student")]
    for name, weight in weights[0].items():
        assert weight.equal(weights[1][name]), name
    run(teacher, corpus, tmp_path / "student", **options, resume=True)
    assert "is finished" in capsys.readouterr().out


KINDS: dict[str, tuple[type[Any], dict[str, Any], dict[str, Any]]] = {
    "classifier": (SequenceEncoderForSequenceClassification, {"num_labels": 3}, {}),
    "several labels": (
        SequenceEncoderForSequenceClassification,
        {"num_labels": 4, "problem_type": "multi_label_classification"},
        {},
    ),
    "cross-encoder": (SequenceEncoderForSequenceClassification, {"num_labels": 1}, {"text_pair_column": "second"}),
    "tagger": (SequenceEncoderForTokenClassification, {"num_labels": 4}, {}),
    "narrower classifier": (SequenceEncoderForSequenceClassification, {"num_labels": 3}, {"hidden_size": 16}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_students_of_models_with_a_head_learn_its_answers(
    teacher: Path, corpus: Path, tmp_path: Path, kind: str, randomize: Callable[..., Any]
) -> None:
    model_class, fields, options = KINDS[kind]
    if kind == "classifier":
        fields = {**fields, "logit_calibration": [{"scale": [2.0, 1.0, 1.0], "offset": [0.0, 1.0, 0.0]}]}
        options = {"test_file": corpus, "label_column": "label"}
    config = SequenceEncoderConfig.from_pretrained(teacher, **fields)
    original = randomize(model_class(config))
    original.save_pretrained(tmp_path / "original")
    AutoTokenizer.from_pretrained(teacher).save_pretrained(tmp_path / "original")
    report = run(tmp_path / "original", corpus, tmp_path / "trained", layers=2, max_steps=30, **options)
    student = model_class.from_pretrained(tmp_path / "trained")
    assert (student.config.num_hidden_layers, student.config.logit_calibration) == (2, None)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "trained")
    inputs = tokenizer(*[TEXTS] * (2 if kind == "cross-encoder" else 1), padding=True, return_tensors="pt")
    real = inputs["attention_mask"].bool() if kind == "tagger" else slice(None)
    models = {"teacher": original, "untrained": make_student(original, [0, 3]), "student": student}
    with torch.no_grad():
        answers = {name: model.eval()(**inputs).logits[real].flatten() for name, model in models.items()}
    correlations = np.corrcoef(np.stack(list(answers.values())))[0]
    assert correlations[2] > max(0.6, correlations[1] + 0.1)
    (metric,) = report.quality
    if kind == "classifier":
        predicted = answers["student"].reshape(-1, 3).argmax(1).numpy()
        wanted = np.array([seed % 3 for seed in range(len(TEXTS))])
        assert report.labelled["student"] == pytest.approx(np.mean(predicted == wanted), abs=0.02)
    assert metric in (tmp_path / "trained" / "README.md").read_text()


@pytest.mark.parametrize("kind", ["classifier", "cross-encoder"])
@pytest.mark.parametrize("started_from", ["pretrained", "static", "bert"])
def test_a_pretrained_student_of_a_model_with_a_head_gets_a_new_one(
    teacher: Path,
    pretrained: Path,
    bert_folder: Path,
    corpus: Path,
    tmp_path: Path,
    kind: str,
    started_from: str,
    randomize: Callable[..., Any],
) -> None:
    _, fields, options = KINDS[kind]
    fields = {**fields, "id2label": {index: f"answer {index}" for index in range(fields["num_labels"])}}
    config = SequenceEncoderConfig.from_pretrained(teacher, **fields)
    activation = {"activation_fn": "torch.nn.modules.linear.Identity"}
    if kind == "cross-encoder":
        config.sentence_transformers = activation
    randomize(SequenceEncoderForSequenceClassification(config)).save_pretrained(tmp_path / "original")
    AutoTokenizer.from_pretrained(teacher).save_pretrained(tmp_path / "original")
    start = {"pretrained": pretrained, "bert": bert_folder}.get(started_from, tmp_path / "static")
    # It has a pooler, which is not used with the mean of its folder.
    BertModel(BertConfig.from_pretrained(bert_folder)).save_pretrained(bert_folder)
    if started_from == "static":
        encoder, tokenizer = SequenceEncoderModel.from_pretrained(teacher), AutoTokenizer.from_pretrained(teacher)
        for part in distill_static(encoder, tokenizer):
            part.save_pretrained(start)
    report = run(tmp_path / "original", corpus, tmp_path / "trained", student=str(start), max_steps=60, **options)
    student = SequenceEncoderForSequenceClassification.from_pretrained(tmp_path / "trained")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "trained")
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(start).get_vocab()
    assert student.config.id2label == config.id2label
    assert getattr(student.config, "sentence_transformers", {}) == (activation if kind == "cross-encoder" else {})
    assert report.layers["student"] == (0 if started_from == "static" else 2)
    (quality,) = report.quality.values()
    assert quality > (0.4 if started_from != "bert" else 0)


def test_a_good_student_is_averaged_with_its_start(teacher: Path, corpus: Path, tmp_path: Path) -> None:
    options = {"student": str(teacher), "max_steps": 2, "learning_rate": 1e-3, "eval_strategy": "no"}
    report = run(teacher, corpus, tmp_path / "student", **options)
    assert report.quality["correlation"] > 0.98
    assert "average of those before and after the training" in (tmp_path / "student" / "README.md").read_text()
    before, after = (load_file(folder / "model.safetensors") for folder in (teacher, tmp_path / "student"))
    steps = [float((after[name] - weight).abs().max()) for name, weight in before.items()]
    # Two steps of AdamW, the first of which has a lower rate, and half of them.
    assert 0 < max(steps) < 0.9e-3


def test_a_student_for_which_the_mean_is_bad_stays_as_trained(
    teacher: Path, pretrained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(teacher, corpus, tmp_path / "student", student=str(pretrained), max_steps=60, learning_rate=5e-2)
    assert "The student is the model after it" in capsys.readouterr().out


def test_cosines_keep_their_precision_under_autocast(teacher: Path) -> None:
    model, tokenizer = SequenceEncoderModel.from_pretrained(teacher), AutoTokenizer.from_pretrained(teacher)
    objective = SimilarityObjective(model.prepare_encoding(tokenizer), [16])
    found, wanted = torch.randn(2, 12, 32).add(4).unbind()
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective.loss(found, wanted, None)
    assert loss.item() == objective.loss(found, wanted, None).item() > 0


def test_the_teacher_and_the_student_keep_to_a_budget(
    teacher: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(teacher, corpus, tmp_path / "student", max_steps=-1, seconds=1, num_train_epochs=30)
    assert report.texts == 161
    assert 10 <= report.steps < 330
    assert "steps within 1 seconds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"layers": 4}, "--layers must be less than 4, the number of layers of the teacher, got 4"),
        ({"layers": 5, "hidden_size": 16}, "--layers must be at most 4"),
        ({"hidden_size": 24}, r"--hidden_size must be a multiple of 16 \(whole heads\) below 32"),
        ({"text_pair_column": "second"}, "--text_pair_column second needs a classifier or a cross-encoder"),
        ({"matryoshka_dims": [64]}, "--matryoshka_dims must be at most 32, got 64"),
        ({"max_length": 2}, "max_length must be at least 3, got 2"),
        ({"student": "small", "matryoshka_dims": [32]}, "--matryoshka_dims must be at most 16, got 32"),
        ({"student": "encoder"}, "without modules.json, and --student takes sentence encoders"),
        ({"student": "small", "hidden_size": 16}, "--hidden_size has no effect with --student"),
        ({"student": "small", "static": True}, "--static has no effect with --student"),
    ],
)
def test_options_that_do_not_fit_the_teacher_are_refused_before_anything_is_computed(
    teacher: Path, pretrained: Path, corpus: Path, tmp_path: Path, options: dict[str, Any], error: str
) -> None:
    if "student" in options:
        folders = {"small": pretrained, "encoder": teacher.parent / "encoder"}
        options = {**options, "student": str(folders[options["student"]])}
    with pytest.raises(UsageError, match=error):
        run(teacher, corpus, tmp_path / "student", **options)
    assert not list(tmp_path.iterdir())


def test_an_encoder_without_a_recipe_is_refused(teacher: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"without modules.json, and distill takes sentence encoders, classifiers"):
        run(teacher.parent / "encoder", corpus, tmp_path / "student")
    assert not list(tmp_path.iterdir())
