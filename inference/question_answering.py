"""Answers to questions, found in a text: transformers took its pipeline for this out in 5.3, here is one."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.nn import functional as F
from transformers.pipelines.base import ChunkPipeline

from ..tokenizer.private_copy import private_copy

# Its annotations leave no room for the arguments that its subclasses are made to have.
_Pipeline: Any = ChunkPipeline


class QuestionAnsweringPipeline(_Pipeline):
    """Finds the answer to a question in a text of any length, which is read in windows that overlap.

    Arguments and results are named as in the pipeline that transformers had. A saved model names it, so that
    `pipeline("question-answering", model=..., trust_remote_code=True)` makes one. With the package it is made directly:

    ```python
    >>> from sequence_encoder.inference import QuestionAnsweringPipeline
    >>> answer = QuestionAnsweringPipeline(model=model, tokenizer=tokenizer)  # doctest: +SKIP
    >>> answer(question="Who wrote it?", context="It was written by Ada.")  # doctest: +SKIP
    {'score': 0.9, 'start': 18, 'end': 21, 'answer': 'Ada'}

    ```

    Args:
        model: with a head for question answering.
        tokenizer: a fast one, that of the model.
        kwargs: of transformers' `Pipeline`, and those of a call.

    Raises:
        ValueError: for another head, or a tokenizer that does not say which characters a token is of.
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    default_input_names = "question,context"

    def __init__(self, model: Any, tokenizer: Any, **kwargs: Any) -> None:
        if not type(model).__name__.endswith("ForQuestionAnswering"):
            raise ValueError(f"model must have a head for question answering, got a {type(model).__name__}.")
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(f"tokenizer must be a fast one, got a {type(tokenizer).__name__}.")
        super().__init__(model=model, tokenizer=tokenizer, **kwargs)

    def __call__(self, inputs: Any = None, *, question: Any = None, context: Any = None, **kwargs: Any) -> Any:
        """Answers a question, or several.

        Args:
            inputs: instead of `question` and `context`: a dictionary of both, or a list of such.
            question: what is asked; or a list of questions, with as many contexts, or one for all.
            context: the text to find the answer in; or a list of them, with as many questions, or one for all.
            kwargs: `top_k`, how many answers to give (1); `max_answer_len`, their most tokens (15);
                `handle_impossible_answer`, whether there may be none, told by an empty one (False); `max_seq_len`, of a
                window, question included (384); `doc_stride`, the tokens that two windows share (128);
                `max_question_len`, where questions are cut (64); `batch_size`.

        Returns:
            For each question a dictionary, or a list of them where `top_k` is not 1: `score` (the probability of start
            times that of end, within a window), `start` and `end` (characters of the context) and `answer`, which is
            empty where the context has no tokens.

        Raises:
            ValueError: if a question or a context is no text, or empty; if no room is left for the context.
        """
        if inputs is None:
            inputs = _pairs(question, context)
        return [] if inputs == [] else super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, **given: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        for name, value in given.items():
            least = {"doc_stride": 0, "handle_impossible_answer": None}.get(name, 1)
            kind, allowed = (bool, "True or False") if least is None else (int, f"a whole number of at least {least}")
            if type(value) is not kind or (least is not None and value < least):
                raise ValueError(f"{name} must be {allowed}, got {value!r}.")
        after = {"top_k", "max_answer_len", "handle_impossible_answer"}
        return (
            {name: value for name, value in given.items() if name not in after},
            {},
            {name: value for name, value in given.items() if name in after},
        )

    def preprocess(
        self, inputs: Any, doc_stride: int = 128, max_seq_len: int = 384, max_question_len: int = 64
    ) -> Iterator[dict[str, Any]]:
        """The windows of one context: tensors (1, S), and for each token its characters if it is of the context."""
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
        outputs = self.model(**{name: model_inputs[name] for name in names}, return_dict=True)
        kept = {name: value for name, value in model_inputs.items() if name not in names}
        return {"start": outputs.start_logits, "end": outputs.end_logits, **kept}

    def postprocess(
        self,
        windows: list[dict[str, Any]],
        top_k: int = 1,
        max_answer_len: int = 15,
        handle_impossible_answer: bool = False,
    ) -> Any:
        """The best answers of all windows of a context."""
        scored = [
            (self._of_window(window["start"], window), self._of_window(window["end"], window), window["offsets"])
            for window in windows
        ]
        answers = best_answers(scored, windows[0]["context"], top_k, max_answer_len, handle_impossible_answer)
        return answers if top_k > 1 else next(iter(answers), {"score": 0.0, "start": 0, "end": 0, "answer": ""})

    def _of_window(self, logits: torch.Tensor, window: dict[str, Any]) -> torch.Tensor:
        """(S,) of the tokens of a window, without what a batch padded."""
        logits, tokens = logits.flatten().float().cpu(), len(window["offsets"])
        return logits[-tokens:] if self.tokenizer.padding_side == "left" else logits[:tokens]


