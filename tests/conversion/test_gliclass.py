"""A folder of GLiClass is converted without its package, and the converted model computes the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sequence_encoder import (
    SequenceEncoderForZeroShotClassification,
    SequenceEncoderModel,
    SequenceEncoderTokenizer,
    convert,
    predict_corpus,
)
from sequence_encoder.__main__ import main
from sequence_encoder.tests.fixtures.corpus_runs import table_of
from sequence_encoder.tests.fixtures.gliclass_folders import LABEL, SEPARATOR, save_gliclass

# The family of the encoder, fields of config.json, and the logits that gliclass 0.1.21 computes for the text below.
CASES: list[tuple[str, dict[str, Any], list[float]]] = [
    (
        "bert",
        {"normalize_features": True, "prompt_first": True, "hidden_size": 24},
        [0.150997, 0.157633, 0.150165],
    ),
    (
        "bert",
        {
            "pooling_strategy": "avg",
            "class_token_pooling": "average",
            "embed_class_token": False,
            "scorer_type": "mlp",
            "prompt_first": False,
        },
        [3.352618, 3.354708, 3.417105],
    ),
    (
        "deberta-v2",
        {"class_token_pooling": "average", "scorer_type": "weighted-dot", "prompt_first": True},
        [-7.134139, -7.294652, -6.991786],
    ),
    ("deberta-v2", {"scorer_type": "simple", "prompt_first": True}, [-2.559294, -3.470688, -5.022684]),
    (
        "modernbert",
        {"pooling_strategy": "avg", "embed_class_token": False, "prompt_first": True},
        [-3.005422, 3.285762, -2.657456],
    ),
]
TEXT = torch.arange(5, 24)[None]
TEXT[0, [1, 4, 6]], TEXT[0, 8] = LABEL, SEPARATOR


@pytest.mark.parametrize(("encoder", "fields", "logits"), CASES)
def test_logits_are_those_of_the_package(
    tmp_path: Path, encoder: str, fields: dict[str, Any], logits: list[float]
) -> None:
    folder = save_gliclass(tmp_path / "theirs", encoder, **fields)
    model = convert(folder)
    assert isinstance(model, SequenceEncoderForZeroShotClassification)
    assert model.config.problem_type == "multi_label_classification"
    with torch.no_grad():
        torch.testing.assert_close(model(TEXT).logits, torch.tensor([logits]), atol=1e-5, rtol=1e-5)
        encoded = convert(folder, base_model=True)
        assert type(encoded) is SequenceEncoderModel
        torch.testing.assert_close(encoded(TEXT).last_hidden_state, model.model(TEXT).last_hidden_state)


@pytest.mark.since("pyarrow", "26", "writes null vectors")
def test_the_commands_take_a_folder_of_gliclass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["the fox is red", "packing leaves the padding out of it"]
    tokenizer = SequenceEncoderTokenizer.train_from_iterator(texts, vocab_size=97, show_progress=False)
    theirs, ours = save_gliclass(tmp_path / "theirs", "bert", tokenizer, prompt_first=True), tmp_path / "ours"
    main(["inspect", str(theirs), "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert (facts["architecture"], facts["convertible"], facts["obstacle"]) == ("GLiClassModel", True, None)
    main(["convert", str(theirs), "--output_dir", str(ours)])
    said, warned = capsys.readouterr()
    assert "model of type" not in warned
    assert "Converted GLiClassModel to SequenceEncoderForZeroShotClassification." in said
    assert "in the package gliclass and is not run" in said
    model = SequenceEncoderForZeroShotClassification.from_pretrained(ours)
    assert facts["parameters"] == model.num_parameters()
    (tmp_path / "rows.txt").write_text("the fox is red\nthe padding\n")
    found = []
    for name, source in (("theirs", theirs), ("ours", ours)):
        output = tmp_path / f"of-{name}"
        options = {"corpus": tmp_path / "rows.txt", "scores": True, "device": "cpu", "dtype": "float32"}
        predict_corpus(model=source, output_dir=output, labels=["fox", "padding"], **options)
        found.append(table_of(output).to_pylist())
    assert found[0] == found[1]
    assert found[0][0]["label"] in ("fox", "padding")
    with pytest.raises(ValueError, match="bert has no counterpart of SequenceEncoderForZeroShotClassification"):
        convert(ours, to="bert")
    assert type(convert(ours, to="bert", base_model=True)).__name__ == "BertModel"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture_type": "bi-encoder"}, "architecture_type='bi-encoder' is not supported: it must be 'uni-enc"),
        ({"scorer_type": "hopfield"}, "scorer_type='hopfield' is not supported: it must be 'simple' or 'weighted-dot'"),
        ({"pooling_strategy": "max"}, "pooling_strategy='max' is not supported: it must be 'first' or 'avg'"),
        (
            {"use_lstm": True, "squeeze_layers": 1},
            "squeeze_layers=1 is not supported: .* use_lstm=True is not supported",
        ),
        ({"class_token_index": 99}, "class_token_index must be below the number of tokens, 99, got 99"),
        ({"projector_hidden_act": "mish"}, r"zero_shot_classification\['act'\] must be one of 'relu', .*, got 'mish'"),
        ({"encoder_config": None}, "encoder_config of .* must be the configuration of its encoder, got None"),
        ({"encoder_config": {"model_type": "llama"}}, "LlamaModel cannot be converted"),
    ],
)
def test_what_cannot_be_converted_is_named(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    folder = save_gliclass(tmp_path / "theirs", "bert")
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    with pytest.raises(ValueError, match=message):
        convert(folder)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    folder = save_gliclass(tmp_path / "theirs", "bert")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name, changed, message in (
        ("model.text_projector.linear_1.bias", None, "has no model.text_projector.linear_1.bias"),
        ("model.segment_embeddings.weight", torch.zeros(3, 24), "does not use: model.segment_embeddings.weight"),
        ("model.text_projector.linear_1.weight", torch.zeros(7, 24), r"text_projection.up_proj.weight .* \(7, 24\)"),
    ):
        given = {key: tensor for key, tensor in tensors.items() if key != name}
        save_file(given if changed is None else {**given, name: changed}, file)
        with pytest.raises(ValueError, match=message):
            convert(folder)
