"""Score a pretrained encoder on the tasks of `downstream_tasks.py`: frozen, by a probe, and fine-tuned.

It takes any model and tokenizer that transformers' Auto classes load. The vector of a text is the mean of its last
hidden states. A probe is logistic regression on vectors whose dimensions have mean 0 and variance 1, and retrieval
compares the cosines of such vectors. Fine-tuning trains all weights and one linear layer, for the same number of steps
with the same learning rate. A seed draws the training rows, their order and the layer's weights.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from downstream_tasks import Task
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from vector_tasks import ndcg

from sequence_encoder.inference.bfloat16 import faster_in_bfloat16

LENGTH = 128
# Rows to train on, fine-tuning steps, and rows a step.
ROWS, STEPS, BATCH = 400, 60, 16
RATE, TEMPERATURE = 3e-4, 0.05
Row = dict[str, Any]


class Encoder:
    """A model with its tokenizer, which turns rows into hidden states."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.accepted = inspect.signature(model.forward).parameters
        self.size = model.config.hidden_size
        self.known: dict[str, Tensor] = {}

    def states(self, texts: Sequence[Any], pairs: Sequence[Any] | None = None) -> tuple[Tensor, Any]:
        """Return the last hidden states (B, S, D) of texts, pairs of texts or lists of words, and their encoding."""
        options: Any = {"truncation": True, "max_length": LENGTH, "padding": True, "return_tensors": "pt"}
        batch = self.tokenizer(list(texts), pairs, is_split_into_words=isinstance(texts[0], list), **options)
        inputs = {name: value for name, value in batch.items() if name in self.accepted}
        with torch.autocast("cpu", torch.bfloat16, enabled=faster_in_bfloat16()):
            states = self.model(**inputs).last_hidden_state
        return states.float(), batch

    def means(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Tensor:
        """Return the vectors (B, D) of texts."""
        states, batch = self.states(texts, pairs)
        mask = batch["attention_mask"][..., None].float()
        return (states * mask).sum(1) / mask.sum(1)

    def words(self, rows: Sequence[Sequence[str]]) -> list[Tensor]:
        """Return the states of the first tokens of the words (W, D) of each row."""
        states, batch = self.states(rows)
        found = []
        for number in range(len(rows)):
            words = batch.word_ids(number)
            first = [i for i, word in enumerate(words) if word is not None and word != words[i - 1]]
            found.append(states[number, first])
        return found

    @torch.no_grad()
    def frozen(self, encode: Callable[[Sequence[Any]], Sequence[Any]], inputs: Sequence[Any]) -> list[Any]:
        """Return what `encode` returns for each of the inputs, which it gets in batches of similar lengths."""
        self.model.eval()
        order = sorted(range(len(inputs)), key=lambda index: len(str(inputs[index])))
        found: dict[int, Any] = {}
        for start in range(0, len(order), 2 * BATCH):
            indices = order[start : start + 2 * BATCH]
            found.update(zip(indices, encode([inputs[index] for index in indices]), strict=True))
        return [found[index] for index in range(len(inputs))]

    def remembered(self, encode: Callable[[Sequence[Any]], Sequence[Any]], inputs: Sequence[Any]) -> list[Any]:
        """Return what `frozen` returns, and encode each input only once. The model must not change."""
        new = {str(each): each for each in inputs if str(each) not in self.known}
        self.known.update(zip(new, self.frozen(encode, list(new.values())), strict=True))
        return [self.known[str(each)] for each in inputs]


@dataclass(frozen=True)
class Kind:
    """How a kind of task is scored.

    Attributes:
        features: Returns what a probe sees of rows.
        states: Returns what the linear layer sees of each row in fine-tuning.
        score: Returns the score in percent, given predicted and right labels.
    """

    features: Callable[[Encoder, Sequence[Row]], Tensor]
    states: Callable[[Encoder, Sequence[Row]], Sequence[Tensor]]
    score: Callable[[Tensor, Tensor], float]


def _texts(rows: Sequence[Row], number: int) -> list[str]:
    return [row["texts"][number] for row in rows]


def _labels(rows: Sequence[Row]) -> Tensor:
    return torch.cat([torch.tensor(row["label"]).view(-1) for row in rows])


def _vectors(encoder: Encoder, rows: Sequence[Row], number: int) -> Tensor:
    return torch.stack(encoder.remembered(encoder.means, _texts(rows, number)))


def _pair_features(encoder: Encoder, rows: Sequence[Row]) -> Tensor:
    first, second = (_vectors(encoder, rows, number) for number in range(2))
    return torch.cat([first, second, first * second, (first - second).abs()], 1)


def accuracy(predicted: Tensor, right: Tensor) -> float:
    """Return the share of right predictions in percent."""
    return 100 * float((predicted == right).float().mean())


def f1(predicted: Tensor, right: Tensor) -> float:
    """Return the micro-averaged F1 of the labels other than 0, in percent."""
    hits = int(((predicted == right) & (right > 0)).sum())
    return 200 * hits / max(int((predicted > 0).sum()) + int((right > 0).sum()), 1)


KINDS = {
    "text": Kind(
        features=lambda encoder, rows: _vectors(encoder, rows, 0),
        states=lambda encoder, rows: encoder.means(_texts(rows, 0))[:, None],
        score=accuracy,
    ),
    "pair": Kind(
        features=_pair_features,
        states=lambda encoder, rows: encoder.means(_texts(rows, 0), _texts(rows, 1))[:, None],
        score=accuracy,
    ),
    "words": Kind(
        features=lambda encoder, rows: torch.cat(encoder.remembered(encoder.words, [row["texts"] for row in rows])),
        states=lambda encoder, rows: encoder.words([row["texts"] for row in rows]),
        score=f1,
    ),
}


def probe(encoder: Encoder, task: Task, seed: int) -> float:
    """Return the score of a probe on the frozen encoder."""
    rows = draw(task, seed)
    if task.kind == "retrieval":
        known = torch.cat([_vectors(encoder, rows, number) for number in range(2)])
        spread = known.std(0).clamp_min(1e-6)
        vectors = [(_vectors(encoder, task.test, number) - known.mean(0)) / spread for number in range(2)]
        return ndcg(*(each.numpy() for each in vectors))
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kind = KINDS[task.kind]
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.02, max_iter=100))
    head.fit(kind.features(encoder, rows), _labels(rows))
    return kind.score(torch.from_numpy(head.predict(kind.features(encoder, task.test))), _labels(task.test))


