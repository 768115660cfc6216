"""Adaptive temperature scaling: a temperature for each text, which depends on the entropy of its prediction."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoModelForSequenceClassification,
)

from sequence_encoder import (
    SequenceEncoderConfig,
    SequenceEncoderForSequenceClassification,
    calibrate,
    convert,
    correct_label_shift,
)
from sequence_encoder.command_line import UsageError
from sequence_encoder.evaluation.calibration.scaling import (
    AdaptiveScaling,
    LinearScaling,
    fit_adaptive,
    fit_temperature,
    multi_label_loss,
    single_label_loss,
)
from sequence_encoder.modeling.calibration.calibration import calibration_of
from sequence_encoder.tests.fixtures.calibrated_models import (
    HOME,
    TEMPERATURE,
    by_temperature,
    examples_with,
    logits_of,
    overconfident,
    texts_of,
    tokenizer_of_words,
)

Build = Callable[..., Any]
# The model is much too sure where it is unsure, and hardly where it is sure.
TRUTH = AdaptiveScaling(0.8, 4.0, (-5.0, 0.0), several_labels=False)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokenizer_of_words()


@pytest.fixture(scope="module")
def before(tiny_config: Build, randomize: Build, tokenizer: Any) -> Any:
    return overconfident(tiny_config, randomize, tokenizer)


@pytest.fixture(scope="module")
def calibrated(before: Any, tokenizer: Any) -> Any:
    model = copy.deepcopy(before)
    calibrate(model, tokenizer, examples_with(model, tokenizer, 1000, scaled=TRUTH))
    return model


def test_the_temperatures_are_found_and_keep_all_predictions(before: Any, calibrated: Any, tokenizer: Any) -> None:
    scaling = calibrated.calibration.scaling
    assert scaling.pop("method") == "adaptive"
    assert calibrated.config.logit_calibration == [scaling]
    texts = texts_of(HOME, 300, seed=7)
    logits, found = (logits_of(model, tokenizer, texts) for model in (before, calibrated))
    assert found.argmax(-1).equal(logits.argmax(-1))
    classes = torch.tensor(
        [before.config.label2id[each["label"]] for each in examples_with(before, tokenizer, 1000, scaled=TRUTH)]
    )
    single = fit_temperature(logits_of(before, tokenizer, texts_of(HOME, 1000)), classes, single_label_loss)
    true = TRUTH(logits).softmax(-1)
    error, error_of_one = (float((each.softmax(-1) - true).abs().mean()) for each in (found, single(logits)))
    assert error < 0.02
    assert error < error_of_one / 2


def test_one_temperature_is_chosen_where_it_is_better(before: Any, tokenizer: Any) -> None:
    logits = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)) * 5
    drawn = torch.multinomial(by_temperature(logits).softmax(-1), 1, generator=torch.Generator().manual_seed(1))[:, 0]
    found = fit_adaptive(logits, drawn, single_label_loss)
    assert isinstance(found, LinearScaling)
    torch.testing.assert_close(found(logits), logits / TEMPERATURE, rtol=0.15, atol=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folder_keeps_it(calibrated: Any, tokenizer: Any, tmp_path: Path, dtype: torch.dtype) -> None:
    calibrated.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=dtype)
    assert calibration_of(loaded) is not None
    texts = texts_of(HOME, 20, seed=7)
    logits = logits_of(loaded, tokenizer, texts)
    assert logits.dtype == dtype
    expected = logits_of(calibrated, tokenizer, texts)
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(logits.float().softmax(-1), expected.softmax(-1), rtol=0, atol=tolerance)
    # Another temperature is not what was calibrated.
    loaded.config.logit_calibration[0]["temperature_bias"] += 1
    assert calibration_of(loaded) is None


def test_a_surer_label_keeps_the_higher_probability() -> None:
    logits = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0)) * 5
    # People are wrong about every tenth label, so that sure answers are wrong as often as others.
    drawn = torch.bernoulli(0.1 + 0.8 * (logits > 0).float(), generator=torch.Generator().manual_seed(1))
    found = fit_adaptive(logits, drawn, multi_label_loss)
    assert found(logits).argmax(-1).equal(logits.argmax(-1))
    margins = torch.linspace(0, 30, 100)
    assert (found(margins[:, None]).diff(dim=0) > 0).all()


def test_temperatures_beyond_all_numbers_are_refused_or_finite() -> None:
    logits = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)) * 30
    found = fit_adaptive(logits, logits.argmin(-1), single_label_loss)
    assert found(logits).isfinite().all()
    with pytest.raises(UsageError, match="no temperatures fit these examples"):
        fit_adaptive(logits * torch.inf, logits.argmin(-1), single_label_loss)


THREE = {"id2label": dict(enumerate("abc")), "label2id": {name: place for place, name in enumerate("abc")}}


@pytest.mark.parametrize(
    "fields",
    [
        {"num_labels": 3},
        THREE,
        {"num_labels": 3, **THREE},
        {"num_labels": 1, "problem_type": "regression"},
        {"problem_type": "multi_label_classification"},
    ],
    ids=str,
)
def test_a_head_for_something_else_does_not_get_it(calibrated: Any, tmp_path: Path, fields: dict[str, Any]) -> None:
    model = copy.deepcopy(calibrated)
    # Its numbers for each label fit no other head.
    correct_label_shift(model, [0.5, 0.5], [0.8, 0.2])
    model.save_pretrained(tmp_path)
    other = AutoModelForSequenceClassification.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **fields)
    assert other.config.logit_calibration is None
    same = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=2, problem_type=None)
    assert same.config.logit_calibration == model.config.logit_calibration


def test_later_calibrations_and_corrections_come_after_it(calibrated: Any, tokenizer: Any) -> None:
    model, texts = copy.deepcopy(calibrated), texts_of(HOME, 50, seed=7)
    before = logits_of(model, tokenizer, texts).softmax(-1)
    correct_label_shift(model, [0.5, 0.5], [0.8, 0.2])
    after = logits_of(model, tokenizer, texts).softmax(-1)
    torch.testing.assert_close(after[:, 0] / after[:, 1], 4 * before[:, 0] / before[:, 1], rtol=1e-4, atol=1e-4)
    assert calibration_of(model) is None
    calibrate(model, tokenizer, examples_with(model, tokenizer, 300), scaling="temperature")
    temperature = model.calibration.scaling["temperature"]
    assert temperature == pytest.approx(TEMPERATURE, rel=0.25)
    again = logits_of(model, tokenizer, texts)
    torch.testing.assert_close(again.softmax(-1), (after.log() / temperature).softmax(-1))
    assert len(model.config.logit_calibration) == 2
    calibrate(model, tokenizer, examples_with(model, tokenizer, 300), scaling="adaptive")
    assert len(model.config.logit_calibration) == 3


def test_a_family_that_cannot_express_it_is_refused(calibrated: Any) -> None:
    with pytest.raises(ValueError, match=r"logit_calibration is not supported: .* with --scaling temperature"):
        convert(calibrated, to="bert")
    assert isinstance(convert(calibrated, to="bert", base_model=True).config.hidden_size, int)


def test_steps_that_make_no_sense_are_refused(tiny_config: Build) -> None:
    step = {"temperature_weight": 0.5, "temperature_bias": 1.0, "log_entropy_range": [-5.0, 0.0]}
    one = {"scale": [1.0, 1.0], "offset": [0.0, 0.0]}
    for steps in (
        [{}],
        [{**step, "scale": [1.0, 1.0]}],
        [{**step, "temperature_bias": float("nan")}],
        [{**step, "log_entropy_range": [0.0, -5.0]}],
        [{**step, "log_entropy_range": -5.0}],
        [{**step, "temperature_bias": -120.0}],
        [{**step, "temperature_weight": 10**400}],
        [step, {**one, "offset": [0.0]}],
        [{**one, "scale": [True, 1.0]}],
    ):
        with pytest.raises(StrictDataclassError, match="logit_calibration must be a list of steps"):
            tiny_config("bert", logit_calibration=steps)
    with pytest.raises(StrictDataclassError, match="logit_calibration must be None with problem_type='regression'"):
        tiny_config("bert", logit_calibration=[step], problem_type="regression")
    assert SequenceEncoderForSequenceClassification(tiny_config("bert", logit_calibration=[step, one]))
    assert SequenceEncoderConfig().logit_calibration is None
