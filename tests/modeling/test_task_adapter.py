"""`TaskAdapter`, a linear classifier on a frozen encoder of any family, trains and saves like other models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel, PreTrainedModel, Trainer, pipeline

from sequence_encoder import SequenceEncoderModel, TaskAdapter, TaskAdapterConfig
from sequence_encoder.hub.card.card import model_card
from sequence_encoder.tests.fixtures.texts import TEXTS, tokenizer_of

Build = Callable[..., Any]

SIZES: dict[str, Any] = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40, "vocab_size": 500}
OTHERS: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: BertModel(BertConfig(**SIZES, num_hidden_layers=2)),
    "electra": lambda: transformers.ElectraModel(
        transformers.ElectraConfig(**SIZES, num_hidden_layers=2, embedding_size=16)
    ),
    "mpnet": lambda: transformers.MPNetModel(transformers.MPNetConfig(**SIZES, num_hidden_layers=2)),
    "distilbert": lambda: transformers.DistilBertModel(
        transformers.DistilBertConfig(dim=24, hidden_dim=40, n_heads=3, n_layers=2, vocab_size=500)
    ),
}


@pytest.fixture
def encoder(tiny_config: Build, randomize: Build) -> SequenceEncoderModel:
    """Build a tiny encoder with dropout, which must be off while it is frozen."""
    return randomize(SequenceEncoderModel(tiny_config("modernbert", vocab_size=500, hidden_dropout=0.5)))


def batch_of(texts: list[str], **options: Any) -> dict[str, torch.Tensor]:
    return dict(tokenizer_of()(texts, padding=True, truncation=True, max_length=30, return_tensors="pt", **options))


def test_only_the_classifier_is_trained_and_the_encoder_stays_in_eval_mode(encoder: SequenceEncoderModel) -> None:
    adapter = TaskAdapter(encoder, num_classes=5)
    adapter.train()
    assert adapter.training
    assert not any(module.training for module in adapter.encoder.modules())
    trained = {name for name, weight in adapter.named_parameters() if weight.requires_grad}
    assert trained == {"classifier.weight", "classifier.bias"}
    batch, before = batch_of(TEXTS[:3]), {name: weight.clone() for name, weight in encoder.state_dict().items()}
    first, second = (adapter(**batch, labels=torch.tensor([0, 4, 2])) for _ in range(2))
    assert torch.equal(first.logits, second.logits)
    first.loss.backward()
    torch.optim.SGD(adapter.parameters(), lr=1.0).step()
    assert not torch.equal(adapter(**batch).logits, first.logits)
    assert all(torch.equal(weight, before[name]) for name, weight in encoder.state_dict().items())


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_logits_come_from_the_pooled_real_tokens(encoder: SequenceEncoderModel, pooling: str) -> None:
    adapter = TaskAdapter(encoder, 5, pooling).eval()
    for text in ("return it", "the path of a file", TEXTS[0]):
        one = batch_of([text])
        hidden = encoder(**one).last_hidden_state[0]
        vector = hidden.mean(0) if pooling == "mean" else hidden[0]
        padded = batch_of([text, "a", *TEXTS[4:8]])
        assert not padded["attention_mask"].all()
        torch.testing.assert_close(adapter(**padded).logits[0], adapter.classifier(vector), atol=1e-5, rtol=1e-4)


def test_features_can_replace_the_text(encoder: SequenceEncoderModel) -> None:
    adapter, batch, labels = TaskAdapter(encoder, 5), batch_of(TEXTS[:4]), torch.tensor([0, 1, 2, 3])
    features = adapter.features(**batch)
    assert features.shape == (4, 24)
    assert not features.requires_grad
    from_text, from_features = adapter(**batch, labels=labels), adapter(features=features, labels=labels)
    assert torch.equal(from_text.logits, from_features.logits)
    assert torch.equal(from_text.loss, from_features.loss)


@pytest.mark.parametrize("family", OTHERS)
def test_encoders_of_other_families_are_adapted_saved_and_loaded(family: str, randomize: Build, tmp_path: Path) -> None:
    adapter = randomize(TaskAdapter(OTHERS[family](), 5))
    adapter.save_pretrained(tmp_path)
    again, report = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is TaskAdapter
    assert {kind: list(keys) for kind, keys in report.items() if keys} == {}
    assert type(again.encoder) is type(adapter.encoder)
    assert not any(weight.requires_grad for weight in again.encoder.parameters())
    batch = batch_of(TEXTS[:3])
    assert torch.equal(again.eval()(**batch).logits, adapter(**batch).logits)


def test_a_saved_adapter_loads_without_the_package(
    encoder: SequenceEncoderModel, tmp_path: Path, without_package: Build, randomize: Build
) -> None:
    adapter = randomize(TaskAdapter(encoder, 3, id2label={0: "a", 1: "b", 2: "c"}))
    adapter.save_pretrained(tmp_path)
    tokenizer_of().save_pretrained(tmp_path)
    code = """
