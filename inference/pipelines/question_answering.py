"""A pipeline for extractive question answering, which transformers removed in 5.3."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.nn import functional as F
from transformers.pipelines.base import ChunkPipeline

from ...modeling.calibration.calibration import calibration_of
from ...modeling.calibration.outputs import check_refusal, with_p_values
from ...tokenizer.private_copy import private_copy
from .answer_sets import CANDIDATES, in_sets

# `Any`, because the annotations of `ChunkPipeline` do not allow the parameters that its subclasses add.
_Pipeline: Any = ChunkPipeline


class QuestionAnsweringPipeline(_Pipeline):
    """Pipeline that finds the answer to a question in a text of any length, reading it in overlapping windows.

    Arguments and results have the names of the pipeline that transformers removed. `config.json` of a saved model
    refers to this class, so `pipeline("question-answering", model=..., trust_remote_code=True)` works without the
    package. With the package, create it directly:

    ```python
    >>> from sequence_encoder import QuestionAnsweringPipeline
    >>> answer = QuestionAnsweringPipeline(model=model, tokenizer=tokenizer)  # doctest: +SKIP
    >>> answer(question="Who wrote it?", context="It was written by Ada.")  # doctest: +SKIP
    {'score': 0.9, 'start': 18, 'end': 21, 'answer': 'Ada'}

    ```

    Args:
        model: A model with a question answering head.
        tokenizer: The fast tokenizer of the model.
        **kwargs: Arguments of transformers' `Pipeline`, and defaults for the arguments of a call.

    Raises:
        ValueError: If the model has another head, or the tokenizer is slow and cannot map tokens to characters.
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    default_input_names = "question,context"

    def __init__(self, model: Any, tokenizer: Any, **kwargs: Any) -> None:
        if not type(model).__name__.endswith("ForQuestionAnswering"):
            raise ValueError(f"model must have a question answering head, got a {type(model).__name__}.")
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(f"tokenizer must be a fast tokenizer, got a {type(tokenizer).__name__}.")
        self.calibration: Any = calibration_of(model)
        super().__init__(model=model, tokenizer=tokenizer, **kwargs)

    def __call__(self, inputs: Any = None, *, question: Any = None, context: Any = None, **kwargs: Any) -> Any:
        """Answer one or more questions.

        Args:
            inputs: A dictionary with `question` and `context`, or a list of such dictionaries. Replaces the next two.
            question: The question, or a list of questions.
            context: The text to find the answer in, or a list of texts. A single question or context is combined with
                each item of the other list.
            **kwargs: `top_k`, the number of answers to return (defaults to 1); `max_answer_len`, the maximum number of
                tokens in an answer (15); `handle_impossible_answer`, whether to return an empty answer if the context
                probably has none (False); `max_seq_len`, the number of tokens in a window, including the question
                (384); `doc_stride`, the number of tokens that neighbouring windows share (128); `max_question_len`,
                the number of tokens to truncate questions to (64); `batch_size`; and for a calibrated model `coverage`,
                the share of questions whose sets have a right answer (0.9), and `abstain_below`, the p-value below
                which there is no answer.

        Returns:
            A dictionary for each question, or a list of them if `top_k` is not 1: `score` (the probability of the start
            times the probability of the end, within a window), `start` and `end` (character indices in the context) and
            `answer`, which is empty if the context has no tokens. For a calibrated model also `answers`, the answers in
            the set, and `unfamiliarity`, the p-value of the question with its context. Without an answer, the other
            values are None, and `answers` has all candidates.

        Raises:
            ValueError: If a question or a context is empty or not a string, or if the question leaves no room for the
                context.
        """
        if inputs is None:
            inputs = _pairs(question, context)
        return [] if inputs == [] else super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self, coverage: float | None = None, abstain_below: float | None = None, **given: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        check_refusal(self.calibration, coverage, abstain_below)
        trusted = {"coverage": coverage, "abstain_below": abstain_below}
        trusted = {name: value for name, value in trusted.items() if value is not None}
        for name, value in given.items():
            least = {"doc_stride": 0, "handle_impossible_answer": None}.get(name, 1)
            kind, allowed = (bool, "True or False") if least is None else (int, f"an integer of at least {least}")
            if type(value) is not kind or (least is not None and value < least):
                raise ValueError(f"{name} must be {allowed}, got {value!r}.")
        after = {"top_k", "max_answer_len", "handle_impossible_answer"}
        return (
            {name: value for name, value in given.items() if name not in after},
            {},
            {**{name: value for name, value in given.items() if name in after}, **trusted},
        )

    def preprocess(
        self, inputs: Any, doc_stride: int = 128, max_seq_len: int = 384, max_question_len: int = 64
    ) -> Iterator[dict[str, Any]]:
        """Yield the windows of one context.

        Args:
            inputs: A dictionary with `question` and `context`.
            doc_stride: Number of tokens that neighbouring windows share.
            max_seq_len: Maximum number of tokens in a window, including the question.
            max_question_len: Number of tokens to truncate the question to.

        Yields:
            The inputs of the model, (1, S) each, with the context and the character offsets of the tokens.
        """
        question, context = _texts(inputs)
        tokenizer, config = self.tokenizer, self.model.config
        learned = getattr(config, "position_embedding", "learned") == "learned"
        positions = getattr(config, "max_position_embeddings", None) if learned else None
        length = min(n for n in (max_seq_len, tokenizer.model_max_length, positions) if n is not None)
        encoded, offsets = windows_of(tokenizer, question, context, length, doc_stride, max_question_len)
        names = [name for name in tokenizer.model_input_names if name in encoded]
        for index, places in enumerate(offsets):
            yield {
                "is_last": index == len(offsets) - 1,
                "context": context,
                "offsets": places,
                **{name: torch.tensor([encoded[name][index]]) for name in names},
            }

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        names = [name for name in self.tokenizer.model_input_names if name in model_inputs]
        inputs = {name: model_inputs[name] for name in names}
        kept = {name: value for name, value in model_inputs.items() if name not in names}
        outputs, p_values = with_p_values(self.model, self.calibration, **inputs)
        if p_values is not None:
            kept["unfamiliarity"] = p_values
        return {"start": outputs.start_logits, "end": outputs.end_logits, **kept}

    def postprocess(
        self,
        windows: list[dict[str, Any]],
        top_k: int = 1,
        max_answer_len: int = 15,
        handle_impossible_answer: bool = False,
        coverage: float | None = None,
        abstain_below: float | None = None,
    ) -> Any:
        """Return the best answers from all windows of a context.

        Args:
            windows: The outputs of `_forward`.
            top_k: Number of answers.
            max_answer_len: Maximum number of tokens in an answer.
            handle_impossible_answer: Whether an empty answer is allowed.
            coverage: The share of questions whose sets have a right answer.
            abstain_below: The p-value below which there is no answer.
        """
        scored = [
            (
                self._unpadded_logits(window["start"], window),
                self._unpadded_logits(window["end"], window),
                window["offsets"],
            )
            for window in windows
        ]
        number = top_k if self.calibration is None else max(top_k, CANDIDATES)
        answers = best_answers(scored, windows[0]["context"], number, max_answer_len, handle_impossible_answer)
        answers = in_sets(self.calibration, answers, windows, coverage, abstain_below)[:top_k]
        return answers if top_k > 1 else next(iter(answers), {"score": 0.0, "start": 0, "end": 0, "answer": ""})

    def _unpadded_logits(self, logits: torch.Tensor, window: dict[str, Any]) -> torch.Tensor:
        """Return the logits (S,) of the tokens of a window, without the padding of the batch."""
        logits, tokens = logits.flatten().float().cpu(), len(window["offsets"])
        return logits[-tokens:] if self.tokenizer.padding_side == "left" else logits[:tokens]


