"""The columns of the table of what works that are commands. Each checks what the command wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sequence_encoder.conversion.source import Source
from sequence_encoder.inference.corpora.formats import VECTORS
from sequence_encoder.inference.corpora.models import load_encoder
from sequence_encoder.tests.fixtures.adaptation_runs import COLOURS
from sequence_encoder.tests.fixtures.corpus_runs import table_of
from sequence_encoder.tests.matrix.command_line import run
from sequence_encoder.tests.matrix.kinds import HIDDEN, KINDS
from sequence_encoder.tests.matrix.models import EXPORTED, Model, Workshop, adapt

TEXTS = ["the red cat is here", "a dog", "we saw the green owl by the blue dog"]


def adapt_from(model: Model, shop: Workshop, work: Path) -> None:
    """`adapt`: the model is fine-tuned further."""
    adapt(model.kind, model.folder, shop, work / "adapted")
    assert (work / "adapted" / "results.json").is_file()
    assert (work / "adapted" / "model.safetensors").is_file()


def distill(model: Model, shop: Workshop, work: Path) -> None:
    """`distill`: the student has fewer layers, and is compared with its teacher."""
    pairs = model.kind is KINDS["ranker"]
    rows = [{"text": text, "second": other} for text in TEXTS for other in TEXTS]
    corpus = work / "pairs.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(
        *("distill", model.folder, "--corpus", corpus, *(["--text_pair_column", "second"] if pairs else [])),
        *("--output_dir", work / "distilled", "--max_steps", 2),
    )
    report = json.loads((work / "distilled" / "distillation.json").read_text())
    assert report["layers"]["student"] < report["layers"]["teacher"]
    assert (work / "distilled" / "model.safetensors").is_file()


def calibrate(model: Model, shop: Workshop, work: Path) -> None:
    """`calibrate`: the new folder has a calibration."""
    examples = shop.examples(model.kind, 60, 3)
    run("calibrate", model.folder, "--calibration_file", examples, "--output_dir", work / "calibrated")
    assert (work / "calibrated" / "calibration.safetensors").is_file()


def evaluate(model: Model, shop: Workshop, work: Path) -> None:
    """`evaluate`: the report has a finite metric."""
    home, away = shop.examples(model.kind, 24, 4), shop.examples(model.kind, 24, 5)
    run(
        *("evaluate", model.folder, "--test_file", f"home={home}", f"away={away}", "--bootstrap_samples", 5),
        *("--output_dir", work / "report"),
    )
    report = json.loads((work / "report" / "evaluation.json").read_text())
    assert len(report["files"]) == 2
    assert all(math.isfinite(number) for number in _numbers(report["files"][0]["metrics"]))


def explain(model: Model, shop: Workshop, work: Path) -> None:
    """`explain`: each word has a finite score."""
    pair = model.kind.head in ("ForQuestionAnswering", "Model", "ForRetrieval") or model.kind is KINDS["ranker"]
    text = "the red [MASK] is here" if model.kind.head == "ForMaskedLM" else TEXTS[0]
    run(
        *("explain", model.folder, "--text", text, *(["--text_pair", "a dog"] if pair else [])),
        *("--output_dir", work / "explained"),
    )
    for line in (work / "explained" / "explanations.jsonl").read_text().splitlines():
        numbers = [word["score"] for word in json.loads(line)["words"]]
        assert numbers
        assert all(map(math.isfinite, numbers))


def embed(model: Model, shop: Workshop, work: Path) -> None:
    """`embed`: the vectors are those of the model, or of the one before the export or the quantization."""
    run("embed", model.folder, "--corpus", _corpus(work), "--output_dir", work / "vectors", "--dtype", "float32")
    vectors = np.stack(table_of(work / "vectors")[VECTORS].to_pylist())
    assert vectors.shape == (len(TEXTS), HIDDEN)
    assert np.isfinite(vectors).all()
    encoder, tokenizer, _ = load_encoder(Source(str(_original(model, shop))), "cpu", "float32")
    expected = encoder.encode(TEXTS, tokenizer)
    cosines = (vectors * expected).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.99, cosines


def predict(model: Model, shop: Workshop, work: Path) -> None:
    """`predict`: each text has a label of the model, or a score."""
    labels = model.kind.options.get("candidate_labels", [])
    given = ["--labels", *labels] if labels else []
    run("predict", model.folder, *given, "--corpus", _corpus(work), "--output_dir", work / "predicted")
    rows = table_of(work / "predicted").to_pylist()
    assert len(rows) == len(TEXTS)
    assert {row["label"] for row in rows} <= set(labels or model.labels)
    assert all(math.isfinite(row["score"]) for row in rows)


def extract(model: Model, shop: Workshop, work: Path) -> None:
    """`extract`: the entities are parts of the texts, with labels of the run and scores."""
    given = ("--labels", *COLOURS, "--threshold", 0)
    run("extract", model.folder, *given, "--corpus", _corpus(work), "--output_dir", work / "extracted")
    rows = table_of(work / "extracted").to_pylist()
    assert rows
    assert all(row["text"] in {text[row["start"] : row["end"]] for text in TEXTS} for row in rows)
    assert {row["label"] for row in rows} <= {*COLOURS}
    assert all(math.isfinite(row["score"]) for row in rows)


def index_and_search(model: Model, shop: Workshop, work: Path) -> None:
    """`index` and `search`: a text finds itself."""
    index(model, work)
    found = run("search", TEXTS[1], "--index", work / "index", "--limit", 1, "--mode", "vector")
    assert TEXTS[1] in found, found


def index(model: Model, work: Path) -> Path:
    """Make an index of some texts."""
    run("index", model.folder, "--corpus", _corpus(work), "--output_dir", work / "index", "--normalize", "True")
    return work / "index"


def quantize(model: Model, shop: Workshop, work: Path) -> None:
    """`quantize`: the new folder has eight bits."""
    run("quantize", model.folder, "--output_dir", work / "quantized", "--text_file", shop.texts, "--cosine", 0.9)
    fields = json.loads((work / "quantized" / "config.json").read_text())
    assert fields["quantization_config"]["modules"]


def export(model: Model, shop: Workshop, work: Path) -> None:
    """`export`: the command has compared the outputs."""
    pooled = ["--pooled"] if model.kind.head == "Model" else []
    assert "differ" in run("export", model.folder, "--output_dir", work / "exported", "--format", "onnx", *pooled)
    assert (work / "exported" / "export.json").is_file()


def convert(model: Model, shop: Workshop, work: Path) -> None:
    """`convert --to`: the command has compared the outputs."""
    assert "differ" in run("convert", model.folder, "--output_dir", work / "converted", "--to", model.kind.back)
    fields = json.loads((work / "converted" / "config.json").read_text())
    assert fields["model_type"] in (model.kind.back, "xlm-roberta")


def _corpus(work: Path) -> Path:
    file = work / "corpus.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return file


def _original(model: Model, shop: Workshop) -> Path:
    """Return the folder of the model before the export."""
    name = next(name for name, kind in KINDS.items() if kind is model.kind)
    return shop.source(name) if model.state in EXPORTED else model.folder


def _numbers(value: Any) -> Iterator[float]:
    """Yield all numbers in a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)
