"""Exported models compute the same numbers as the model, at every size, and folders are whole or absent.

Tracing takes seconds, so tests share four exported models of one layer. `tests/exports.py` exports all others.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

from sequence_encoder import (
    ExportedEncoder,
    ExportedExtractor,
    QuestionAnsweringPipeline,
    SequenceEncoderForQuestionAnswering,
    SequenceEncoderModel,
    convert,
    export,
    exported_pipeline,
    load_served_model,
)
from sequence_encoder.__main__ import main
from sequence_encoder.command_line import UsageError
from sequence_encoder.command_line.extras import MissingLibraryError
from sequence_encoder.conversion.source import Source
from sequence_encoder.inference.corpora.models import load_classifier, load_extractor
from sequence_encoder.inference.runtimes import comparison, exporting, requirements, traced_graph
from sequence_encoder.modeling.text_encoding.embedding_recipe import Dense, EmbeddingRecipe, Normalize
from sequence_encoder.saving.whole_folders import atomic_folder
from sequence_encoder.serving.served_model import WindowRow
from sequence_encoder.tests.fixtures.comparisons import assert_same
from sequence_encoder.tests.fixtures.gliner_folders import LABELS, save_gliner
from sequence_encoder.tests.fixtures.texts import TEXTS, tokenizer_of

EXPORTERS = pytest.mark.since("transformers", "5.23", "runs exported models")
TORCH = pytest.mark.since("torch", "2.11", "has what the exporters need")
FORMATS = ["onnx", "openvino", "torch"]
Build = Callable[..., Any]


def traced(function: Any) -> Any:
    """Mark a test that exports a model."""
    return EXPORTERS(TORCH(function))


@pytest.fixture(scope="module", autouse=True)
def _measure_briefly() -> Iterator[None]:
    """Time each model for as few batches as possible."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "_MEASURED", 0.0)
        yield


@pytest.fixture(scope="module")
def build(tiny_config: Build, randomize: Build) -> Build:
    """Return `build(model_class, preset, **overrides)`, which makes a model with one layer for the tokenizer."""
    tokenizer = tokenizer_of()
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask")}

    def make(model_class: Any, preset: str, seed: int = 0, **overrides: Any) -> Any:
        overrides = {"num_hidden_layers": 1, "vocab_size": len(tokenizer), **special, **overrides}
        return randomize(model_class(tiny_config(preset, **overrides)), seed)

    return make


