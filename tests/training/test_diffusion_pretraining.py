"""`pretrain --objective diffusion` masks at every rate, and its bound is that of a direct computation."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForMaskedLM, AutoTokenizer, TrainingArguments

from sequence_encoder import (
    Objectives,
    PretrainingCollator,
    SequenceEncoderForMaskedLM,
    SequenceEncoderTokenizer,
    diffusion_bound,
)
from sequence_encoder.data.packs import Pack
from sequence_encoder.data.windows import Window, segment_windows
from sequence_encoder.tests.fixtures.pretraining_runs import losses, rewind, run_here, write_corpus
from sequence_encoder.tests.fixtures.texts import LONG, TEXTS, tokenizer_of
from sequence_encoder.training.checkpoints import remove_checkpoint
from sequence_encoder.training.diffusion_trainer import DiffusionTrainer
from sequence_encoder.training.pretraining.objective_metrics import means, sums_of

DIFFUSION = Objectives(objective="diffusion")


@pytest.fixture(scope="module")
def tokenizer() -> SequenceEncoderTokenizer:
    return tokenizer_of()


@pytest.fixture(scope="module")
def windows(tokenizer: SequenceEncoderTokenizer) -> list[Window]:
    return list(segment_windows([*TEXTS, LONG], tokenizer, 64, pairs=False))


@pytest.fixture
def model(
    tiny_config: Callable[..., Any], randomize: Callable[..., Any], tokenizer: SequenceEncoderTokenizer
) -> SequenceEncoderForMaskedLM:
    torch.manual_seed(0)
    names = ("pad", "cls", "sep", "mask")
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    return randomize(SequenceEncoderForMaskedLM(tiny_config("bert", vocab_size=len(tokenizer), **special))).eval()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


# The first documents of a stream are held out.
HELD_OUT = 3
RUN = {"objective": "diffusion", "streaming": True, "eval_documents": HELD_OUT, "eval_steps": 4, "max_steps": 8}


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished")
    run_here(corpus, output, gradient_accumulation_steps=2, **RUN)
    return output


def evaluations(folder: Path) -> list[dict[str, float]]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "eval_loss" in entry]


def test_each_text_is_masked_at_its_own_rate(tokenizer: SequenceEncoderTokenizer, windows: list[Window]) -> None:
    pack: Pack = {"windows": 20 * windows, "seed": [0], "progress": 0.0}
    batch = PretrainingCollator(tokenizer, DIFFUSION)([pack])
    assert batch.keys() == {"input_ids", "attention_mask", "labels", "label_weights"}
    rates, shares, ends = [], [], []
    for window, *row in zip(pack["windows"], *(value.numpy() for value in batch.values()), strict=True):
        ids, mask, labels, weights = (values[: window["length"]] for values in row)
        assert mask.all()
        assert all(
            (values[window["length"] :] == empty).all() for values, empty in zip(row[2:], (-100, 0), strict=True)
        )
        assert labels.tolist() == [-100, *window["input_ids"], tokenizer.sep_token_id]
        masked = weights > 0
        assert ids.tolist() == [
            tokenizer.cls_token_id,
            *np.where(masked, tokenizer.mask_token_id, labels)[1:].tolist(),
        ]
        ends.append(masked[-1])
        if masked.any():
            assert len(set(weights[masked])) == 1
            rates.append(1 / weights[masked][0])
            shares.append(masked[1:].mean())
    assert 0.4 < np.mean(ends) < 0.6
    # Texts without a mask are those with low rates.
    assert len(rates) > 0.9 * len(ends)
    high = np.sort(rates)[-len(ends) // 2 :]
    # The rates of a pack are evenly spaced.
    assert np.diff(high) == pytest.approx(np.full(len(high) - 1, 1 / len(ends)), rel=0.01)
    assert np.corrcoef(rates, shares)[0, 1] > 0.9


def test_training_logs_the_bound_and_the_accuracy_of_masked_tokens(
    model: SequenceEncoderForMaskedLM, tokenizer: SequenceEncoderTokenizer, windows: list[Window]
) -> None:
    pack: Pack = {"windows": windows[:8], "seed": [0], "progress": 0.0}
    batch = PretrainingCollator(tokenizer, DIFFUSION)([pack])
    with torch.no_grad():
        # It predicts the end of a text everywhere, which is sometimes right.
        model.decoder.bias[tokenizer.sep_token_id] = 100
        logits = model(batch["input_ids"], batch["attention_mask"]).logits
        found = means(sums_of(batch, model.train()(**batch)))
    each = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="none")
    expected = (each * batch["label_weights"].flatten()).sum() / (batch["labels"] != -100).sum()
    masked = batch["label_weights"] > 0
    right = (logits.argmax(-1) == batch["labels"])[masked].float().mean()
    assert right > 0
    assert found == pytest.approx({"bound": float(expected), "mlm_accuracy": float(right)}, rel=1e-5)


def exact_bound(model: SequenceEncoderForMaskedLM, ids: list[int], mask: int) -> float:
    """Return the mean over the number of masks and all their places, in nats per token."""
    total, places = 0.0, range(1, len(ids))
    for count in places:
        subsets = list(itertools.combinations(places, count))
        rows = torch.tensor(ids).repeat(len(subsets), 1)
        for row, subset in zip(rows, subsets, strict=True):
            row[list(subset)] = mask
        with torch.no_grad():
            scores = model(rows).logits.log_softmax(-1)
        loss = -scores.gather(-1, torch.tensor(ids).expand(len(subsets), -1)[..., None])[..., 0]
        total += float((loss * (rows == mask)).sum() / len(subsets) / count)
    return total / len(places)


def test_bound_is_the_mean_over_all_masks(
    model: SequenceEncoderForMaskedLM, tokenizer: SequenceEncoderTokenizer
) -> None:
    text = "Return the path."
    expected = exact_bound(model, tokenizer(text)["input_ids"], tokenizer.mask_token_id)
    bound = diffusion_bound(model, tokenizer, [text] * 100, 16, max_tokens=2000)
    assert bound.nats_per_token == pytest.approx(expected, rel=0.02)
    tokens = len(tokenizer(text)["input_ids"]) - 1
    assert (bound.tokens, bound.text_bytes) == (100 * tokens, 100 * len(text))
    assert bound.bits_per_byte == pytest.approx(bound.nats_per_token / math.log(2) * tokens / len(text))


def test_bound_of_a_uniform_model_is_the_size_of_the_vocabulary(
    model: SequenceEncoderForMaskedLM, tokenizer: SequenceEncoderTokenizer
) -> None:
    torch.nn.init.zeros_(model.decoder.weight)
    torch.nn.init.zeros_(model.decoder.bias)
    bound = diffusion_bound(model.train(), tokenizer, ["Größe. " * 30, "", *TEXTS[:2]], 64, rates=7)
    nats = math.log(len(tokenizer))
    assert bound.nats_per_token == pytest.approx(nats, rel=1e-5)
    assert bound.by_rate == pytest.approx({(number + 0.5) / 10: nats for number in range(10)}, rel=1e-5)
    assert bound.text_bytes == 30 * 9 + sum(len(text.encode()) for text in TEXTS[:2])
    assert model.training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": "a text"}, "texts must be a list"),
        ({"texts": [""]}, "at least one token"),
        ({"rates": 0}, "rates must be at least 1, got 0"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"max_length": 3}, "max_length must be at least 4"),
    ],
)
def test_bad_arguments_of_the_bound_are_refused(
    model: SequenceEncoderForMaskedLM, tokenizer: SequenceEncoderTokenizer, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        diffusion_bound(model, tokenizer, **{"texts": ["A text."], **change})


def test_a_run_logs_the_bound_of_its_model(finished: Path) -> None:
    for entry in losses(finished):
        assert entry["bound"] == pytest.approx(entry["loss"], rel=1e-4)
        assert "mlm_loss" not in entry
    first, *_, last = evaluations(finished)
    assert last["eval_bound"] < first["eval_bound"]
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(finished), AutoTokenizer.from_pretrained(finished)
    expected = diffusion_bound(model, tokenizer, TEXTS[:HELD_OUT], 48).metrics()
    assert len(expected) == 13
    assert {name: last[f"eval_{name}"] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_old_checkpoints_are_removed_completely(finished: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(finished / "checkpoint-4", tmp_path / "checkpoint-4")
    remove_checkpoint(checkpoint)
    assert not checkpoint.exists()


def test_a_resumed_run_has_the_same_losses(corpus: Path, finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "resumed"
    shutil.copytree(finished, output)
    rewind(output, 4)
    run_here(corpus, output, gradient_accumulation_steps=2, resume=True, **RUN)
    assert [entry["loss"] for entry in losses(output)] == [entry["loss"] for entry in losses(finished)]
    assert [entry["eval_bound"] for entry in evaluations(output)] == [
        entry["eval_bound"] for entry in evaluations(finished)
    ]


def test_sentence_order_is_off() -> None:
    assert DIFFUSION.sop_weight == 0
    assert Objectives(objective="diffusion", sop_weight=0) == DIFFUSION
    with pytest.raises(ValueError, match=r"mlm_probability=0\.5 has no effect with objective='diffusion'"):
        Objectives(objective="diffusion", mlm_probability=0.5)
    with pytest.raises(ValueError, match="'diffuse' does not exist; choose one of mlm, diffusion"):
        Objectives(objective="diffuse")


PAD = 0


class Whole(nn.Module):
    """A model in a wrapper, as those of several processes are."""

    def __init__(self, model: SequenceEncoderForMaskedLM, compiled: bool) -> None:
        super().__init__()
        self.model, self.compiled = model, compiled
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, **inputs: Any) -> Any:
        # A model that is traced predicts all tokens.
        self.model.predicts_labels_only &= not self.compiled
        outputs = self.model(**inputs)
        self.sizes.append(tuple(outputs.logits.shape))
        return outputs


@pytest.fixture
def trainer(tiny_config: Callable[..., Any], tmp_path: Path) -> DiffusionTrainer:
    torch.manual_seed(0)
    model = SequenceEncoderForMaskedLM(tiny_config("bert", vocab_size=40)).eval()
    options = {"report_to": [], "use_cpu": True}
    return DiffusionTrainer(model, TrainingArguments(str(tmp_path), **options), processing_class=tokenizer_of())


@pytest.mark.parametrize("compiled", [False, True])
@torch.no_grad()
def test_sums_count_texts_and_leave_out_what_stays_empty(trainer: DiffusionTrainer, compiled: bool) -> None:
    model: Any = trainer.model
    ids = torch.tensor([[2, 7, 8, 9, 3], [2, 7, 6, 3, 1]])
    labels = torch.tensor([[-100, 7, 5, PAD, 3], [-100, 7, 6, 3, -100]])
    weights = torch.tensor([[0, 0, 2.0, 2.0, 0], [0, 4.0, 0, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": (ids != 1).long(), "labels": labels, "label_weights": weights}
    whole = Whole(model, compiled)
    loss, sums, counts = trainer.prediction_step(whole, inputs, False)
    # The whole model is called once, since its parts may be divided between processes.
    assert whole.sizes == [(2, 5, 40) if compiled else (3, 40)]
    logits = model(ids, inputs["attention_mask"]).logits
    nats = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(2, 5)
    right = (logits.argmax(-1) == labels).float()
    expected = [
        [2 * (nats[0, 2] + nats[0, 3]), nats[0, 2], right[0, 2], 1],
        [4 * nats[1, 1], nats[1, 1], right[1, 1], 1],
    ]
    torch.testing.assert_close(sums, torch.tensor(expected))
    assert counts.tolist() == [3, 3]
    torch.testing.assert_close(loss, (nats * weights).sum() / 7)
    assert trainer.prediction_step(whole, inputs, True)[1:] == (None, None)
    assert model(**inputs).logits.shape == (2, 5, 40)
