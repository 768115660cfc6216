"""The command `choose` finds texts that are typical, different and uncertain, and `adapt` takes its file back."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sequence_encoder import SequenceEncoderForSequenceClassification, choose_texts
from sequence_encoder.__main__ import main
from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.adaptation_runs import COLOURS, examples_of, save_encoder
from sequence_encoder.training.labelling.design import choose_by_design

pytestmark = pytest.mark.since("pyarrow", "26", "writes null vectors")
TEXTS = sorted({row["text"] for row in examples_of("classification", 60, 0)})


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("models") / "encoder", cls_token_id=2, sep_token_id=3)


@pytest.fixture(scope="module")
def classifier(encoder: Path) -> Path:
    folder = encoder.with_name("classifier")
    torch.manual_seed(0)
    model = SequenceEncoderForSequenceClassification.from_pretrained(encoder, id2label=dict(enumerate(COLOURS)))
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    for file in encoder.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Return texts with ids, an empty text, and each text again in another case."""
    file = tmp_path / "corpus.csv"
    with file.open("w", newline="") as output:
        writer = csv.writer(output)
        writer.writerow(["text", "key"])
        writer.writerows([[text, f"k{index}"] for index, text in enumerate(TEXTS)])
        writer.writerows([[" ", "empty"], *([f" {text.upper()}", "again"] for text in TEXTS)])
    return file