# For each token of a window its characters in the context, None if it is not of it.
Offsets = list[tuple[int, int] | None]


def windows_of(
    tokenizer: Any, question: str, context: str, length: int, doc_stride: int, max_question_len: int
) -> tuple[Any, list[Offsets]]:
    """A question with a context, in windows that overlap.

    Args:
        tokenizer: a fast one.
        question: is cut to `max_question_len` tokens.
        context: of any length.
        length: tokens of a window, question included.
        doc_stride: tokens that two windows share; at most half of what there is room for.
        max_question_len: in tokens.

    Returns:
        What the tokenizer gives, an item for each window; and the characters of the tokens of each.

    Raises:
        ValueError: if no room is left for the context.
    """
    tokenizer = private_copy(tokenizer)
    asked = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    question = question[: asked[:max_question_len][-1][1]] if asked else question
    room = length - min(len(asked), max_question_len) - tokenizer.num_special_tokens_to_add(pair=True)
    if room < 1:
        raise ValueError(
            f"max_seq_len={length} leaves no room for a context beside a question of {length - room} tokens."
        )
    encoded = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=length,
        # Windows that shared half of their tokens or more would hardly move on.
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
    """The best answers of all windows of a context.

    Args:
        windows: the logits (S,) of where an answer starts and ends, and the characters of the tokens.
        context: the text.
        top_k: how many.
        max_answer_len: their most tokens.
        handle_impossible_answer: whether there may be none, which the first token of a window stands for.

    Returns:
        The best first: `score`, `start`, `end` and `answer`.
    """
    found: dict[tuple[int, int], float] = {}
    for start_logits, end_logits, offsets in windows:
        allowed = torch.tensor([place is not None for place in offsets])
        allowed[0] = handle_impossible_answer
        start, end = (
            logits.float().masked_fill(~allowed, -torch.inf).log_softmax(-1) for logits in (start_logits, end_logits)
        )
        # Logarithms, since products of small probabilities would be zero. (S, max_answer_len): for each start the ends
        # from there on.
        following = F.pad(end, (0, max_answer_len - 1), value=-torch.inf).unfold(0, max_answer_len, 1)
        spans = start[:, None] + following
        if handle_impossible_answer:
            # There is no answer where no window has one.
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
    """One dictionary, or a list of them where there are lists.

    Raises:
        ValueError: if there are lists of different lengths.
    """
    if not isinstance(questions, list) and not isinstance(contexts, list):
        return {"question": questions, "context": contexts}
    count = len(questions if isinstance(questions, list) else contexts)
    questions = questions if isinstance(questions, list) else [questions] * count
    contexts = contexts if isinstance(contexts, list) else [contexts] * count
    if len(questions) != len(contexts):
        raise ValueError(f"question has {len(questions)} texts and context {len(contexts)}; give as many, or one.")
    return [{"question": question, "context": context} for question, context in zip(questions, contexts, strict=True)]


def _texts(inputs: Any) -> tuple[str, str]:
    texts = []
    for name in ("question", "context"):
        text = inputs.get(name) if isinstance(inputs, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{name} must be a text, got {text!r}.")
        texts.append(text)
    return texts[0], texts[1]
