"""`explain`: from texts to explanations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ...data.argument_checks import check_count, check_text
from ...inference.uses import with_learned_labels
from ...modeling import (
    SequenceEncoderForMaskedLM,
    SequenceEncoderForPreTraining,
    SequenceEncoderForQuestionAnswering,
    SequenceEncoderForSequenceClassification,
    SequenceEncoderForTokenClassification,
    SequenceEncoderModel,
    SequenceEncoderPreTrainedModel,
)
from .arguments import METHOD_NAMES
from .explanation import Explanation
from .faithfulness import faithfulness
from .heads import Head, LabelHead, SimilarityHead, without_wrapper
from .methods import METHODS
from .token_heads import AnswerHead, EntityHead, MaskHead
from .values import Values, check_finite
from .words import Request

DEFAULT_METHOD = METHOD_NAMES[0]
HEADS: dict[type, type[Head]] = {
    SequenceEncoderForSequenceClassification: LabelHead,
    SequenceEncoderForTokenClassification: EntityHead,
    SequenceEncoderForQuestionAnswering: AnswerHead,
    SequenceEncoderForMaskedLM: MaskHead,
    SequenceEncoderForPreTraining: MaskHead,
    SequenceEncoderModel: SimilarityHead,
}
# The copies of so many texts, with so many characters, are computed together. The copies of longer texts fill batches
# alone, and several at once would only take more memory.
_TEXTS, _CHARACTERS = 16, 5_000


def explain(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: str | Sequence[str],
    text_pairs: str | Sequence[str] | None = None,
    *,
    target: str | None = None,
    method: str = DEFAULT_METHOD,
    removal: str | None = None,
    samples: int | None = None,
    measure: bool = True,
    max_length: int | None = None,
    max_tokens: int = 2048,
    seed: int = 0,
) -> list[Explanation]:
    """Explain what a model says of texts: give each word a score for what it adds.

    The model stays as it is: in its dtype, on its device.

    Args:
        model: A model of this package, with or without a head, also in a `PeftModel`, or a `TaskAdapter`. See
            `sequence_encoder.convert` for others.
        tokenizer: Its tokenizer, a fast one.
        texts: A text, or several.
        text_pairs: The second texts, for a model that reads pairs, for question answering (whose first texts are
            questions), and for the similarity of two texts.
        target: What to explain: a label, an entity or its label, an answer, or a token for a mask. By default, what the
            model says.
        method: "occlusion", "shapley", "integrated_gradients", "gradient_x_input" or "attention_rollout".
        removal: What takes the place of removed words: "mask" for mask tokens, or "leave_out" for nothing. By default,
            it is nothing for the similarity of two texts and for tokenizers without a mask token.
        samples: The number of orders of words for "shapley", or of points for "integrated_gradients".
        measure: Whether to measure the faithfulness of each explanation.
        max_length: The number of tokens to truncate texts to; by default that of the model.
        max_tokens: The largest number of tokens in a batch.
        seed: The seed of random orders.

    Returns:
        Explanations in the order of the texts. A text has one for each entity or mask, which may be none, and
        otherwise one.

    Raises:
        ValueError: If a text has no words, an argument is not allowed, or the model has no head for it, or gives
            numbers that are not finite.
    """
    options: dict[str, Any] = {
        "target": target,
        "method": method,
        "removal": removal,
        "samples": samples,
        "measure": measure,
    }
    options |= {"max_length": max_length, "max_tokens": max_tokens, "seed": seed}
    pairs = paired(texts, text_pairs)
    return [each for found in iter_explain(model, tokenizer, pairs, **options) for each in found]


def iter_explain(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[tuple[str, ...]],
    *,
    target: str | None = None,
    method: str = DEFAULT_METHOD,
    removal: str | None = None,
    samples: int | None = None,
    measure: bool = True,
    max_length: int | None = None,
    max_tokens: int = 2048,
    seed: int = 0,
) -> Iterator[list[Explanation]]:
    """Yield the explanations of each text or pair of texts. See `explain` for the arguments."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    default = METHODS[method][1]
    if samples is not None:
        check_count(samples, "samples")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}.")
    model = without_wrapper(model)
    head = head_of(model)(model, tokenizer, max_length)
    values = Values(head, removal, max_tokens)
    for part in _parts(texts):
        yield from _explain(values, part, target, method, samples or default, measure, seed)


