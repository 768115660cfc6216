"""`train_adapted_model` accepts batches of many forms, encodes each text once, and reports the mean losses."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch.utils.data import DataLoader, TensorDataset
from transformers import BertConfig, BertModel, DataCollatorWithPadding

from sequence_encoder import SequenceEncoderModel, TaskAdapter, train_adapted_model
from sequence_encoder.tests.fixtures.texts import TEXTS, tokenizer_of

Build = Callable[..., Any]

# Texts with different first words and lengths.
EXAMPLES = [
    (" ".join(text.split()[start : start + 9]), index % 3) for index, text in enumerate(TEXTS) for start in (0, 9)
]
EXAMPLES = [(text, label) for text, label in EXAMPLES if text]


def loader_of(examples: list[tuple[str, int]], shuffle: bool = False, batch_size: int = 5) -> DataLoader[Any]:
    items: Any = [{**tokenizer_of()(text), "labels": label} for text, label in examples]
    generator = torch.Generator().manual_seed(3)
    collate = DataCollatorWithPadding(tokenizer_of())
    return DataLoader(items, batch_size=batch_size, shuffle=shuffle, generator=generator, collate_fn=collate)


@pytest.fixture(autouse=True)
def own_precision() -> None:
    """Forget the precision of a `Trainer` that ran before in this process, which Accelerate would keep."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def adapter(tiny_config: Build, randomize: Build) -> TaskAdapter:
    torch.manual_seed(0)
    return TaskAdapter(randomize(SequenceEncoderModel(tiny_config("bert", vocab_size=500))), num_classes=3)


@pytest.fixture
def counted(adapter: TaskAdapter, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that collects the number of texts in each encoded batch."""
    seen: list[int] = []
    adapter.encoder.register_forward_hook(lambda module, args, output: seen.append(len(output.last_hidden_state)))
    return seen


@pytest.mark.parametrize("shuffle", [False, True])
def test_encoding_texts_once_does_not_change_the_result(
    adapter: TaskAdapter, counted: list[int], shuffle: bool
) -> None:
    start = {name: weight.clone() for name, weight in adapter.state_dict().items()}
    losses = train_adapted_model(adapter, loader_of(EXAMPLES, shuffle), 3, 0.01)
    assert sum(counted) == len({text for text, _ in EXAMPLES})
    weight = adapter.classifier.weight.clone()
    adapter.load_state_dict(start)
    optimizer = torch.optim.AdamW(adapter.classifier.parameters(), lr=0.01)
    loader, expected = loader_of(EXAMPLES, shuffle), []
    for _ in range(3):
        total = 0.0
        for batch in loader:
            loss = adapter(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += float(loss.detach()) * len(batch["labels"])
        expected.append(total / len(EXAMPLES))
    assert losses == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(adapter.classifier.weight, weight, atol=1e-5, rtol=1e-5)


def test_each_epoch_reports_the_mean_loss_over_texts(adapter: TaskAdapter, capsys: pytest.CaptureFixture[str]) -> None:
    texts, labels = EXAMPLES[:7], torch.tensor([label for _, label in EXAMPLES[:7]])
    batch = next(iter(loader_of(texts, batch_size=7)))
    batch.pop("labels")
    with torch.no_grad():
        first = float(adapter(**batch, labels=labels).loss)
    # The batches have five and two texts, and the mean is over texts, not over batches.
    losses = train_adapted_model(adapter, loader_of(texts), epochs=2, learning_rate=1e-9)
    assert losses == pytest.approx([first, first], abs=1e-5)
    reported = re.findall(r"epoch (\d) of 2: mean loss ([\d.]+)", capsys.readouterr().out)
    assert reported == [("1", f"{losses[0]:.4f}"), ("2", f"{losses[1]:.4f}")]


def source_batches(batches: list[dict[str, torch.Tensor]], form: str) -> list[Any]:
    """Return the same batches in one of the forms that loaders return."""
    forms: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
        "dictionary": lambda batch: batch,
        "no mask": lambda batch: {**batch, "attention_mask": None},
        "triple": lambda batch: (batch["input_ids"], batch["attention_mask"], batch["labels"]),
        "list": lambda batch: [batch["input_ids"], batch["attention_mask"], batch["labels"]],
        "bool": lambda batch: (batch["input_ids"], batch["attention_mask"].bool(), batch["labels"]),
        "float": lambda batch: (batch["input_ids"], batch["attention_mask"].float(), batch["labels"]),
        "bfloat16": lambda batch: (batch["input_ids"], batch["attention_mask"].bfloat16(), batch["labels"]),
        "pair": lambda batch: (batch["input_ids"], batch["labels"]),
        "pair of a dictionary": lambda batch: ({"input_ids": batch["input_ids"]}, batch["labels"]),
    }
    return [forms[form](batch) for batch in batches]


FORMS = ["no mask", "triple", "list", "bool", "float", "bfloat16", "pair", "pair of a dictionary"]


@pytest.mark.parametrize("form", FORMS)
def test_every_batch_form_trains_the_same_classifier(adapter: TaskAdapter, counted: list[int], form: str) -> None:
    adapter.encoder.config.pad_token_id = tokenizer_of().pad_token_id
    kept = ("input_ids", "attention_mask", "labels")
    batches = [{name: batch[name] for name in kept} for batch in loader_of(EXAMPLES)]
    assert any(not batch["attention_mask"].all() for batch in batches)
    start = {name: weight.clone() for name, weight in adapter.state_dict().items()}
    losses, weights = [], []
    for each in ("dictionary", form):
        adapter.load_state_dict(start)
        loader: DataLoader[Any] = DataLoader(source_batches(batches, each), batch_size=None)  # type: ignore[arg-type]
        losses.append(train_adapted_model(adapter, loader, 2, 0.01))
        weights.append(adapter.classifier.weight.clone())
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(weights[0], weights[1])
    # Padding does not make a text different, so that each is encoded once.
    assert sum(counted) == 2 * len({text for text, _ in EXAMPLES})


def left_padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    padded = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    return padded, (padded != 0).long()


def with_a_hole(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a text of two tokens with a masked hole between them, and a text of four tokens."""
    text, other = rows
    return torch.tensor([[text[0], 9, text[1], 0], other]), torch.tensor([[1, 0, 1, 0], [1, 1, 1, 1]])


@pytest.mark.parametrize("family", ["ours", "bert"])
@pytest.mark.parametrize("form", ["left", "hole"])
def test_a_text_with_other_token_positions_is_encoded_again(adapter: TaskAdapter, family: str, form: str) -> None:
    if family == "bert":
        sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 30}
        adapter = TaskAdapter(BertModel(BertConfig(vocab_size=50, initializer_range=0.5, **sizes)), 2)
    text, other = [5, 6], [7, 8, 9, 10]
    batches = [left_padded([text]), left_padded([text, other])]
    if form == "hole":
        batches = [(torch.tensor([text]), torch.ones(1, 2, dtype=torch.long)), with_a_hole([text, other])]
    given = [(*batch, torch.zeros(len(batch[0]), dtype=torch.long)) for batch in batches]
    with torch.no_grad():
        expected = sum(float(adapter(ids, mask, labels=labels).loss) * len(ids) for ids, mask, labels in given) / 3
    loader: DataLoader[Any] = DataLoader(given, batch_size=None)  # type: ignore[arg-type]
    assert train_adapted_model(adapter, loader, 1, 1e-9) == pytest.approx([expected], abs=1e-5)


