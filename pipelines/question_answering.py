"""Answers to questions, found in a text: transformers took its pipeline for this out in 5.3, here is one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers.pipelines.base import ChunkPipeline

# Its annotations leave no room for the arguments that its subclasses are made to have.
_Pipeline: Any = ChunkPipeline


class QuestionAnsweringPipeline(_Pipeline):
    """Finds the answer to a question in a text of any length, which is read in windows that overlap.

    Arguments and results are those of the pipeline that transformers had. A saved model names it, so that
    `pipeline("question-answering", model=..., trust_remote_code=True)` makes one. With the package it is made directly:

    ```python
    >>> from sequence_encoder.pipelines import QuestionAnsweringPipeline
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

    def __call__(
        self, inputs: Any = None, *, question: str | None = None, context: str | None = None, **kwargs: Any
    ) -> Any:
        """Answers a question, or several.

        Args:
            inputs: instead of `question` and `context`: a dictionary of both, or a list of such.
            question: what is asked.
            context: the text to find the answer in.
            kwargs: `top_k`, how many answers to give (1); `max_answer_len`, their most tokens (15);
                `handle_impossible_answer`, whether there may be none, told by an empty one (False); `max_seq_len`, of a
                window, question included (384); `doc_stride`, the tokens that two windows share (128);
                `max_question_len`, where questions are cut (64); `batch_size`.

        Returns:
            For each question a dictionary, or a list of them where `top_k` is not 1: `score` (the probability of start
            times that of end, within a window), `start` and `end` (characters of the context) and `answer`.

        Raises:
            ValueError: if a question or a context is no text, or empty; if no room is left for the context.
        """
        return super().__call__({"question": question, "context": context} if inputs is None else inputs, **kwargs)

    def _sanitize_parameters(self, **given: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        for name in given.keys() - {"doc_stride", "handle_impossible_answer"} - {"padding"}:
            if not isinstance(given[name], int) or given[name] < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {given[name]!r}.")
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
        asked = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        question = question[: asked[:max_question_len][-1][1]] if asked else question
        positions = config.max_position_embeddings if getattr(config, "position_embedding", "") == "learned" else None
        length = min(n for n in (max_seq_len, tokenizer.model_max_length, positions) if n is not None)
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
        names = [name for name in tokenizer.model_input_names if name in encoded]
        count = len(encoded["input_ids"])
        for index in range(count):
            offsets = encoded["offset_mapping"][index]
            parts = encoded.sequence_ids(index)
            yield {
                "is_last": index == count - 1,
                "context": context,
                "offsets": [place if part == 1 else None for place, part in zip(offsets, parts, strict=True)],
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
        found: dict[tuple[int, int], float] = {}
        for window in windows:
            offsets, context = window["offsets"], window["context"]
            allowed = torch.tensor([place is not None for place in offsets])
            # The first token stands for there being no answer.
            allowed[0] = handle_impossible_answer
            start, end = (self._probabilities(window[name], allowed) for name in ("start", "end"))
            spans = (start[:, None] * end[None, :]).triu().tril(max_answer_len - 1)
            none = float(spans[0, 0])
            spans[0] = 0
            scores, places = spans.flatten().topk(min(top_k, spans.numel()))
            for score, place in zip(scores.tolist(), places.tolist(), strict=True):
                if score > 0:
                    first, last = divmod(place, len(offsets))
                    span = (offsets[first][0], offsets[last][1])
                    found[span] = max(score, found.get(span, 0.0))
            if handle_impossible_answer:
                # There is no answer where no window has one.
                found[0, 0] = min(none, found.get((0, 0), 1.0))
        best = sorted(found.items(), key=lambda item: -item[1])[:top_k]
        answers = [
            {"score": score, "start": start, "end": end, "answer": context[start:end]} for (start, end), score in best
        ]
        return answers[0] if top_k == 1 and answers else answers

    def _probabilities(self, logits: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """(S,) of the tokens of a window, zero where not allowed; without what a batch padded."""
        logits = logits.flatten().float().cpu()
        logits = logits[-len(allowed) :] if self.tokenizer.padding_side == "left" else logits[: len(allowed)]
        return logits.masked_fill(~allowed, -torch.inf).softmax(-1)


def _texts(inputs: Any) -> tuple[str, str]:
    texts = []
    for name in ("question", "context"):
        text = inputs.get(name) if isinstance(inputs, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{name} must be a text, got {text!r}.")
        texts.append(text)
    return texts[0], texts[1]