def fine_tune(encoder: Encoder, task: Task, seed: int) -> float:
    """Return the score of the encoder after training all its weights, which changes it."""
    torch.manual_seed(seed)
    rows = draw(task, seed)
    head = nn.Linear(encoder.size, max(task.labels, 1))

    def loss_of(batch: Sequence[Row]) -> Tensor:
        if task.kind != "retrieval":
            return cross_entropy(head(torch.cat(list(KINDS[task.kind].states(encoder, batch)))), _labels(batch))
        queries, documents = (normalize(encoder.means(_texts(batch, number))) for number in range(2))
        scores, own = queries @ documents.T / TEMPERATURE, torch.arange(len(batch))
        return (cross_entropy(scores, own) + cross_entropy(scores.T, own)) / 2

    _train(encoder.model, head, lambda step: loss_of([rows[(step * BATCH + i) % ROWS] for i in range(BATCH)]))
    if task.kind == "retrieval":
        vectors = [torch.stack(encoder.frozen(encoder.means, _texts(task.test, number))) for number in range(2)]
        return ndcg(*(each.numpy() for each in vectors))
    states = encoder.frozen(lambda batch: KINDS[task.kind].states(encoder, batch), task.test)
    return KINDS[task.kind].score(head(torch.cat(states)).argmax(1), _labels(task.test))


def _train(model: PreTrainedModel, head: nn.Module, loss: Callable[[int], Tensor]) -> None:
    weights = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.01, fused=True)
    warmup = STEPS // 10
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (STEPS - step) / (STEPS - warmup))
    )
    model.train()
    for step in range(STEPS):
        loss(step).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


def draw(task: Task, seed: int) -> list[Row]:
    """Draw the rows to train on."""
    return random.Random(seed).sample(task.train, ROWS)


WAYS = {"frozen": probe, "fine-tuned": fine_tune}
