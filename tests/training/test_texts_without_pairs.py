"""`sequence-encoder adapt --task embedding` learns from texts that have no pairs."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sequence_encoder import SequenceEncoderModel, convert
from sequence_encoder.command_line import UsageError
from sequence_encoder.data.text_pairs import pairs_from_text
from sequence_encoder.evaluation.tasks.example_arguments import ExampleArguments
from sequence_encoder.tests.fixtures.adaptation_runs import (
    ANIMALS,
    COLOURS,
    FAST,
    FILLERS,
    run,
    save_encoder,
    write_rows,
)
from sequence_encoder.training.adaptation.plan import rate_for
from sequence_encoder.training.adaptation.setups import batches
from sequence_encoder.training.adaptation.setups.batches import with_near_batches
from sequence_encoder.training.adaptation.tasks.similarity import Embedding


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


def test_a_sentence_encoder_learns_from_batches_of_near_pairs(bert_folder: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    words = ("cat", "model", "text", "weights")
    pairs = [(f"{words[n % 4]} {n}", f"the {words[n % 4]} {words[n % 4]} -{n}") for n in range(64)]
    rows = Dataset.from_dict({name: [pair[i] for pair in pairs] for i, name in enumerate(("text", "text_pair"))})
    task = Embedding(ExampleArguments())
    task.scored = False

    def trainer_of(**options: Any) -> Any:
        arguments = SentenceTransformerTrainingArguments(
            str(tmp_path), per_device_train_batch_size=8, learning_rate=1e-2, report_to=[], use_cpu=True, **options
        )
        model = task.model(str(bert_folder), None, 64)
        return with_near_batches(SentenceTransformerTrainer, copy.deepcopy(model))(
            model, args=arguments, train_dataset=rows, loss=task.loss(model, None)
        )

    trainer = trainer_of(max_steps=12)
    before = [*trainer.get_train_dataloader().batch_sampler]
    assert sorted(number for batch in before for number in batch) == [*range(64)]
    assert np.mean([len({number % 4 for number in batch}) for batch in before]) < 2.5
    trainer.train()
    # The batches do not depend on the weights as they are trained.
    assert [*trainer.get_train_dataloader().batch_sampler] == before
    assert trainer.seconds_of_vectors > 0
    # A short training computes no more vectors than it uses.
    for options, used in (
        ({"max_steps": 3}, 24),
        ({"max_steps": 3, "gradient_accumulation_steps": 2}, 48),
        ({"num_train_epochs": 0.5}, 32),
    ):
        assert trainer_of(**options).get_train_dataloader().batch_sampler.window == used


def test_adapt_trains_on_near_pairs(bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ["A model", "The text", "Weights"]
    rows = [{"text": f"{parts[n % 3]} {n}. {parts[n % 2]} {-n}."} for n in range(1, 41)]
    file = write_rows(tmp_path / "texts.jsonl", rows)
    weights = []
    # In windows of one batch, there is no choice of pairs.
    for name, window in (("near", 4096), ("random", 8)):
        monkeypatch.setattr(batches, "_WINDOW", window)
        run("embedding", bert_folder, tmp_path / name, train_file=file, **FAST | {"per_device_train_batch_size": 8})
        weights.append(SequenceEncoderModel.from_pretrained(tmp_path / name).state_dict())
    assert not all(torch.equal(weights[1][name], weight) for name, weight in weights[0].items())


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


def test_a_sentence_encoder_learns_made_pairs_at_the_full_rate() -> None:
    assert rate_for(1e-4, 384, is_sentence_encoder=True, makes_pairs=True) == 1e-4
    assert rate_for(1e-4, 384, is_sentence_encoder=True) < 1e-4


def test_a_sentence_encoder_ends_between_its_weights_before_and_after_the_training(
    bert_folder: Path, tmp_path: Path
) -> None:
    # Only one of the trainings chooses near pairs. Both have all texts in one batch, and neither has dropout or Adam,
    # which would make much of their order.
    config = json.loads((bert_folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (bert_folder / "config.json").write_text(json.dumps(config))
    parts = ["A model", "The text", "Weights"]
    rows = [{"text": f"{parts[n % 3]} {n}. {parts[n % 2]} {-n}."} for n in range(1, 41)]
    file = write_rows(tmp_path / "texts.jsonl", rows)
    before = convert(bert_folder).base_model.state_dict()
    weights = []
    for name in ("kept", "free"):
        run("embedding", bert_folder, tmp_path / name, train_file=file, optim="sgd", learning_rate=1.0)
        weights.append(SequenceEncoderModel.from_pretrained(tmp_path / name).state_dict())
        # Without it, the encoder is trained in the same way, and has no vectors to keep.
        (bert_folder / "modules.json").unlink(missing_ok=True)
    kept, free = weights
    changed = [name for name in kept if not torch.equal(free[name], before[name])]
    assert len(changed) > 20
    for name in changed:
        torch.testing.assert_close(kept[name], 0.3 * before[name] + 0.7 * free[name])
