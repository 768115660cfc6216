"""Loads the model of an index again, to compute the vectors of queries as those of its texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..command_line import UsageError
from ..command_line.progress import Progress
from ..conversion.source import Source
from ..data.vector_kinds import DENSE, DOCUMENT, QUERY
from ..inference.corpora.models import kind_of, load_encoder, load_text_vectors
from ..inference.device import choose_device
from ..inference.vectors.text_vectors import TextVectors


class QueryEncoding(NamedTuple):
    """The two ways in which the model of an index reads texts. Threads may call them at the same time.

    Attributes:
        document: Returns the vector that the index stores for a text.
        query: Returns the vector of a query.
    """

    document: Callable[[str], Any]
    query: Callable[[str], Any]


def load_query_encoding(
    name: str, device: str | None, facts: Mapping[str, Any], query_prompt: str | None
) -> QueryEncoding:
    """Load a model for the queries of an index.

    Args:
        name: A folder or a Hub id.
        device: The device to compute on; by default that of `load_encoder`.
        facts: How the vectors of the index were computed.
        query_prompt: What to put before queries; None for the prompt of the model.

    Raises:
        UsageError: If its vectors are of another kind or size.
        ValueError: If it cannot be loaded.
    """
    kinds = facts.get("vectors", [DENSE])
    # Only a model that gives dense vectors by default may give others.
    source = Source(name)
    kind = kind_of(source) or kind_of(source, kinds)
    if kinds != ([DENSE] if kind is None else list(kind.kinds)):
        raise UsageError(f"{name} does not have {' and '.join(kinds)} vectors, as the index does.")
    if kind is None:
        return _dense(source, device, facts, query_prompt)
    vectors, _ = load_text_vectors(kind, source, choose_device(device), "auto")
    if [vectors.channels(each) for each in kinds] != facts["dimensions"]:
        raise UsageError(f"{name} has vectors of other sizes than those of the index.")
    return text_vectors_encoding(vectors, facts, query_prompt)


def text_vectors_encoding(vectors: TextVectors, facts: Mapping[str, Any], query_prompt: str | None) -> QueryEncoding:
    """Return how a model reads the texts and the queries of an index. See `load_query_encoding`."""

    def encode(text: str, task: str, **options: Any) -> Any:
        # Each call creates a tokenizer, because several threads may call this.
        ids = vectors.reader(task, **options).tokenize([text])["input_ids"]
        with Progress("", show=False) as silent:
            found = vectors.encode(
                ids, task, normalize=facts["normalize"], max_tokens=1, name=lambda _: repr(text), progress=silent
            )
        return found[vectors.kinds.index(facts["vectors"][0])][0]

    return QueryEncoding(
        lambda text: encode(text, DOCUMENT, prompt=facts["prompt"], max_length=facts["max_length"]),
        lambda text: encode(text, QUERY, prompt=query_prompt),
    )


def _dense(source: Source, device: str | None, facts: Mapping[str, Any], query_prompt: str | None) -> QueryEncoding:
    encoder, tokenizer, _ = load_encoder(source, device, "auto")
    options = {
        "show_progress_bar": False,
        "pooling": facts["pooling"][0] if len(facts["pooling"]) == 1 else None,
        "normalize_embeddings": facts["normalized"],
        "max_length": facts["max_length"],
        "truncate_dim": facts["dimensions"],
    }
    if encoder.recipe_for().channels(encoder.config.hidden_size) < facts["dimensions"]:
        raise UsageError(f"{source.name} has vectors of other sizes than those of the index.")
    named = {"prompt_name": "query"} if query_prompt is None else {"prompt": query_prompt}
    return QueryEncoding(
        lambda text: encoder.encode(text, tokenizer, prompt=facts["prompt"], **options),
        lambda text: encoder.encode(text, tokenizer, **named, **options),
    )