@pytest.fixture(scope="module")
def encoders(build: Build, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    """Export an encoder with its pooling to ONNX, and one without to OpenVINO and to a torch program."""
    folder = tmp_path_factory.mktemp("exported")
    generator = torch.Generator().manual_seed(0)
    dense = Dense(torch.randn(20, 48, generator=generator), None, "torch.nn.modules.activation.Tanh")
    pooled = build(SequenceEncoderModel, "mpnet")
    pooled.embedding_recipe = EmbeddingRecipe(
        ("mean", "lasttoken"),
        after=(dense, Normalize()),
        settings={"prompts": {"query": "find "}, "truncate_dim": 16},
        max_length=30,
    )
    plain = build(SequenceEncoderModel, "modernbert", layer_types=["sliding_attention"])
    plain.embedding_recipe = EmbeddingRecipe(("weightedmean",), include_prompt=False)
    export(pooled, tokenizer_of(), folder / "onnx", pooled=True)
    for to in ("openvino", "torch"):
        export(plain, tokenizer_of(), folder / to, to)
    return {"onnx": (pooled, folder / "onnx"), **{to: (plain, folder / to) for to in ("openvino", "torch")}}


def load(folder: Path) -> ExportedEncoder:
    """Load an exported encoder, and trust it if it is a torch program."""
    return ExportedEncoder.from_pretrained(folder, trust_remote_code=(folder / "model.pt2").exists())


@pytest.fixture(scope="module")
def answering(build: Build, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Save a model that answers questions, with a licence, and export it on the command line."""
    folder = tmp_path_factory.mktemp("answering")
    model = build(SequenceEncoderForQuestionAnswering, "bert")
    model.save_pretrained(folder / "model")
    tokenizer_of().save_pretrained(folder / "model")
    (folder / "model" / "README.md").write_text("---\nlicense: apache-2.0\n---\nA model.\n")
    main(["export", str(folder / "model"), "--output_dir", str(folder / "exported"), "--format", "onnx"])
    return model, folder / "exported"


@traced
@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompt_name": "query"},
        {"prompt": "a model of "},
        {"truncate_dim": 5, "normalize_embeddings": True},
        {"max_length": 7, "max_tokens": 20},
    ],
)
def test_an_exported_encoder_embeds_as_the_model(
    encoders: dict[str, tuple[Any, Path]], to: str, options: dict[str, Any]
) -> None:
    model, folder = encoders[to]
    if to != "onnx":
        options = {name: value for name, value in options.items() if name != "prompt_name"}
    exported = load(folder)
    texts = [*TEXTS[:6], "short"]
    expected = model.encode(texts, tokenizer_of(), convert_to_tensor=True, **options)
    assert_same(exported.encode(texts, convert_to_tensor=True, **options), expected, 1e-5)
    (one,) = exported.iter_encode(texts[:1], tokenizer_of(), convert_to_tensor=True, **options)
    assert_same(one, expected[:1], 1e-5)
    assert exported.encode([], **options).shape == (0, expected.shape[1])


@traced
@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_an_exported_encoder_takes_any_size(
    encoders: dict[str, tuple[Any, Path]], ragged: Build, to: str, side: str
) -> None:
    model, folder = encoders[to]
    exported = load(folder)
    for lengths in ([1], [5], [2, 1], [11, 5, 7, 1], [60] * 3, [0, 4, 2], [0, 0]):
        ids, mask = ragged(lengths, side, max(*lengths, 1))
        states = model(ids, attention_mask=mask).last_hidden_state
        found = exported(input_ids=ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids))
        if to != "onnx":
            assert_same(found.last_hidden_state, states, 1e-5)
            assert_same(found.pooler_output, model(ids, attention_mask=mask).pooler_output, 1e-5)
        else:
            recipe, last = model.embedding_recipe, -1 if side == "left" else mask.sum(dim=1) - 1
            mean = states.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
            vectors = torch.cat([mean, states[torch.arange(len(lengths)), last]], dim=1)
            for step in recipe.after:
                vectors = step(vectors)
            assert_same(found["sentence_embedding"], vectors[:, :16], 1e-5)


@traced
def test_a_graph_computes_padding_in_attention_alone(encoders: dict[str, tuple[Any, Path]]) -> None:
    import onnx
    import openvino

    graph = onnx.load(encoders["onnx"][1] / "model.onnx", load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [node.input for node in graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    sizes = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
    rows: list[list[Any]] = [[dim.dim_value for dim in sizes[name]] for name, _ in inputs]
    network = openvino.Core().read_model(encoders["openvino"][1] / "openvino_model.xml")
    products = [each for each in network.get_ordered_ops() if each.get_type_name() == "MatMul"]
    weighted = [each for each in products if each.input(1).get_partial_shape().is_static]
    shapes = [each.input(0).get_partial_shape() for each in weighted]
    rows += [[size.get_length() if size.is_static else 0 for size in shape] for shape in shapes]
    nodes = torch.export.load(encoders["torch"][1] / "model.pt2").graph.nodes
    linear = [node for node in nodes if node.target == torch.ops.aten.linear.default]
    rows += [list(node.args[0].meta["val"].shape) for node in linear]  # type: ignore[union-attr]
    # One row of tokens, or the vectors of texts.
    assert [row for row in rows if len(row) == 3 and row[0] != 1] == []
    assert [len(row) for row in rows].count(3) == 12


@traced
def test_a_torch_program_is_only_loaded_if_it_is_trusted(
    encoders: dict[str, tuple[Any, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = encoders["torch"]
    monkeypatch.setattr(torch.export, "load", None)
    with pytest.raises(ValueError, match=r"can run any code when it is loaded.*trust_remote_code=True"):
        ExportedEncoder.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"can run any code when it is loaded.*trust_remote_code=True"):
        exported_pipeline("feature-extraction", folder)
    assert "can run any code when it is loaded" in (folder / "README.md").read_text()


@traced
@pytest.mark.parametrize("side", ["left", "right"])
def test_an_exported_head_masks_the_same_tokens(answering: tuple[Any, Path], ragged: Build, side: str) -> None:
    from transformers.exporters import ExportedModel

    model, folder = answering
    exported = ExportedModel.from_pretrained(folder, device="cpu")
    for lengths in ([3], [11, 5, 7, 1]):
        ids, mask = ragged(lengths, side)
        segments = (torch.arange(ids.shape[1]) > 2).long().expand_as(ids).contiguous()
        batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}
        found, expected = exported(**batch), model(**batch)
        for name in ("start_logits", "end_logits"):
            assert torch.equal(found[name][mask == 0], expected[name][mask == 0])
            assert_same(found[name][mask == 1], expected[name][mask == 1], 1e-5)


@traced
def test_the_command_reports_the_comparison_before_it_saves(
    answering: tuple[Any, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = answering
    card = (folder / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "differ by at most" in card
    assert "| `start_logits` | batch, sequence | float32 |" in card
    assert "| `token_type_ids` | batch, sequence | int64 |" in card
    written = {path.name for path in folder.iterdir()}
    assert written >= {"model.onnx", "model.onnx.data", "export.json", "tokenizer.json", "config.json"}

    target = folder.parent / "again"
    _reuse(folder, monkeypatch)
    main(["export", str(folder.parent / "model"), "--output_dir", str(target)])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(
        "Exported SequenceEncoderForQuestionAnswering to ONNX. On sample texts, the outputs of both"
    )
    assert " ms in torch and " in first
    assert float(first.split("at most ")[1].split(". ")[0]) < 1e-5
    assert second == f"Saved in {target}."
    with pytest.raises(SystemExit, match="--overwrite"):
        main(["export", str(folder.parent / "model"), "--output_dir", str(target)])


@traced
def test_a_model_with_other_outputs_leaves_no_folder(
    answering: tuple[Any, Path], build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = answering
    _reuse(folder, monkeypatch)
    other = build(SequenceEncoderForQuestionAnswering, "bert", seed=1)
    with pytest.raises(ValueError, match=r"start_logits differs by .*more than rounding explains"):
        export(other, tokenizer_of(), tmp_path / "exported")
    with torch.no_grad():
        next(iter(other.parameters())).fill_(torch.nan)
    with pytest.raises(ValueError, match="The model computes NaN in start_logits"):
        export(other, tokenizer_of(), tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []


def _reuse(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next exports write the graph in a folder, instead of tracing one."""

    class Exported:
        def save_pretrained(self, to: Path) -> None:
            for name in ("model.onnx", "model.onnx.data", "export.json", "config.json"):
                shutil.copy(folder / name, to)

    monkeypatch.setattr(traced_graph, "trace", lambda *arguments: Exported())


@traced
def test_an_exported_model_is_replaced_as_a_whole(answering: tuple[Any, Path], tmp_path: Path) -> None:
    target = tmp_path / "exported"
    shutil.copytree(answering[1], target)
    (target / "notes.txt").write_text("of someone")
    with atomic_folder(target, True, "--overwrite") as written:
        (written / "config.json").write_text('{"model_type": "bert"}')
    assert {path.name for path in target.iterdir()} == {"config.json", "notes.txt"}


@traced
def test_an_exported_model_says_what_it_cannot_do(
    encoders: dict[str, tuple[Any, Path]], answering: tuple[Any, Path]
) -> None:
    exported = ExportedEncoder.from_pretrained(encoders["onnx"][1])
    for options in ({"pooling": "cls"}, {"normalize_embeddings": False}):
        with pytest.raises(ValueError, match="part of this graph"):
            exported.encode(["text"], **options)
    with pytest.raises(ValueError, match="which this SequenceEncoderForQuestionAnswering does not have"):
        ExportedEncoder.from_pretrained(answering[1])
    with pytest.raises(UsageError, match=r"is a SequenceEncoderModel without a head for .*`sequence-encoder embed`"):
        load_classifier(Source(str(encoders["onnx"][1])), None, "auto")
    with pytest.raises(
        UsageError, match=r'Answering without a head for .* exported_pipeline\("question-answering"\)\.'
    ):
        load_classifier(Source(str(answering[1])), None, "auto")
    exported, ids = ExportedEncoder.from_pretrained(encoders["openvino"][1]), torch.tensor([[5, 6]])
    for mask in ({}, {"attention_mask": None}):
        with pytest.raises(ValueError, match=r"also needs attention_mask, got only input_ids\."):
            exported(input_ids=ids, **mask)
    with pytest.raises(ValueError, match=r"same shape, got input_ids \(1, 2\), attention_mask \(1, 3\)"):
        exported(input_ids=ids, attention_mask=torch.ones(1, 3))


@traced
def test_pipelines_run_exported_models(
    encoders: dict[str, tuple[Any, Path]], answering: tuple[Any, Path], caplog: pytest.LogCaptureFixture
) -> None:
    model, folder = answering
    asked = {"question": "a model", "context": "the text of a short model"}
    ours = QuestionAnsweringPipeline(model=model, tokenizer=tokenizer_of())(**asked)
    found = exported_pipeline("question-answering", folder)(**asked)
    assert {**found, "score": 0} == {**ours, "score": 0}
    assert found["score"] == pytest.approx(ours["score"], abs=1e-5)
    model, folder = encoders["openvino"]
    texts = ["a model", "the text of a short model"]
    expected = pipeline("feature-extraction", model=model, tokenizer=tokenizer_of())(texts)
    for pipe in (
        exported_pipeline("feature-extraction", folder),
        exported_pipeline("feature-extraction", encoders["torch"][1], trust_remote_code=True),
    ):
        for each, other in zip(pipe(texts, batch_size=2), expected, strict=True):
            assert_same(torch.tensor(each)[:, : len(other[0])], torch.tensor(other), 1e-5)
    assert "not supported" not in caplog.text


@EXPORTERS
@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_a_server_embeds_with_an_exported_encoder(encoders: dict[str, tuple[Any, Path]], to: str) -> None:
    pytest.importorskip("fastapi", reason="needs the extra serve")
    from sequence_encoder import create_app, load_served_model
    from sequence_encoder.tests.fixtures.serving_apps import ask

    model, folder = encoders[to]
    app = create_app([load_served_model(str(folder))])
    texts = [*TEXTS, " ".join(TEXTS * 9)]

    def check(body: dict[str, Any], **options: Any) -> None:
        answer = ask(app, "/v1/embeddings" if "input" in body else "/embed", {**body, "truncate": True})
        found = answer.json()["data"] if "input" in body else answer.json()
        vectors = [each["embedding"] if "input" in body else each for each in found]
        expected = model.encode(texts, tokenizer_of(), convert_to_tensor=True, **options)
        torch.testing.assert_close(torch.tensor(vectors), expected, atol=1e-5, rtol=1e-5)

    check({"input": texts})
    check({"inputs": texts}, normalize_embeddings=True)
    check({"inputs": texts, "dimensions": 5}, normalize_embeddings=True, truncate_dim=5)
    app.state.service.scheduler.close()


@EXPORTERS
@TORCH
def test_an_export_never_replaces_its_source(build: Build, tmp_path: Path) -> None:
    build(SequenceEncoderModel, "vanilla").save_pretrained(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    model = SequenceEncoderModel.from_pretrained(tmp_path / "model")
    with pytest.raises(FileExistsError, match="which this command reads"):
        export(model, tokenizer_of(), tmp_path / "model", replace=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


@pytest.mark.parametrize(("to", "missing"), [("onnx", "onnxscript"), ("onnx", "onnxruntime"), ("openvino", "openvino")])
@EXPORTERS
def test_a_missing_library_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    message = rf"needs {missing}, which is not installed.*sequence-encoder\[export\]"
    with pytest.raises(SystemExit, match=message):
        main(["export", "nowhere", "--output_dir", str(tmp_path / "exported"), "--format", to])
    with pytest.raises(MissingLibraryError, match=message):
        export(None, None, tmp_path / "exported", to)  # type: ignore[arg-type] # not looked at
    assert list(tmp_path.iterdir()) == []


def test_older_transformers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    with pytest.raises(MissingLibraryError, match=r"transformers 5\.23 or newer"):
        export(None, None, tmp_path / "exported")  # type: ignore[arg-type] # not looked at
    with pytest.raises(MissingLibraryError, match=r"transformers 5\.23 or newer"):
        ExportedEncoder.from_pretrained(tmp_path)


@EXPORTERS
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"to": "tensorrt"}, "to must be one of 'onnx', 'openvino', 'transformers.js', 'torch', got 'tensorrt'"),
        ({"model": torch.nn.Linear(1, 1)}, "got a Linear"),
        ({"implementation": "flex_attention"}, "attn_implementation must be 'sdpa' or 'eager'"),
        ({"dtype": torch.float64}, "got float64"),
        ({"returned": "output_hidden_states"}, "config.output_hidden_states must be False"),
        ({"recipe": EmbeddingRecipe(include_prompt=False), "pooled": True}, "include_prompt=False"),
        ({"head": True, "pooled": True}, "pass its base_model"),
        ({"tokenizer": None}, "tokenizer must be a transformers tokenizer, got a NoneType"),
    ],
)
def test_bad_arguments_are_rejected_before_any_work(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(exporting, "atomic_folder", None)
    changes = dict(changes)
    model = build(
        SequenceEncoderForQuestionAnswering if changes.pop("head", False) else SequenceEncoderModel, "vanilla"
    )
    model.to(changes.pop("dtype", torch.float32))
    if "implementation" in changes:
        model.set_attn_implementation(changes.pop("implementation"))
    if "returned" in changes:
        setattr(model.config, changes.pop("returned"), True)
    model.embedding_recipe = changes.pop("recipe", None)
    with pytest.raises(ValueError, match=message):
        export(**{"model": model, "tokenizer": tokenizer_of(), "folder": tmp_path / "exported", **changes})
    assert list(tmp_path.iterdir()) == []


@traced
def test_an_exported_extractor_finds_the_same_spans(tmp_path: Path) -> None:
    _, tokenizer = save_gliner(tmp_path / "gliner", "deberta")
    model: Any = convert(tmp_path / "gliner")
    # Those of a calibration.
    model.config.span_extraction |= {"logit_scale": 0.5, "logit_offset": -0.1}
    export(model, tokenizer, tmp_path / "exported", "onnx")
    exported = ExportedExtractor.from_pretrained(tmp_path / "exported")
    texts = ["a cat, a red-dog is of berlin", "", "the model " * 30]
    options = {"threshold": 0.2, "nested": True}
    expected = model.extract(texts, LABELS, tokenizer, **options)
    assert sum(map(len, expected)) > 5
    loaded, own, _ = load_extractor(Source(str(tmp_path / "exported")), None, "auto")
    assert isinstance(loaded, ExportedExtractor)
    assert loaded.extract(texts, LABELS, own, **options) == exported.extract(texts, LABELS, **options)
    found = exported.extract(texts, LABELS, **options)
    for one, text in zip(found, expected, strict=True):
        assert one == [{**span, "score": pytest.approx(span["score"], abs=1e-5)} for span in text]
    assert exported_pipeline("zero-shot-entities", tmp_path / "exported")(texts, labels=LABELS, **options) == found
    assert "ExportedExtractor.from_pretrained(" in (tmp_path / "exported" / "README.md").read_text()
    served = load_served_model(str(tmp_path / "exported"))
    assert served.tasks == ("extract",)
    general: Any = served.extraction
    prepared = general.for_labels(LABELS, **options)
    tokenized = prepared.tokenize(texts)
    rows = [WindowRow(window, prepared) for window in tokenized.windows]
    spans = served.compute(served.extraction_group(tuple(LABELS)), rows)
    answers = [[(span["start"], span["label"]) for span in text] for text in prepared.of_texts(tokenized, spans)]
    assert answers == [[(span["start"], span["label"]) for span in text] for text in found]