def _parts(texts: Sequence[tuple[str, ...]]) -> Iterator[list[tuple[str, ...]]]:
    """Yield the texts whose copies are computed together."""
    part: list[tuple[str, ...]] = []
    for each in texts:
        characters = sum(len(text) for known in [*part, each] for text in known)
        if part and (len(part) == _TEXTS or characters > _CHARACTERS):
            yield part
            part = []
        part.append(each)
    if part:
        yield part


def _explain(
    values: Values,
    texts: Sequence[tuple[str, ...]],
    wanted: str | None,
    method: str,
    samples: int,
    measure: bool,
    seed: int,
) -> Iterator[list[Explanation]]:
    """Explain texts whose copies are computed together."""
    requests = [_request(values.head, each) for each in texts]
    outputs = iter(values.outputs([row for request in requests for row in request.rows]))
    numbers = []
    for request in requests:
        read = [next(outputs) for _ in request.rows]
        for output in read:
            check_finite(output, request)
        request.targets = values.head.targets(request, read, wanted)
        numbers.append([float(values.head.number(each, read)) for each in request.targets])
    asked = [request for request in requests if request.targets]
    scores = METHODS[method][0](values, asked, samples, seed)
    measures: list[list[Any]] = [[None] * len(request.targets) for request in asked]
    if measure:
        measures = faithfulness(values, asked, scores, seed)
    measured = iter(zip(scores, measures, strict=True))
    for request, known in zip(requests, numbers, strict=True):
        table, found = next(measured) if request.targets else (torch.empty(0, 0), [])
        cut = any(row.cut for row in request.rows)
        yield [
            Explanation(
                request.texts,
                target,
                number,
                tuple(request.words),
                tuple(column),
                method,
                values.removal,
                faithful,
                cut,
            )
            for target, number, column, faithful in zip(request.targets, known, table.t().tolist(), found, strict=True)
        ]


def head_of(model: Any) -> type[Head]:
    """Return what is known about the head of a model.

    Raises:
        ValueError: If the model is not from this package, or `explain` does not support its head.
    """
    for kind, head in HEADS.items():
        if isinstance(model, kind):
            return head
    names = ", ".join(kind.__name__ for kind in HEADS)
    instead = "`convert` makes them of others"
    if isinstance(model, SequenceEncoderPreTrainedModel):
        same = with_learned_labels(model) or "a cross-encoder of the same pairs, from `adapt --task ranking`"
        instead = f"explain {same}"
    raise ValueError(f"model must be one of {names}, got a {type(model).__name__}; {instead}.")


def paired(texts: str | Sequence[str], text_pairs: str | Sequence[str] | None = None) -> list[tuple[str, ...]]:
    """Return a tuple of one or two texts for each explanation.

    Raises:
        ValueError: If a text is not a string or has no words, or the numbers of texts differ.
    """
    first = [texts] if isinstance(texts, str) else list(texts)
    columns = {"texts": first}
    if text_pairs is not None:
        columns["text_pairs"] = [text_pairs] if isinstance(text_pairs, str) else list(text_pairs)
        if len(columns["text_pairs"]) != len(first):
            raise ValueError(
                f"text_pairs must have as many texts as texts, {len(first)}, got {len(columns['text_pairs'])}."
            )
    for name, column in columns.items():
        for index, text in enumerate(column):
            check_text(text, name, index)
            if not text.strip():
                raise ValueError(f"{name}[{index}] must have words, got {text!r}.")
    return list(zip(*columns.values(), strict=True))


def _request(head: Head, texts: tuple[str, ...]) -> Request:
    if len(texts) not in head.counts:
        needed = "a second text (text_pairs)" if len(texts) < min(head.counts) else "no second text (text_pairs)"
        raise ValueError(f"a {type(head.model).__name__} needs {needed} to be explained.")
    request = head.request(texts)
    if len({word.source for word in request.words}) < len(texts):
        raise ValueError(f"the tokenizer and the model read no words of {request.name()}.")
    return request