# For each token of a window, the start and end of its characters in the context; None if it is not in the context.
Offsets = list[tuple[int, int] | None]


def windows_of(
    tokenizer: Any, question: str, context: str, length: int, doc_stride: int, max_question_len: int
) -> tuple[Any, list[Offsets]]:
    """Tokenize a question with a context of any length into overlapping windows.

    Args:
        tokenizer: A fast tokenizer.
        question: The question, which is truncated to `max_question_len` tokens.
        context: The text to find the answer in.
        length: Maximum number of tokens in a window, including the question.
        doc_stride: Number of tokens that neighbouring windows share; at most half of the context in a window.
        max_question_len: Maximum number of tokens in the question.

    Returns:
        The output of the tokenizer, with one item per window, and the character offsets of the tokens of each window.

    Raises:
        ValueError: If the question leaves no room for the context.
    """
    tokenizer = private_copy(tokenizer)
    asked = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    question = question[: asked[:max_question_len][-1][1]] if asked else question
    room = length - min(len(asked), max_question_len) - tokenizer.num_special_tokens_to_add(pair=True)
    if room < 1:
        raise ValueError(
            f"max_seq_len={length} leaves no room for a context after a question of {length - room} tokens."
        )
    encoded = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=length,
        # Windows that share more than half of their tokens would advance too slowly.
        stride=min(doc_stride, room // 2),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    offsets = [
        [place if part == 1 else None for place, part in zip(places, encoded.sequence_ids(index), strict=True)]
        for index, places in enumerate(encoded["offset_mapping"])
    ]
    return encoded, offsets