def test_padding_without_a_mask_is_excluded_from_the_mean(adapter: TaskAdapter) -> None:
    adapter.encoder.config.pad_token_id = 3
    text, padded = torch.tensor([[7, 8, 9]]), torch.tensor([[7, 8, 9, 3, 3], [5, 6, 7, 8, 9]])
    torch.testing.assert_close(adapter.features(padded)[:1], adapter.features(text))
    torch.testing.assert_close(adapter(padded).logits, adapter(padded, (padded != 3).long()).logits)
    adapter.encoder.config.pad_token_id = None
    everything = adapter.features(padded, torch.ones_like(padded))
    torch.testing.assert_close(adapter.features(padded), everything)
    with pytest.raises(ValueError, match="must be 0 at padding and 1 elsewhere"):
        adapter.features(padded, torch.zeros(2, 5).masked_fill(padded == 3, -torch.inf))


def test_the_same_tokens_with_other_segments_are_another_text(adapter: TaskAdapter, counted: list[int]) -> None:
    one, other = ({"input_ids": [5, 6], "token_type_ids": [0, second], "labels": 0} for second in (0, 1))
    loader: DataLoader[Any] = DataLoader([one, other, one], batch_size=1, collate_fn=torch_batch)  # type: ignore
    train_adapted_model(adapter, loader, 2, 0.01)
    assert sum(counted) == 2


def torch_batch(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


def one_batch(count: int, value: float = 1, width: int = 3) -> DataLoader[Any]:
    """Return a loader of one batch of `count` tensors: tokens, masks filled with `value`, and labels."""
    masks = [torch.full((4, width), value) for _ in range(count - 2)]
    tensors = [torch.full((4, 3), 5), *masks, torch.tensor([0, 1, 2, 0])]
    return DataLoader(TensorDataset(*tensors[:count]), batch_size=4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: train_adapted_model(model.encoder, loader_of(EXAMPLES), 1, 0.1), "model must be a TaskAdapter"),
        (lambda model: train_adapted_model(model, loader_of(EXAMPLES), 0, 0.1), "epochs must be at least 1, got 0"),
        (lambda model: train_adapted_model(model, loader_of(EXAMPLES), 1, 0), "learning_rate must be above 0, got 0"),
        (
            lambda model: train_adapted_model(model, DataLoader([{"input_ids": torch.tensor([5])}]), 1, 0.1),
            "must yield labels, got input_ids",
        ),
        (lambda model: train_adapted_model(model, DataLoader([torch.tensor([5])]), 1, 0.1), "must yield dictionaries"),
        (lambda model: train_adapted_model(model, loader_of([]), 1, 0.1), "must yield at least one batch, got none"),
        (
            lambda model: train_adapted_model(model, [], 1, 0.1),
            "must be a torch DataLoader, got a list",
        ),
        (lambda model: train_adapted_model(model, one_batch(4), 1, 0.1), r"\(input_ids, targets\) or .*, got 4 values"),
        (lambda model: train_adapted_model(model, one_batch(1), 1, 0.1), "got 1 values"),
        (lambda model: train_adapted_model(model, one_batch(3, 9), 1, 0.1), "must be 0 at padding .* from 9 to 9"),
        (
            lambda model: train_adapted_model(model, one_batch(3, 0.5), 1, 0.1),
            r"must be 0 at padding .* from 0\.5 to 0\.5",
        ),
        (
            lambda model: train_adapted_model(model, one_batch(3, width=2), 1, 0.1),
            r"shape of input_ids, \(4, 3\), got",
        ),
        (lambda model: train_adapted_model(model, DataLoader([([5, 6], 1)]), 1, 0.1), "input_ids must be a tensor"),
        (
            lambda model: train_adapted_model(model, loader_of([("a", 3)]), 1, 0.1),
            r"labels must be from 0 to 2 .*, got 3",
        ),
    ],
)
def test_bad_arguments_are_rejected(adapter: TaskAdapter, call: Build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(adapter)