def rows_of(file: Path) -> list[dict[str, str]]:
    # Excel takes a file for UTF-8 by its byte order mark.
    assert file.read_bytes().startswith(b"\xef\xbb\xbf")
    with file.open(newline="", encoding="utf-8-sig") as content:
        return list(csv.DictReader(content))


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def clusters(*sizes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors around as many directions, and the cluster of each."""
    rng = np.random.default_rng(0)
    kind = np.repeat(np.arange(len(sizes)), sizes)
    return (10 * np.eye(8)[kind] + rng.normal(size=(len(kind), 8))).astype(np.float32), kind


def test_choices_are_typical_and_different_and_avoid_what_has_a_label() -> None:
    vectors, kind = clusters(60, 50, 40, 30)
    none = np.zeros((0, 8), np.float32)
    chosen, similar = choose_by_design(vectors.copy(), none, 4)
    assert kind[chosen].tolist() == [0, 1, 2, 3]
    assert similar.tolist() == [59, 49, 39, 29]
    labelled = vectors[np.flatnonzero(kind == 1)[:5]]
    chosen, similar = choose_by_design(vectors.copy(), labelled, 3)
    assert set(kind[chosen]) == {0, 2, 3}
    uncertainty = np.where(kind == 2, 1, 0.01)
    chosen, _ = choose_by_design(vectors.copy(), none, 1, uncertainty)
    assert kind[chosen].tolist() == [2]
    everything, _ = choose_by_design(vectors.copy(), none, len(kind))
    assert sorted(everything) == list(range(len(kind)))


def test_each_choice_lowers_the_mean_variance_most() -> None:
    vectors = clusters(9, 6, 3)[0]
    chosen, _ = choose_by_design(vectors.copy(), vectors[:2].copy(), 5)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    centred = (unit - unit.mean(axis=0)).astype(np.float64)
    centred = np.column_stack([centred / np.sqrt((centred**2).sum(axis=1).mean()), np.ones(len(centred))])

    def variance(design: list[int]) -> float:
        inverse = np.linalg.inv(np.eye(9) + centred[design].T @ centred[design])
        return float(np.einsum("nd,de,ne->n", centred, inverse, centred).mean())

    design = [0, 1]
    for choice in chosen:
        least = min(variance([*design, other]) for other in range(len(vectors)) if other not in design[2:])
        design.append(int(choice))
        assert variance(design) == pytest.approx(least, rel=1e-5)


def test_the_command_writes_texts_once_and_continues(
    encoder: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "chosen.csv"
    command = ["choose", str(encoder), "--corpus", str(corpus), "--count", "7", "--id_column", "key"]
    main([*command, "--output_file", str(file)])
    rows = rows_of(file)
    assert list(rows[0]) == ["id", "text", "label", "reason"]
    assert [row["id"] for row in rows] == [f"k{TEXTS.index(row['text'])}" for row in rows]
    assert len({row["text"] for row in rows}) == 7
    assert {row["label"] for row in rows} == {""}
    assert "typical of " in rows[0]["reason"]
    before = file.read_text()
    with pytest.raises(SystemExit, match=r"chosen.csv exists and may contain labels"):
        main([*command, "--output_file", str(file)])
    capsys.readouterr()
    main([*command, "--output_file", str(file), "--overwrite"])
    assert "Already finished" in capsys.readouterr().out
    assert file.read_text() == before


def test_labelled_texts_are_left_out(encoder: Path, corpus: Path, tmp_path: Path) -> None:
    vectors = tmp_path / "vectors"
    first = choose_texts(encoder, corpus, tmp_path / "first.csv", count=20, vectors_dir=vectors)
    labelled = [{"text": row["text"].upper(), "label": "red" if place < 9 else ""} for place, row in enumerate(first)]
    files = [write(tmp_path / "labelled.jsonl", labelled), write(tmp_path / "other.jsonl", [{"text": "?", "label": 1}])]
    options = {"vectors_dir": vectors, "train_file": list(map(str, files)), "count": 100}
    second = choose_texts(encoder, corpus, tmp_path / "second.csv", **options)
    assert {row["text"] for row in second} == set(TEXTS) - {row["text"] for row in first}
    bad = write(tmp_path / "texts.jsonl", [{"text": "a"}])
    with pytest.raises(UsageError, match=r"--train_file .*texts.jsonl has no column label; it has text"):
        choose_texts(encoder, corpus, tmp_path / "third.csv", train_file=[str(bad)])
    # The delimiter is that of the corpus.
    (tmp_path / "corpus.csv").write_text("key;text\n" + "".join(f"{key};{text}\n" for key, text in enumerate(TEXTS)))
    options |= {"delimiter": ";", "train_file": [str(tmp_path / "first.csv")], "vectors_dir": tmp_path / "again"}
    third = choose_texts(encoder, tmp_path / "corpus.csv", tmp_path / "next.csv", **options)
    assert {row["text"] for row in third} == set(TEXTS) - {row["text"] for row in first}
    (tmp_path / "other.csv").write_text("text;label\na;b\n")
    with pytest.raises(UsageError, match=r"with ';' between them\. Save it as UTF-8, and CSV with commas\.$"):
        choose_texts(encoder, corpus, tmp_path / "fourth.csv", train_file=[str(tmp_path / "other.csv")])
    blank = write(tmp_path / "blank.jsonl", [{"text": " "}])
    with pytest.raises(UsageError, match=r"--corpus .*blank.jsonl has no texts\.$"):
        choose_texts(encoder, blank, tmp_path / "third.csv")
    texts, options = write(tmp_path / "corpus.jsonl", labelled), {"train_file": [str(tmp_path / "*.csv")]}
    with pytest.raises(UsageError, match="would replace labels"):
        choose_texts(encoder, texts, tmp_path / "first.csv", overwrite=True, **options)


def test_a_classifier_says_between_which_labels_it_hesitates(classifier: Path, corpus: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    rows = choose_texts(classifier, corpus, tmp_path / "chosen.csv", count=5, max_tokens=32)
    table = parquet.read_table(tmp_path / "chosen-vectors" / "shard-000000.parquet").slice(0, len(TEXTS))
    model = SequenceEncoderForSequenceClassification.from_pretrained(classifier)
    logits = model.classifier(torch.tensor(table.column("embedding").to_pylist()))
    scores = torch.tensor(table.column("scores").to_pylist())
    # The model may compute in bfloat16. A score in the same row as the vector of another text would be far off.
    odds = (
        (scores.log() - scores.log().mean(dim=0))[:, 0],
        (logits.log_softmax(-1) - logits.log_softmax(-1).mean(dim=0))[:, 0],
    )
    assert torch.corrcoef(torch.stack(odds).detach())[0, 1] > 0.9
    for row in rows:
        shares, labels = scores[TEXTS.index(row["text"])].topk(2)
        best, second = (f"{COLOURS[label]} ({share:.2f})" for label, share in zip(labels, shares, strict=True))
        assert f"hesitates between {best} and {second}; " in row["reason"]