def best_answers(
    windows: Iterable[tuple[torch.Tensor, torch.Tensor, Offsets]],
    context: str,
    top_k: int = 1,
    max_answer_len: int = 15,
    handle_impossible_answer: bool = False,
) -> list[dict[str, Any]]:
    """Find the best answers in all windows of a context.

    Args:
        windows: For each window, the logits (S,) for the start and the end of an answer, and the character offsets of
            the tokens.
        context: The text to find the answer in.
        top_k: Number of answers.
        max_answer_len: Maximum number of tokens in an answer.
        handle_impossible_answer: Whether an empty answer is allowed. The first token of a window represents it.

    Returns:
        Dictionaries with `score`, `start`, `end` and `answer`, the best answer first.
    """
    found: dict[tuple[int, int], float] = {}
    for start_logits, end_logits, offsets in windows:
        allowed = torch.tensor([place is not None for place in offsets])
        allowed[0] = handle_impossible_answer
        start, end = (
            logits.float().masked_fill(~allowed, -torch.inf).log_softmax(-1) for logits in (start_logits, end_logits)
        )
        # Sums of logarithms, since products of small probabilities would underflow. `following` is (S, max_answer_len):
        # for each start, the ends that follow it.
        following = F.pad(end, (0, max_answer_len - 1), value=-torch.inf).unfold(0, max_answer_len, 1)
        spans = start[:, None] + following
        if handle_impossible_answer:
            # The context has no answer only if none of its windows has one.
            found[0, 0] = min(float(spans[0, 0]), found.get((0, 0), 0.0))
            spans[0] = -torch.inf
        scores, places = spans.flatten().topk(min(top_k, spans.numel()))
        for score, place in zip(scores.tolist(), places.tolist(), strict=True):
            first, length = divmod(place, max_answer_len)
            opening, closing = (offsets[first], offsets[first + length]) if score > -math.inf else (None, None)
            if opening is not None and closing is not None:
                span = (opening[0], closing[1])
                found[span] = max(score, found.get(span, -math.inf))
    best = sorted(found.items(), key=lambda item: -item[1])[:top_k]
    return [
        {"score": math.exp(score), "start": start, "end": end, "answer": context[start:end]}
        for (start, end), score in best
    ]


def _pairs(questions: Any, contexts: Any) -> Any:
    """Pair questions with contexts: one dictionary, or a list of them if either is a list.

    Raises:
        ValueError: If there are two lists of different lengths.
    """
    if not isinstance(questions, list) and not isinstance(contexts, list):
        return {"question": questions, "context": contexts}
    count = len(questions if isinstance(questions, list) else contexts)
    questions = questions if isinstance(questions, list) else [questions] * count
    contexts = contexts if isinstance(contexts, list) else [contexts] * count
    if len(questions) != len(contexts):
        raise ValueError(
            f"question and context must have the same number of texts, or one of them a single text; got "
            f"{len(questions)} and {len(contexts)}."
        )
    return [{"question": question, "context": context} for question, context in zip(questions, contexts, strict=True)]


def _texts(inputs: Any) -> tuple[str, str]:
    texts = []
    for name in ("question", "context"):
        text = inputs.get(name) if isinstance(inputs, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{name} must be a non-empty string, got {text!r}.")
        texts.append(text)
    return texts[0], texts[1]
