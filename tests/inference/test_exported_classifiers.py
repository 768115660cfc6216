"""An exported classifier predicts, ranks and serves as the model does, from a folder and from the Hub."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from sequence_encoder import (
    SequenceEncoderConfig,
    SequenceEncoderForSequenceClassification,
    convert,
    export,
    exported_pipeline,
    predict_corpus,
)
from sequence_encoder.command_line import UsageError
from sequence_encoder.command_line.extras import MissingLibraryError
from sequence_encoder.conversion.source import Source
from sequence_encoder.inference.corpora.models import load_classifier
from sequence_encoder.inference.runtimes import comparison
from sequence_encoder.inference.runtimes.exported_heads import load_exported_head
from sequence_encoder.saving.exported_models import is_exported
from sequence_encoder.search.reranking import Reranker
from sequence_encoder.tests.fixtures.adaptation_runs import WORDS, save_encoder
from sequence_encoder.tests.fixtures.comparisons import assert_same
from sequence_encoder.tests.fixtures.corpus_runs import assert_same_shards, options_of, rows_of, table_of, write_rows
from sequence_encoder.tests.fixtures.exported_runs import record_shapes
from sequence_encoder.tests.fixtures.family_folders import FAMILIES
from sequence_encoder.tests.fixtures.gliclass_folders import save_gliclass

# The third text of a pair is missing.
ROWS = [{**row, "other": WORDS[number % 7] if number != 2 else None} for number, row in enumerate(rows_of())]
pytestmark = pytest.mark.since("transformers", "5.23", "runs exported models")
TORCH = pytest.mark.since("torch", "2.11", "has what the exporters need")


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory, randomize: Callable[..., Any]) -> tuple[Path, Path]:
    """Save a cross-encoder, and export it to OpenVINO."""
    folder = tmp_path_factory.mktemp("models")
    save_encoder(folder / "encoder", cls_token_id=2, sep_token_id=3)
    config = SequenceEncoderConfig.from_pretrained(folder / "encoder", num_hidden_layers=1, num_labels=1)
    model = randomize(SequenceEncoderForSequenceClassification(config))
    # The graph then has an input for segments, as that of BERT.
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = AutoTokenizer.from_pretrained(folder / "encoder", model_max_length=12, model_input_names=inputs)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "_MEASURED", 0.0)
        export(model, tokenizer, folder / "exported", "openvino")
    return folder / "model", folder / "exported"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.parquet", ROWS)


@TORCH
@pytest.mark.since("pyarrow", "26", "writes null vectors")
def test_an_exported_cross_encoder_predicts_as_the_model(
    cross_encoder: tuple[Path, Path], corpus: Path, tmp_path: Path
) -> None:
    source, exported = cross_encoder[0], shutil.copytree(cross_encoder[1], tmp_path / "exported")
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

    (tmp_path / "out" / "shard-000001.parquet").unlink()
    predict_corpus(**runs[1])
    assert_same_shards(tmp_path / "out", tmp_path / "whole")
    config = json.loads((exported / "config.json").read_text())
    (exported / "config.json").write_text(json.dumps({**config, "problem_type": None}))
    with pytest.raises(UsageError, match="the files of the model have changed"):
        predict_corpus(**runs[1])


@TORCH
def test_an_exported_cross_encoder_ranks_as_the_model(cross_encoder: tuple[Path, Path]) -> None:
    ranked = [Reranker(str(folder), "cpu").scores("the cat", WORDS) for folder in cross_encoder]
    assert ranked[1] == pytest.approx(ranked[0], abs=1e-2)


@TORCH
@pytest.mark.since("pyarrow", "26", "writes null vectors")
def test_an_exported_zero_shot_model_predicts_as_the_model(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "_MEASURED", 0.0)
    tokenizer = FAMILIES["bert"].tokenizer()
    tokenizer.model_max_length = 64
    source = save_gliclass(tmp_path / "model", "bert", tokenizer, prompt_first=True)
    export(convert(source), tokenizer, tmp_path / "exported", "openvino")
    labels = ["cat", "a red dog"]
    scores = []
    for model in (source, tmp_path / "exported"):
        output = tmp_path / f"of-{model.name}"
        predict_corpus(**options_of(model, corpus, output, labels=labels, scores=True))
        scores.append(table_of(output).column("scores").to_pylist())
    for ours, theirs in zip(*scores, strict=True):
        assert ours == (None if theirs is None else pytest.approx(theirs, abs=1e-5))
    found = exported_pipeline("zero-shot-classification", tmp_path / "exported")(ROWS[0]["text"], labels)
    by_label = dict(zip(found["labels"], found["scores"], strict=True))
    assert [by_label[label] for label in labels] == pytest.approx(scores[0][0], abs=1e-5)


@TORCH
@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_of_similar_length_run_together(
    cross_encoder: tuple[Path, Path], ragged: Callable[..., Any], side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SequenceEncoderForSequenceClassification.from_pretrained(cross_encoder[0]).eval()
    exported, _ = load_exported_head(cross_encoder[1])
    shapes = record_shapes(exported, monkeypatch)
    ids, mask = ragged([1 + number * 7 % 12 for number in range(90)], side)
    ids %= model.config.vocab_size
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    logits = model(**inputs).logits
    assert_same(exported(**inputs).logits, logits, 1e-5)
    # With padding on the left, all texts end in the last column.
    assert sum(shape.numel() for shape in shapes) < 1.5 * mask.sum() if side == "right" else len(shapes) == 1
    assert_same(exported(**{name: each.numpy() for name, each in inputs.items()}).logits, logits, 1e-5)


@TORCH
def test_a_server_ranks_and_predicts_with_an_exported_cross_encoder(cross_encoder: tuple[Path, Path]) -> None:
    pytest.importorskip("fastapi", reason="needs the extra serve")
    from sequence_encoder import create_app, load_served_model
    from sequence_encoder.tests.fixtures.serving_apps import ask

    apps = [create_app([load_served_model(str(folder), "float32")]) for folder in cross_encoder]
    requests: list[tuple[str, dict[str, Any]]] = [
        ("/rerank", {"query": "the cat", "texts": WORDS}),
        ("/v1/rerank", {"query": "the cat", "documents": WORDS}),
        ("/predict", {"inputs": [["the cat"], ["the cat", "the owl"]]}),
        ("/predict", {"inputs": " ".join(WORDS), "truncate": True}),
    ]
    for path, body in requests:
        expected, found = (ask(app, path, body) for app in apps)
        assert found.status_code == 200, found.text
        assert numbers_of(found.json()) == pytest.approx(numbers_of(expected.json()), abs=1e-5)
    for app in apps:
        app.state.service.scheduler.close()


def numbers_of(answer: Any) -> list[float]:
    """Return all numbers in an answer, in its order."""
    if isinstance(answer, dict):
        return numbers_of([value for _, value in sorted(answer.items())])
    if isinstance(answer, list):
        return [number for each in answer for number in numbers_of(each)]
    return [answer] if isinstance(answer, int | float) else []


@TORCH
def test_an_exported_model_on_the_hub_is_recognised(
    cross_encoder: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a download leaves it.
    cache, commit = tmp_path / "models--me--ranker", "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(cross_encoder[1], cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert not is_exported("me/other")
    _, _, sentence = load_classifier(Source("me/ranker"), "cpu", "auto")
    assert sentence == "me/ranker is an exported model, which computes in float32."


@pytest.mark.parametrize("cached", [False, True])
def test_a_hub_that_cannot_be_reached_is_asked_once(
    cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cached:
        commit = tmp_path / "models--me--other" / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
        commit.mkdir(parents=True)
        (commit / "config.json").write_text("{}")
        (tmp_path / "models--me--other" / "refs").mkdir()
        (tmp_path / "models--me--other" / "refs" / "main").write_text(commit.name)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    for name, value in [("HF_HUB_CACHE", str(tmp_path)), ("HF_HUB_OFFLINE", False), ("ENDPOINT", endpoint)]:
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    waits: list[float] = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", waits.append)
    assert not is_exported("me/other")
    assert not waits


@TORCH
def test_a_damaged_exported_model_is_refused_with_the_reason(cross_encoder: tuple[Path, Path], tmp_path: Path) -> None:
    def refuse(file: str, content: str | None, match: str) -> None:
        folder = shutil.copytree(cross_encoder[1], tmp_path / f"{file}-{content}")
        if content is None:
            (folder / file).unlink()
        else:
            (folder / file).write_text(content)
        with pytest.raises((ValueError, OSError), match=match):
            load_classifier(Source(str(folder)), "cpu", "auto")

    refuse("export.json", "no json", r"export\.json must be the JSON object that `export` writes: Expecting value")
    refuse("export.json", "[1]", r"export\.json must be the JSON object that `export` writes")
    refuse("export.json", '{"export_format": "openvino"}', r"cannot be loaded: KeyError: 'components'")
    refuse("openvino_model.xml", "<net", r"openvino_model\.xml-<net cannot be loaded: RuntimeError")
    refuse("openvino_model.xml", None, r"openvino_model\.xml")
    refuse("config.json", None, r"has no config\.json")
    with pytest.raises(FileNotFoundError, match=r"is not an exported model: it has no export\.json"):
        load_exported_head(cross_encoder[0])


@TORCH
def test_a_server_refuses_an_exported_model_for_multiple_choice(
    cross_encoder: tuple[Path, Path], tmp_path: Path
) -> None:
    pytest.importorskip("fastapi", reason="needs the extra serve")
    from sequence_encoder import load_served_model

    choices = shutil.copytree(cross_encoder[1], tmp_path / "choices")
    config = (choices / "config.json").read_text()
    (choices / "config.json").write_text(config.replace("ForSequenceClassification", "ForMultipleChoice"))
    with pytest.raises(ValueError, match="cannot use an exported SequenceEncoderForMultipleChoice; of exported"):
        load_served_model(str(choices))


def test_an_exported_model_that_cannot_run_is_refused(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(exported_to: str, **options: Any) -> None:
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / "export.json").write_text(json.dumps({"export_format": exported_to}))
        predict_corpus(**options_of(tmp_path / "model", corpus, tmp_path / "out", **options))

    with pytest.raises(UsageError, match="--dtype bfloat16 is not possible with an exported model"):
        predict("openvino", dtype="bfloat16")
    with pytest.raises(UsageError, match="--device nowhere"):
        predict("openvino", device="nowhere")
    with pytest.raises(ValueError, match=r"can run any code when it is loaded.*--trust_remote_code"):
        predict("dynamo")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingLibraryError, match=r"needs onnxruntime, which is not installed.*\[export\]"):
        predict("onnx")
    assert not (tmp_path / "out").exists()
