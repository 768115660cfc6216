"""`adapt --masked_tuning` trains on masks and evaluates without them."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from sequence_encoder import SequenceEncoderForSequenceClassification
from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.adaptation_runs import FAST, run, save_encoder, write_examples
from sequence_encoder.training.adaptation.run import parse
from sequence_encoder.training.adaptation.setups.batches import RandomMasks


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def test_half_of_the_texts_have_masks_at_all_rates(encoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    batch = dict(tokenizer(["the red cat is here"] * 40))
    batch["labels"] = list(range(40))
    masks = RandomMasks(tokenizer)
    rates = []
    rng = np.random.default_rng(0)
    for _ in range(20):
        found = masks(batch, rng)
        assert [row["labels"] for row in found] == batch["labels"]
        for before, row in zip(batch["input_ids"], found, strict=True):
            after = row["input_ids"]
            changed = [new for old, new in zip(before, after, strict=True) if new != old]
            assert set(changed) <= {tokenizer.mask_token_id}
            assert (after[0], after[-1]) == (before[0], before[-1])
            rates.append(len(changed) / (len(before) - 2))
    assert sum(rate > 0 for rate in rates) / len(rates) == pytest.approx(0.42, abs=0.08)
    assert sum(rates) / len(rates) == pytest.approx(0.25, abs=0.05)
    assert max(rates) == 1


def test_only_training_texts_have_masks_and_the_records_say_so(encoder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    seen: dict[bool, list[bool]] = {True: [], False: []}
    forward = SequenceEncoderForSequenceClassification.forward

    @functools.wraps(forward)  # `Trainer` reads the signature
    def watched(self: Any, input_ids: Any = None, **kwargs: Any) -> Any:
        seen[self.training].append(bool((input_ids == mask_id).any()))
        return forward(self, input_ids, **kwargs)

    monkeypatch.setattr(SequenceEncoderForSequenceClassification, "forward", watched)
    mask_id = AutoTokenizer.from_pretrained(encoder).mask_token_id
    files = write_examples(tmp_path, "classification", {"train": 32, "validation": 8})
    run("classification", encoder, tmp_path / "out", masked_tuning=True, **{**FAST, "num_train_epochs": 1}, **files)
    assert all(seen[True])
    assert not any(seen[False])
    assert json.loads((tmp_path / "out" / "results.json").read_text())["masked_tuning"] is True
    assert "masked tuning" in (tmp_path / "out" / "README.md").read_text()


def test_masked_tuning_needs_texts_masks_and_a_trained_encoder(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--masked_tuning has no effect with --task ner"):
        parse(["--task", "ner", "--model", "x", "--train_file", "x.csv", "--masked_tuning"])
    files = write_examples(tmp_path, "classification", {"train": 20, "validation": 20})
    with pytest.raises(UsageError, match="which --tuning adapter does not"):
        run("classification", encoder, tmp_path / "out", masked_tuning=True, tuning="adapter", **files)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    tokenizer.mask_token = None
    with pytest.raises(UsageError, match="needs a tokenizer with a mask token"):
        RandomMasks(tokenizer)
