"""`sequence-encoder adapt --task embedding` learns from texts that have no pairs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from sequence_encoder import SequenceEncoderModel, convert
from sequence_encoder.command_line import UsageError
from sequence_encoder.data.text_pairs import pairs_from_text
from sequence_encoder.tests.adaptation_runs import ANIMALS, COLOURS, FAST, FILLERS, run, save_encoder, write_rows


def texts(count: int) -> list[dict[str, Any]]:
    """Return texts of two sentences that share a colour and an animal."""
    rng = random.Random(0)
    rows = []
    for _ in range(count):
        colour, animal = rng.choice(COLOURS), rng.choice(ANIMALS)
        parts = [" ".join(rng.sample([*rng.sample(FILLERS, 3), colour, animal], 5)) for _ in range(2)]
        rows.append({"text": ". ".join(part.capitalize() for part in parts)})
    return rows


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def test_the_first_sentence_of_each_passage_is_paired_with_the_rest() -> None:
    text = "Delete a bucket. All objects must be deleted first. You need the permission."
    assert pairs_from_text(text) == [
        ("Delete a bucket.", "All objects must be deleted first. You need the permission.")
    ]
    assert pairs_from_text("A single sentence.") == pairs_from_text("") == []
    sentences = [f"{'Word ' * 60}ends here {number}." for number in range(20)]
    pairs = pairs_from_text(" ".join(sentences))
    assert " ".join(part for pair in pairs for part in pair) == " ".join(sentences)
    assert all(len(first) + len(rest) <= 1_000 for first, rest in pairs)


def test_a_model_learns_to_search_from_texts_alone(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_rows(tmp_path / "texts.jsonl", texts(160))
    results = run("embedding", encoder, tmp_path / "out", train_file=file, **FAST)
    made = json.loads((tmp_path / "out" / "results.json").read_text())["made_pairs"]
    assert made["train"]["texts"] == 144
    assert made["validation"]["texts"] == 16
    assert "The texts have no pairs (no column text_pair); made " in capsys.readouterr().out
    metrics = results.best.metrics["validation"]
    assert metrics["cosine_ndcg@10"] > results.baselines["before_training"]["validation"]["cosine_ndcg@10"] + 0.1


def test_pairs_of_other_files_are_kept(encoder: Path, tmp_path: Path) -> None:
    pairs = [{"text": row["text"], "text_pair": row["text"][:9]} for row in texts(12)]
    files = {"train": texts(40), "validation": pairs}
    given = {f"{split}_file": write_rows(tmp_path / f"{split}.jsonl", rows) for split, rows in files.items()}
    results = run("embedding", encoder, tmp_path / "out", **given, **FAST)
    assert list(results.made_pairs) == ["train"]


def test_a_misspelt_column_of_pairs_is_named(encoder: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "texts.jsonl", [{"text": "a cat", "text_pairs": "the cat"}] * 4)
    with pytest.raises(UsageError, match=r"text_pair is not in the train examples.* Did you mean text_pairs\?"):
        run("embedding", encoder, tmp_path / "out", train_file=file)


def test_texts_of_one_sentence_are_refused(encoder: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "texts.jsonl", [{"text": "A cat is here."}] * 20)
    with pytest.raises(UsageError, match="no text of the train examples has two sentences"):
        run("embedding", encoder, tmp_path / "out", train_file=file)


def test_a_sentence_encoder_ends_between_its_weights_before_and_after_the_training(
    bert_folder: Path, tmp_path: Path
) -> None:
    parts = ["a model of a text", "the text is short", "return the weights of a model"]
    rows = [{"text": f"{one.capitalize()}. {other.capitalize()}."} for one in parts for other in parts] * 6
    file = write_rows(tmp_path / "texts.jsonl", rows)
    before = convert(bert_folder).base_model.state_dict()
    weights = []
    for name in ("kept", "free"):
        run("embedding", bert_folder, tmp_path / name, train_file=file, learning_rate=1e-2)
        weights.append(SequenceEncoderModel.from_pretrained(tmp_path / name).state_dict())
        # Without it, the encoder is trained in the same way, and has no vectors to keep.
        (bert_folder / "modules.json").unlink(missing_ok=True)
    kept, free = weights
    changed = [name for name in kept if not torch.equal(free[name], before[name])]
    assert len(changed) > 20
    for name in changed:
        torch.testing.assert_close(kept[name], 0.7 * before[name] + 0.3 * free[name])
