"""Converted models of every family give the original's results in the libraries that people use them with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from sequence_encoder import SequenceEncoderModel, convert
from sequence_encoder.conversion.command import convert_checkpoint
from sequence_encoder.conversion.source_models import FAMILIES as CONVERTED
from sequence_encoder.tests.fixtures.adaptation_runs import run, write_examples
from sequence_encoder.tests.fixtures.family_folders import FAMILIES, SINCE, add_modules, save
from sequence_encoder.tests.fixtures.remote_code_models import encoder
from sequence_encoder.tests.fixtures.remote_code_models import save as save_remote_code

TEXTS = ["a text about the red cat", "this model is software.", "x"]
EVERY_FAMILY = [
    pytest.param(name, marks=pytest.mark.since("transformers", SINCE[name], "has it") if name in SINCE else ())
    for name in FAMILIES
]
# A family for each way of computing that no preset in the other tests of peft and of `adapt` has.
MECHANISMS = {
    "biases in buckets": "mpnet",
    "disentangled attention": "deberta",
    "alibi": "jina_bert",
    "grouped queries": "eurobert",
    "shared layers": "albert",
    "an embedding projection": "electra",
}
each_mechanism = pytest.mark.parametrize("family", [pytest.param(name, id=what) for what, name in MECHANISMS.items()])


def test_every_family_is_covered() -> None:
    known = {prefix for family in CONVERTED.values() for prefix in family.model_prefixes}
    assert known == {family.prefix for family in FAMILIES.values()}


def save_encoder(folder: Path, family: str) -> Path:
    """Save an encoder of a family, in transformers or with code on the Hub."""
    if family in FAMILIES:
        return save(folder, family)
    FAMILIES["bert"].tokenizer().save_pretrained(folder)
    return save_remote_code(folder, encoder(family).fields, encoder(family).weights())


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_sentence_vectors_equal_the_original(tmp_path: Path, family: str) -> None:
    theirs = add_modules(save(tmp_path / "theirs", family), prompts={"query": "the text: "})
    convert_checkpoint(str(theirs), str(tmp_path / "ours"))
    original, converted = (SentenceTransformer(str(tmp_path / name), device="cpu") for name in ("theirs", "ours"))
    assert converted.max_seq_length == original.max_seq_length
    model = SequenceEncoderModel.from_pretrained(tmp_path / "ours")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    for options in ({}, {"prompt_name": "query"}):
        expected = original.encode(TEXTS, **options)
        assert np.linalg.norm(expected[0] - expected[1]) > 1e-2
        for found in (converted.encode(TEXTS, **options), model.encode(TEXTS, tokenizer, **options)):
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["neobert", "jina_bert", "new"])
def test_sentence_vectors_of_code_on_the_hub_follow_its_formulas(tmp_path: Path, family: str) -> None:
    add_modules(save_encoder(tmp_path / "theirs", family))
    convert_checkpoint(str(tmp_path / "theirs"), str(tmp_path / "ours"))
    found = SentenceTransformer(str(tmp_path / "ours"), device="cpu").encode(TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    for text, vector in zip(TEXTS, found, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        states = encoder(family).states(encoder(family).weights(), ids, torch.ones_like(ids))
        expected = torch.nn.functional.normalize(states.mean(dim=1), dim=-1)[0]
        np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-5)


@each_mechanism
def test_an_adapter_is_trained_saved_and_merged(tmp_path: Path, family: str) -> None:
    ours, adapter, merged = (tmp_path / name for name in ("ours", "adapter", "merged"))
    convert(save_encoder(tmp_path / "theirs", family)).save_pretrained(ours)

    def load(folder: Path) -> Any:
        return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)

    model = peft.get_peft_model(load(ours), peft.LoraConfig(task_type="SEQ_CLS", modules_to_save=["head", "pooler"]))
    base = model.get_base_model()
    adapted = [module for module in model.modules() if isinstance(module, peft.tuners.lora.Linear)]
    assert len(adapted) == 4 * base.config.num_distinct_layers
    ids, lengths = torch.randint(5, 45, (3, 9)), torch.tensor([9, 4, 6])
    batch = {"input_ids": ids, "attention_mask": (torch.arange(9) < lengths[:, None]).long()}
    labels = torch.tensor([0, 1, 2])
    before = model.eval()(**batch, labels=labels).loss
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    for _ in range(3):
        model.train()(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert model.eval()(**batch, labels=labels).loss < before
    assert all(module.lora_B["default"].weight.abs().max() > 0 for module in adapted)
    expected = model(**batch).logits
    model.save_pretrained(adapter)
    again = peft.PeftModel.from_pretrained(load(ours), str(adapter)).eval()
    torch.testing.assert_close(again(**batch).logits, expected, rtol=0, atol=1e-5)
    again.merge_and_unload().save_pretrained(merged)
    torch.testing.assert_close(load(merged)(**batch).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["deberta", "jina_bert"])
def test_adapt_trains_a_classifier_from_the_original(tmp_path: Path, family: str) -> None:
    theirs = save_encoder(tmp_path / "theirs", family)
    files = write_examples(tmp_path, "classification", {"train": 6, "validation": 3, "test": 4})
    run("classification", theirs, tmp_path / "ours", **files, max_steps=1, learning_rate=1e-3)
    rows = [json.loads(line) for line in (tmp_path / "ours" / "predictions.jsonl").read_text().splitlines()]
    classify = pipeline("text-classification", model=str(tmp_path / "ours"), device="cpu")
    assert [classify(row["text"])[0]["label"] for row in rows] == [row["prediction"] for row in rows]
