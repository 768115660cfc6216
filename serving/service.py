"""What the routes of all protocols share: models by name, limits, tokenizing, and waiting for results."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from fastapi import Request

from ..data.vector_kinds import DOCUMENT
from .arguments import ServerLimits, check_different
from .metrics import Metrics
from .responses import RequestError
from .scheduler import DroppedError, Scheduler
from .served_model import RERANK, Group, Row, ServedModel, TooLongError, WindowRow
from .work_queue import QueueFullError, RequestTooLargeError, WorkQueue

# Characters that are tokenized at once on the event loop. Another thread would take longer to answer.
SHORT = 4_000
_CLIENT_LEFT = 499


def _in_words(tasks: Sequence[str]) -> str:
    return " or ".join(task.replace("_", " ") for task in tasks)


class Service:
    """The models of a server and their queue.

    Args:
        models: The models. Requests without the name of one get the first that can do what they ask for.
        limits: The limits.
        truncate: Whether to cut texts that are too long, unless a request says otherwise.

    Attributes:
        started: The time in seconds.
        stopping: Whether new requests are refused.
        active: Number of requests that are not finished.

    Raises:
        UsageError: If there are no models, or two have the same name.
    """

    def __init__(self, models: Sequence[ServedModel], limits: ServerLimits, truncate: bool) -> None:
        check_different([model.name for model in models])
        self.models, self.limits, self.truncate = tuple(models), limits, truncate
        self.metrics = Metrics()
        queue = WorkQueue(limits.max_tokens, limits.max_queue_tokens, lambda group: group.model)
        self.scheduler = Scheduler(queue, lambda group, rows: group.model.compute(group, rows), self.metrics.batch)
        self.metrics.watch(self.scheduler)
        self.started = int(time.time())
        self.stopping = False
        self.active = 0

    def named(self, name: str) -> ServedModel:
        """Return the model of a name.

        Raises:
            RequestError: If no model has that name.
        """
        for model in self.models:
            if model.name == name:
                return model
        known = ", ".join(model.name for model in self.models)
        raise RequestError(404, f"There is no model {name[:100]!r}; there is {known}.", "model", "model_not_found")

    def model(self, name: str | None, *tasks: str) -> ServedModel:
        """Return the model for a request.

        Args:
            name: The name that the request gives, or None.
            *tasks: The model must be able to do one of them.

        Raises:
            RequestError: If no model has that name, or none can do the task.
        """
        for model in self.models if name is None else (self.named(name),):
            if set(tasks) & set(model.tasks):
                return model
        words = _in_words(tasks)
        said = f"No model of this server can {words}." if name is None else f"The model {name} cannot {words}."
        can = ", ".join(f"{each.name} can {_in_words(each.tasks)}" for each in self.models)
        said = f"{said} Start the server with a model that can; {can}."
        raise RequestError(400, said, "model", "model_not_supported")

    def prompt(self, model: ServedModel, name: str | None) -> str:
        """Return the prompt of a name.

        Raises:
            RequestError: If the model has no such prompt.
        """
        try:
            return model.prompt(name)
        except ValueError as error:
            raise RequestError(400, str(error), "prompt_name") from error

    async def tokenize(
        self,
        model: ServedModel,
        texts: Sequence[Any],
        truncate: bool | None,
        prompt: str = "",
        reading: str = DOCUMENT,
    ) -> list[Row]:
        """Tokenize the texts or pairs of texts of a request.

        Args:
            model: The model.
            texts: Strings, pairs of strings, or lists of token ids.
            truncate: Whether to cut texts that are too long; by default what the server does.
            prompt: Put before each text.
            reading: See `ServedModel.tokenize`.

        Raises:
            RequestError: If there are no texts, too many texts or characters, or a text is empty or too long.
        """
        self.check_number(len(texts))
        cut = self.truncate if truncate is None else truncate
        try:
            if isinstance(texts[0], list):
                return self._given_rows(model, texts, cut)
            length = len(prompt) * len(texts) + sum(
                len(text) if isinstance(text, str) else sum(map(len, text)) for text in texts
            )
            self.check_characters(length, "the query or the prompt")
            if length <= SHORT:
                return model.tokenize(texts, cut, prompt, reading)
            return await asyncio.to_thread(model.tokenize, texts, cut, prompt, reading)
        except TooLongError as error:
            raise RequestError(413, str(error), code="context_length_exceeded") from error
        except ValueError as error:
            raise RequestError(400, str(error)) from error

    def check_number(self, texts: int) -> None:
        """Check the number of texts of a request.

        Raises:
            RequestError: If there are none, or too many.
        """
        if not texts:
            raise RequestError(400, "The request has no texts.", code="empty")
        if texts > (most := self.limits.max_texts):
            raise RequestError(413, f"The request has {texts} texts, but the server accepts at most {most}.")

    def check_characters(self, length: int, repeated: str) -> None:
        """Check the number of characters of a request.

        Args:
            length: The number, counting what is read with each text once for each.
            repeated: What is read with each text. A long one would take far more memory than the body of the request.

        Raises:
            RequestError: If there are too many.
        """
        if length > (most := self.limits.max_body_bytes):
            raise RequestError(
                413,
                f"The request has {length} characters, counting {repeated} once for each text, and the server takes at "
                f"most {most}.",
            )

    def check_tokens(self, tokens: int) -> None:
        """Check the number of tokens of a request that is not computed.

        Raises:
            RequestError: If there are too many.
        """
        if tokens > (most := self.limits.max_queue_tokens):
            raise RequestError(413, f"The request has {tokens} tokens, but the server accepts at most {most}.")

    async def compute(
        self,
        request: Request,
        group: Group,
        rows: Sequence[Row | WindowRow],
        check: Callable[[Any], object] | None = None,
    ) -> list[Any]:
        """Compute the texts of a request.

        `check` sees each result as soon as it is computed. A `RequestError` that it raises ends the request.

        Raises:
            RequestError: If there is no room, the computation fails, or a result is not finite; or see `check`.
        """
        try:
            work = await self.scheduler.compute(group, rows, [len(row.ids) for row in rows], _gone(request), check)
        except RequestError:
            raise
        except RequestTooLargeError as error:
            raise RequestError(413, str(error)) from error
        except QueueFullError as error:
            later = {"Retry-After": str(error.seconds)}
            raise RequestError(429, str(error), code="queue_full", headers=later) from error
        except DroppedError as error:
            status = 503 if self.stopping else _CLIENT_LEFT
            raise RequestError(status, str(error)) from error
        except Exception as error:
            raise RequestError(500, "The model could not compute the request.", code="backend") from error
        self.metrics.waited.observe((work.started or work.arrived) - work.arrived)
        if not all(np.isfinite(part).all() for result in work.results for part in _parts(result)):
            raise RequestError(500, "A result of the model is not finite.", code="not_finite")
        return work.results

    async def rank(
        self, request: Request, model: ServedModel, query: str, texts: Sequence[str], truncate: bool | None
    ) -> tuple[list[Row], np.ndarray[Any, Any]]:
        """Return the tokens of each pair of a query and a text, and the logits (N, 1) of a model with one label.

        Raises:
            RequestError: See `tokenize` and `compute`.
        """
        rows = await self.tokenize(model, [(query, text) for text in texts], truncate)
        return rows, np.stack(await self.compute(request, Group(model, RERANK), rows))

    async def embed(
        self,
        request: Request,
        model: ServedModel,
        rows: list[Row],
        prompt: str = "",
        normalize: bool | None = None,
        dimensions: int | None = None,
    ) -> np.ndarray[Any, Any]:
        """Compute the vectors of texts.

        Args:
            request: The request.
            model: The model.
            rows: The texts.
            prompt: The prompt that they start with.
            normalize: Whether to scale vectors to unit length. Defaults to the recipe of the model.
            dimensions: Number of channels to keep, and to scale to unit length again if the vectors have it.

        Returns:
            (N, D) float32.

        Raises:
            RequestError: See `compute`; or if the vectors have fewer channels.
        """
        try:
            kept = model.recipe.kept_channels(model.encoder.config.hidden_size, dimensions)
            group = model.embedding_group(prompt, normalize)
        except ValueError as error:
            raise RequestError(400, str(error).replace("truncate_dim", "dimensions"), "dimensions") from error
        vectors = np.stack(await self.compute(request, group, rows))
        asked = normalize is None and dimensions is not None and model.normalizes
        is_cut = kept < vectors.shape[1]
        vectors = vectors[:, :kept]
        if normalize or (is_cut and asked):
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return np.ascontiguousarray(vectors)

    def _given_rows(self, model: ServedModel, texts: Sequence[list[int]], truncate: bool) -> list[Row]:
        """Return texts that the client has tokenized."""
        size = model.encoder.config.vocab_size
        for index, ids in enumerate(texts):
            if ids and not 0 <= min(ids) <= max(ids) < size:
                raise ValueError(f"Text {index} has token ids that are not from 0 to {size - 1}.")
        rows = [Row(ids[: model.max_length] if truncate else ids) for ids in texts]
        model.check_lengths(rows)
        return rows


async def _gone(request: Request) -> None:
    """Return when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _parts(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)
