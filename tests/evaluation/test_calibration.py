"""Calibration: the scaling of scores, sets of labels, unfamiliar texts, and what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, pipeline

from sequence_encoder import SequenceEncoderForSequenceClassification, calibrate, model_card
from sequence_encoder.__main__ import main
from sequence_encoder.evaluation.calibration import calibrating
from sequence_encoder.hub.card.calibration_section import card_section
from sequence_encoder.hub.card.sections import replace_section
from sequence_encoder.modeling.calibration.layer_vectors import LayerVectors
from sequence_encoder.saving.card_mark import is_unedited, save_card
from sequence_encoder.tests.fixtures.calibrated_models import (
    AWAY,
    HOME,
    TEMPERATURE,
    examples_with,
    logits_of,
    overconfident,
    texts_of,
    tokenizer_of_words,
)

Build = Callable[..., Any]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokenizer_of_words()


@pytest.fixture(scope="module")
def before(tiny_config: Build, randomize: Build, tokenizer: Any) -> Any:
    return overconfident(tiny_config, randomize, tokenizer)


@pytest.fixture(scope="module")
def examples(before: Any, tokenizer: Any) -> list[dict[str, Any]]:
    return examples_with(before, tokenizer, 400)


@pytest.fixture(scope="module")
def calibrated(before: Any, tokenizer: Any, examples: Any) -> tuple[Any, Any]:
    model = copy.deepcopy(before)
    return model, calibrate(model, tokenizer, examples, scaling="temperature")


@pytest.fixture(scope="module")
def folder(calibrated: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated")
    calibrated[0].save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# The scores


def test_the_temperature_is_found_and_becomes_a_part_of_the_weights(
    before: Any, calibrated: Any, tokenizer: Any
) -> None:
    model, report = calibrated
    scaling = report.calibration.scaling
    assert scaling["method"] == "temperature"
    assert scaling["temperature"] == pytest.approx(TEMPERATURE, rel=0.25)
    texts = texts_of(HOME, 20, seed=7)
    expected = logits_of(before, tokenizer, texts) / scaling["temperature"]
    torch.testing.assert_close(logits_of(model, tokenizer, texts), expected, rtol=1e-4, atol=1e-4)


def test_a_model_that_is_right_on_all_examples_does_not_become_certain(
    before: Any, tokenizer: Any, examples: Any
) -> None:
    texts = [each["text"] for each in examples[:50]]
    answers = logits_of(before, tokenizer, texts).argmax(-1).tolist()
    given = [{"text": text, "label": f"kind {answer}"} for text, answer in zip(texts, answers, strict=True)]
    for scaling in ("temperature", "adaptive", "auto"):
        after = calibrate(copy.deepcopy(before), tokenizer, given, scaling=scaling).after.metrics()
        # About as sure as if the next answer were a mistake.
        assert 0.94 < after["mean_confidence"] < 0.99


def test_temperatures_that_do_not_depend_on_the_text_are_a_single_one(
    before: Any, tokenizer: Any, examples: Any
) -> None:
    logits = logits_of(before, tokenizer, [each["text"] for each in examples])
    answers, confident = logits.argmax(-1), logits.softmax(-1).amax(-1)
    # A model that is wrong where it is confident would need temperatures that fall as the entropy grows.
    wrong = (answers + (confident > confident.median())) % logits.shape[1]
    given = [
        {"text": each["text"], "label": f"kind {label}"} for each, label in zip(examples, wrong.tolist(), strict=True)
    ]
    model = copy.deepcopy(before)
    assert calibrate(model, tokenizer, given, scaling="adaptive").calibration.scaling["method"] == "temperature"
    assert model.config.logit_calibration is None


def test_the_report_has_metrics_of_answers_before_and_after(calibrated: Any, tmp_path: Path) -> None:
    report = calibrated[1]
    metrics = report.calibration.facts["metrics"]
    assert metrics["after"]["accuracy"] == metrics["before"]["accuracy"]
    for worse in ("expected_calibration_error", "answer_brier_score"):
        assert metrics["after"][worse] < metrics["before"][worse]
    assert "temperature" in str(report)
    report.plot(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_vector_scaling_is_chosen_where_it_is_better(tiny_config: Build, randomize: Build, tokenizer: Any) -> None:
    model = overconfident(tiny_config, randomize, tokenizer)
    examples = examples_with(model, tokenizer, 300)
    texts = [each["text"] for each in examples]
    right = logits_of(model, tokenizer, texts)
    with torch.no_grad():
        model.classifier.bias[0] += 5
    report = calibrate(model, tokenizer, examples)
    assert report.calibration.scaling["method"] == "vector"
    assert report.after.metrics()["accuracy"] > report.before.metrics()["accuracy"] + 0.05
    difference = (logits_of(model, tokenizer, texts) - right / TEMPERATURE).diff(dim=-1)
    assert float(difference.abs().mean()) < 1


def test_a_second_calibration_records_the_first(
    calibrated: Any, tokenizer: Any, examples: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(calibrating, "_MOST_EXAMPLES", 150)
    again = copy.deepcopy(calibrated[0])
    facts = calibrate(again, tokenizer, examples, scaling="temperature").calibration.facts
    assert facts["earlier_scaling"] == calibrated[1].calibration.scaling
    assert again.calibration.scaling["temperature"] == pytest.approx(1, abs=0.3)
    # It has seen no more examples than are useful.
    assert facts["texts"] == 150


# The sets and the p-values


@pytest.mark.parametrize("coverage", [0.9, 0.95])
def test_sets_contain_the_true_label_as_often_as_asked(
    before: Any, calibrated: Any, tokenizer: Any, coverage: float
) -> None:
    model, report = calibrated
    fresh = examples_with(before, tokenizer, 600, seed=1)
    probabilities = logits_of(model, tokenizer, [each["text"] for each in fresh]).softmax(-1)
    inside = report.calibration.sets.contain(probabilities, coverage)
    true = torch.tensor([model.config.label2id[each["label"]] for each in fresh])
    assert float(inside[torch.arange(600), true].float().mean()) == pytest.approx(coverage, abs=0.05)
    assert inside.any(-1).all()


def p_values(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    found = model.calibration.unfamiliarity
    vectors = LayerVectors([found.layer])
    with torch.no_grad():
        model(**tokenizer(texts, padding=True, return_tensors="pt"), layer_vectors=vectors)
    return found.p_values(found.score(vectors[found.layer]))


def test_p_values_are_uniform_at_home_and_small_elsewhere(calibrated: Any, tokenizer: Any) -> None:
    home = p_values(calibrated[0], tokenizer, texts_of(HOME, 600, seed=2))
    for p in (0.1, 0.5):
        assert float((home <= p).float().mean()) == pytest.approx(p, abs=0.09)
    assert p_values(calibrated[0], tokenizer, texts_of(AWAY, 50)).median() < 0.05


def test_p_values_of_few_examples_are_not_too_small(before: Any, tokenizer: Any, examples: Any) -> None:
    model = copy.deepcopy(before)
    calibrate(model, tokenizer, examples[:40])
    home = p_values(model, tokenizer, texts_of(HOME, 400, seed=3))
    assert float((home <= 0.1).float().mean()) < 0.15


@pytest.mark.parametrize("away", [False, True])
def test_the_score_of_unfamiliar_texts_is_chosen_on_other_texts_or_classes(
    tiny_config: Build, randomize: Build, tokenizer: Any, away: bool
) -> None:
    model = overconfident(tiny_config, randomize, tokenizer, labels=3)
    others = texts_of(AWAY, 30) if away else None
    report = calibrate(model, tokenizer, examples_with(model, tokenizer, 90), away=others)
    chosen = report.calibration.facts["choice_of_unfamiliarity"]
    assert chosen["chosen_on"] == ("other texts" if away else "held-out classes")
    assert chosen["auroc"] >= chosen["auroc_of_default"] - 0.01
    assert not away or chosen["auroc"] > 0.95


def test_several_labels_have_sets_with_the_expected_share_of_true_labels(
    tiny_config: Build, randomize: Build, tokenizer: Any
) -> None:
    kind = "multi_label_classification"
    model = overconfident(tiny_config, randomize, tokenizer, labels=4, problem_type=kind)
    names = list(model.config.id2label.values())

    def examples(seed: int) -> list[dict[str, Any]]:
        texts = texts_of(HOME, 300, seed)
        probabilities = (logits_of(model, tokenizer, texts) / TEMPERATURE).sigmoid()
        drawn = torch.bernoulli(probabilities, generator=torch.Generator().manual_seed(seed)).bool().tolist()
        found = [
            {"text": text, "labels": [name for name, is_true in zip(names, row, strict=True) if is_true]}
            for text, row in zip(texts, drawn, strict=True)
        ]
        # Texts without a label do not count as covered.
        return [*found, *({"text": text, "labels": []} for text in texts)]

    home, fresh = examples(0), examples(1)
    few = [*home[:18], *({**each, "labels": []} for each in home)]
    refused(lambda: calibrate(model, tokenizer, few), "coverages=0.95 needs at least 19 texts with a label")
    report = calibrate(model, tokenizer, home)
    metrics = report.calibration.facts["metrics"]
    assert metrics["after"]["expected_calibration_error"] < metrics["before"]["expected_calibration_error"]
    fresh = [each for each in fresh if each["labels"]]
    probabilities = logits_of(model, tokenizer, [each["text"] for each in fresh]).sigmoid()
    inside = report.calibration.sets.contain(probabilities, 0.9, several_labels=True).tolist()
    shares = [
        sum(row[names.index(name)] for name in each["labels"]) / len(each["labels"])
        for each, row in zip(fresh, inside, strict=True)
    ]
    assert sum(shares) / len(shares) == pytest.approx(0.9, abs=0.05)


def test_sets_of_several_labels_have_what_the_model_answers(
    tiny_config: Build, randomize: Build, tokenizer: Any
) -> None:
    model = overconfident(tiny_config, randomize, tokenizer, labels=4, problem_type="multi_label_classification")
    names = list(model.config.id2label.values())
    texts = texts_of(HOME, 300, 0)
    answers = [
        {name for name, logit in zip(names, row, strict=True) if logit > 0}
        for row in logits_of(model, tokenizer, texts).tolist()
    ]
    # The model is always right, and sets with nothing but half of the labels would have a coverage of 50 %.
    examples = [{"text": text, "labels": sorted(found)} for text, found in zip(texts, answers, strict=True)]
    report = calibrate(model, tokenizer, examples, coverages=[0.5])
    assert report.calibration.facts["sets_on_held_out_texts"]["0.5"]["coverage"] == 1.0
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
    assert [set(found["labels"]) for found in classify(texts)] == answers


# The folder


def test_a_calibration_is_saved_and_loaded(calibrated: Any, folder: Path, tmp_path: Path) -> None:
    model = calibrated[0]
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert loaded.calibration.as_json() == model.calibration.as_json()
    torch.testing.assert_close(loaded.calibration.sets.scores, model.calibration.sets.scores)
    loaded.save_pretrained(tmp_path)
    for name in ("calibration.json", "calibration.safetensors"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_calibration_belongs_to_the_same_weights_in_another_dtype(folder: Path, dtype: torch.dtype) -> None:
    assert AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).calibration is not None


@pytest.mark.parametrize(
    "changed", ["classifier.bias", "model.layers.0.mlp_norm.weight", "model.layers.2.self_attn.qkv_proj.weight"]
)
def test_a_model_that_was_trained_further_does_not_claim_the_calibration(
    folder: Path, tmp_path: Path, changed: str
) -> None:
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    loaded.save_pretrained(tmp_path)
    with torch.no_grad():
        loaded.get_parameter(changed).add_(0.01)
    loaded.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("calibration.*"))
    for name in ("calibration.json", "calibration.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).calibration is None


@pytest.mark.parametrize("damage", ["{", '{"version": 2}', '{"version": 1, "task": "classification"}', "kind", "NaN"])
def test_damaged_files_are_ignored(folder: Path, tmp_path: Path, damage: str) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.save_pretrained(tmp_path)
    facts, tensors = tmp_path / "calibration.json", tmp_path / "calibration.safetensors"
    if damage == "kind":
        facts.write_text(facts.read_text().replace('"mahalanobis"', '"neighbours"'))
    elif damage == "NaN":
        found = load_file(tensors)
        save_file({**found, "sets.scores": found["sets.scores"] * torch.nan}, tensors)
    else:
        facts.write_text(damage)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path).calibration is None


def test_the_card_of_a_calibrated_model_describes_the_calibration(calibrated: Any, before: Any) -> None:
    assert "## Calibration" in model_card(calibrated[0], "user/model").content
    assert "## Calibration" not in model_card(before, "user/model").content


@pytest.mark.parametrize("edited", [False, True])
def test_a_model_without_a_calibration_removes_that_of_the_folder_from_the_card(
    before: Any, calibrated: Any, tmp_path: Path, edited: bool
) -> None:
    model, report = calibrated
    model.save_pretrained(tmp_path)
    card = tmp_path / "README.md"
    save_card(card, "# A model\n")
    replace_section(tmp_path, "calibration", card_section(report.calibration, with_picture=True))
    (tmp_path / "reliability.png").touch()
    if edited:
        card.write_text(card.read_text() + "Mine.\n")
    model.save_pretrained(tmp_path)
    assert "## Calibration" in card.read_text()
    before.save_pretrained(tmp_path)
    assert "alibration" not in card.read_text()
    assert ("Mine." in card.read_text(), is_unedited(card)) == (edited, not edited)
    assert not (tmp_path / "reliability.png").exists()


# The vectors of layers


@pytest.mark.parametrize("options", [{}, {"num_hidden_groups": 1}, {"norm_placement": "pre"}])
def test_vectors_of_layers_are_means_of_hidden_states(
    tiny_config: Build, randomize: Build, ragged: Build, options: dict[str, Any]
) -> None:
    model = randomize(SequenceEncoderForSequenceClassification(tiny_config("bert", num_labels=2, **options)))
    ids, mask = ragged([5, 2, 7])
    vectors = LayerVectors(range(4))
    with torch.no_grad():
        logits = model(ids, mask, layer_vectors=vectors).logits
        outputs = model(ids, mask, output_hidden_states=True)
        padded = LayerVectors([1])
        model(ids, mask, layer_vectors=padded, output_hidden_states=True)
    torch.testing.assert_close(logits, outputs.logits)
    torch.testing.assert_close(padded[1], vectors[1])
    # With norms before the layers, the last hidden state is normalised, and the vectors are not.
    for layer, states in enumerate(outputs.hidden_states[: 3 if options.get("norm_placement") else 4]):
        expected = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        torch.testing.assert_close(vectors[layer], expected, rtol=1e-4, atol=1e-5)


# The command


def test_the_command_writes_a_new_folder_with_a_card(
    before: Any, tokenizer: Any, examples: Any, tmp_path: Path, capsys: Any
) -> None:
    source, target, file, away = (tmp_path / name for name in ("source", "target", "home.jsonl", "away.txt"))
    before.save_pretrained(source)
    tokenizer.save_pretrained(source)
    file.write_text("\n".join(map(json.dumps, examples[:100])))
    away.write_text("\n".join(texts_of(AWAY, 20)))
    files = ["--calibration_file", str(file), "--unfamiliar_file", str(away)]
    main(["calibrate", str(source), *files, "--output_dir", str(target)])
    assert "expected calibration error" in capsys.readouterr().out
    assert AutoModelForSequenceClassification.from_pretrained(target).calibration is not None
    assert AutoModelForSequenceClassification.from_pretrained(source).calibration is None
    card = (target / "README.md").read_text()
    assert "## Calibration" in card
    assert "(reliability.png)" in card
    assert (target / "reliability.png").is_file()


# What is refused


def refused(call: Callable[[], object], *said: str) -> None:
    with pytest.raises((ValueError, SystemExit)) as refusal:
        call()
    for part in said:
        assert part in str(refusal.value)


def test_examples_that_cannot_calibrate_are_refused(before: Any, tokenizer: Any, examples: Any) -> None:
    model = copy.deepcopy(before)
    one = [{**each, "label": "kind 0"} for each in examples]
    spaces = [*examples[:30], {"text": " \n", "label": "kind 1"}]
    unknown = [*examples[:30], {"text": "fox", "label": "kind 7"}]
    for given, options, said in (
        ([], {}, ["got none"]),
        (one, {}, ["at least two different labels", "'kind 0'"]),
        (examples[:10], {}, ["coverages=0.95", "at least 19", "there are 10"]),
        (examples, {"coverages": [1.5]}, ["coverages", "between 0 and 1", "1.5"]),
        (examples, {"coverages": []}, ["coverages", "at least one number", "got []"]),
        (examples, {"coverages": 0.9}, ["coverages must be a list", "got 0.9"]),
        (examples, {"max_length": 0}, ["max_length", "got 0"]),
        ("text", {}, ["list of dictionaries", "number 1 is 't'"]),
        (None, {}, ["list of dictionaries", "number 1 is None"]),
        (examples, {"scaling": "platt"}, ["scaling", "auto, temperature, adaptive, vector", "'platt'"]),
        (examples, {"coverages": [0.999]}, ["coverages=0.999", "at least 999"]),
        (spaces, {}, ["text_column", "row 30", "has a blank text"]),
        (unknown, {}, ["kind 7", "kind 0, kind 1"]),
        (examples, {"away": ["zebra"]}, ["away", "at least 10", "got 1"]),
        (examples, {"away": [" "] * 20}, ["away", "number 1"]),
    ):
        refused(lambda given=given, options=options: calibrate(model, tokenizer, given, **options), *said)
    assert model.calibration is None
    torch.testing.assert_close(model.classifier.weight, before.classifier.weight)


def test_models_that_cannot_be_calibrated_are_refused(
    tiny_config: Build, before: Any, tokenizer: Any, examples: Any
) -> None:
    size = {"vocab_size": len(tokenizer)}
    one = SequenceEncoderForSequenceClassification(tiny_config("bert", num_labels=1, **size))
    regression = SequenceEncoderForSequenceClassification(
        tiny_config("bert", num_labels=3, problem_type="regression", **size)
    )
    wrapped, broken = copy.deepcopy(before), copy.deepcopy(before)
    wrapped.classifier = torch.nn.Sequential(wrapped.classifier)
    broken.classifier.weight.data[0, 0] = torch.nan
    for model, said in (
        (one, ["for entities", "with 1 label."]),
        (regression, ["regression"]),
        (wrapped, ["plain Linear", "Sequential"]),
        (broken, ["NaN or infinite"]),
    ):
        refused(lambda model=model: calibrate(model, tokenizer, examples), *said)