import json
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
folder, text = sys.argv[1:]
model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
logits = model(**tokenizer(text, return_tensors="pt")).logits
pipe = pipeline("text-classification", model=folder, trust_remote_code=True)
print(json.dumps({"class": type(model).__name__, "logits": logits[0].tolist(), "label": pipe(text)[0]["label"]}))
"""
    text = "return the text of a file"
    found = without_package(code, tmp_path, text)
    assert found["class"] == "TaskAdapter"
    assert found["logits"] == adapter(**tokenizer_of()(text, return_tensors="pt")).logits[0].tolist()
    assert found["label"] == pipeline("text-classification", model=str(tmp_path))(text)[0]["label"]
    named = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert set(named) == {"AutoConfig", "AutoModelForSequenceClassification"}


def test_an_adapter_trains_with_an_unmodified_trainer(encoder: SequenceEncoderModel, tmp_path: Path) -> None:
    texts = [*TEXTS[:8], *(" ".join(["json"] * n) for n in range(3, 11))]
    items = [{**tokenizer_of()(text[:80]), "labels": int(index >= 8)} for index, text in enumerate(texts)]
    adapter = TaskAdapter(encoder, 2)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=60,
        learning_rate=0.05,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(adapter, arguments, train_dataset=items, processing_class=tokenizer_of())
    trainer.train()
    predicted = trainer.predict(items).predictions.argmax(-1)
    assert (predicted == [item["labels"] for item in items]).mean() == 1.0


def test_the_card_describes_the_frozen_encoder(encoder: SequenceEncoderModel) -> None:
    card = model_card(TaskAdapter(encoder, 3, id2label={0: "a", 1: "b", 2: "c"}), "someone/adapter").content
    assert "pipeline_tag: text-classification" in card
    assert "the encoder is frozen" in card
    assert "a, b, c" in card
    assert "padding-free text encoder" in card
    other = model_card(TaskAdapter(OTHERS["bert"](), 3), "someone/adapter").content
    assert "BertModel" in other
    assert "padding-free text encoder" not in other


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda encoder: TaskAdapter("bert-base-uncased", 3), "encoder must be a transformers model, got a str"),
        (lambda encoder: TaskAdapter(encoder, 0), "num_classes must be at least 1, got 0"),
        (lambda encoder: TaskAdapter(encoder, 3, "max"), "pooling"),
        (lambda encoder: TaskAdapter(encoder, 3, id2label={0: "a"}), "num_classes=3 classes, got 1"),
        (lambda encoder: TaskAdapter(TaskAdapterConfig()), "encoder_config must be the configuration"),
        (lambda encoder: TaskAdapterConfig(encoder_config={"hidden_size": 3}), "model_type"),
        (lambda encoder: TaskAdapter(encoder, 3)(features=torch.zeros(2, 7)), r"\(batch, 24\), got \(2, 7\)"),
        (lambda encoder: TaskAdapter(encoder, 3)(**batch_of(TEXTS[:1]), features=torch.zeros(1, 24)), "got both"),
        (
            lambda encoder: TaskAdapter(encoder, 3)(**batch_of(TEXTS[:1]), labels=torch.tensor([3])),
            r"labels must be from 0 to 2 .*, got 3",
        ),
        (
            lambda encoder: TaskAdapter(
                transformers.T5Model(transformers.T5Config(d_model=8, d_ff=8, num_layers=1, num_heads=2, vocab_size=9)),
                2,
            ),
            "text-only model without a decoder, got a T5Model",
        ),
    ],
)
def test_invalid_arguments_are_rejected(encoder: SequenceEncoderModel, make: Build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(encoder)
