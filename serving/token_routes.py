"""Routes that show tokens: those of a text, the text of tokens, and the likely tokens for a mask.

Long requests would keep the event loop from all others, so threads answer them.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from .responses import Body, Items, RequestError, StrictJsonRoute, json_response
from .served_model import FILL_MASK, TEXT_TASKS, TOP_K, Group, ServedModel
from .service import Service


class TokenizeBody(Body):
    """A request for the tokens of texts."""

    inputs: str | Items[str]
    model: str | None = None
    add_special_tokens: bool = True
    prompt_name: str | None = None


class DecodeBody(Body):
    """A request for the texts of tokens."""

    ids: Items[int] | Items[Items[int]]
    model: str | None = None
    skip_special_tokens: bool = True


class FillMaskBody(Body):
    """A request for the likely tokens for each mask of texts."""

    inputs: str | Items[str]
    model: str | None = None
    truncate: bool | None = None
    top_k: int = Field(default=5, ge=1, le=TOP_K)


def token_routes(service: Service) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(route_class=StrictJsonRoute)

    @routes.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> Response:
        model = service.model(body.model, *TEXT_TASKS)
        prompt = service.prompt(model, body.prompt_name)
        texts = [prompt + text for text in ([body.inputs] if isinstance(body.inputs, str) else body.inputs)]
        service.check_number(len(texts))
        if not model.tokenizer.is_fast:
            raise RequestError(400, f"The tokenizer of {model.name} does not know the offsets of its tokens.")
        options: dict[str, Any] = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
        options["add_special_tokens"] = body.add_special_tokens
        found = await asyncio.to_thread(model.tokenizer, texts, verbose=False, **options)
        service.check_tokens(sum(map(len, found["input_ids"])))
        return await asyncio.to_thread(_described, model, texts, found)

    @routes.post("/decode")
    async def decode(body: DecodeBody) -> Response:
        model = service.model(body.model, *TEXT_TASKS)
        given: list[Any] = body.ids
        texts = [given] if given and isinstance(given[0], int) else given
        service.check_number(len(texts))
        service.check_tokens(sum(map(len, texts)))
        size = model.encoder.config.vocab_size
        if any(not 0 <= token < size for ids in texts for token in ids):
            raise RequestError(400, f"ids must be from 0 to {size - 1}.", "ids")
        options = {"skip_special_tokens": body.skip_special_tokens}
        return json_response(await asyncio.to_thread(model.tokenizer.batch_decode, texts, **options))

    @routes.post("/fill_mask")
    async def fill_mask(body: FillMaskBody, request: Request) -> Response:
        return await fill_masks(service, body, request)

    return routes


async def fill_masks(service: Service, body: FillMaskBody, request: Request) -> Response:
    """Return the likely tokens for each mask of each text."""
    model = service.model(body.model, FILL_MASK)
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    rows = await service.tokenize(model, texts, body.truncate)
    mask = model.tokenizer.mask_token_id
    for index, row in enumerate(rows):
        if mask not in row.ids:
            raise RequestError(400, f"Text {index} has no {model.tokenizer.mask_token}.", "inputs")
    if (masks := sum(row.ids.count(mask) for row in rows)) > (most := service.limits.max_texts):
        raise RequestError(413, f"The request has {masks} masks, but the server accepts at most {most}.", "inputs")
    found = await service.compute(request, Group(model, FILL_MASK), rows)

    def fill() -> Response:
        results = zip(rows, found, strict=True)
        filled = [_filled(model, row.ids, tokens, scores, body.top_k) for row, (tokens, scores) in results]
        return json_response(filled[0] if isinstance(body.inputs, str) else filled)

    return await asyncio.to_thread(fill)


def _described(model: ServedModel, texts: list[str], found: Any) -> Response:
    """Return the tokens of each text with their places in it."""
    names = model.tokenizer.convert_ids_to_tokens
    columns = (texts, found["input_ids"], found["offset_mapping"], found["special_tokens_mask"])
    return json_response(
        [
            [
                {
                    "id": token,
                    "text": names(token) if special else text[start:stop],
                    "special": bool(special),
                    "start": None if special else start,
                    "stop": None if special else stop,
                }
                for token, (start, stop), special in zip(ids, places, specials, strict=True)
            ]
            for text, ids, places, specials in zip(*columns, strict=True)
        ]
    )


def _filled(model: ServedModel, ids: list[int], tokens: Any, scores: Any, top_k: int) -> list[Any]:
    """Return the likely tokens for the mask of a text, or a list of them for several masks, as transformers does."""
    decode = model.tokenizer.decode
    places = [place for place, token in enumerate(ids) if token == model.tokenizer.mask_token_id]
    filled: list[list[dict[str, Any]]] = []
    for place, row_tokens, row_scores in zip(places, tokens[:, :top_k], scores[:, :top_k], strict=True):
        filled.append(
            [
                {
                    "score": float(score),
                    "token": token,
                    "token_str": decode([token]),
                    "sequence": decode([*ids[:place], token, *ids[place + 1 :]], skip_special_tokens=True),
                }
                for token, score in zip(row_tokens.tolist(), row_scores, strict=True)
            ]
        )
    return filled[0] if len(filled) == 1 else filled
