"""The models that a search page can compute the vectors of queries with, and their files."""

from __future__ import annotations

import json
from typing import Any, Protocol

import numpy as np
import torch

from ...command_line import UsageError
from ...modeling.text_encoding.embedding_recipe import Normalize
from ...modeling.text_encoding.prepared_encoding import PreparedEncoding
from .eight_bits import in_eight_bits
from .site_folder import SiteFiles
from .wordpiece import wordpiece_fields


class PageModel(Protocol):
    """A model for the vectors of queries."""

    def write(self, files: SiteFiles) -> dict[str, Any]:
        """Write the files of the model, and return what the page has to know."""


class StaticPageModel:
    """A table of token vectors, which the page adds up without any library.

    Args:
        prepared: How a static encoder reads queries.
        name: The name of the model, for errors.

    Raises:
        UsageError: If the vector of a text is not the mean of rows of the table, or the page cannot split texts into
            its tokens.
    """

    def __init__(self, prepared: PreparedEncoding, name: str) -> None:
        recipe = prepared.recipe
        if recipe.pooling != ("mean",) or not all(isinstance(step, Normalize) for step in recipe.after):
            raise UsageError(f"{name}: for a search page, the vectors of a static model must be means of its table.")
        self._prepared = prepared
        backend: Any = prepared.tokenizer
        self._fields = wordpiece_fields(json.loads(backend.backend_tokenizer.to_str()), name)

    def write(self, files: SiteFiles) -> dict[str, Any]:
        """See `PageModel.write`."""
        table = self._table()
        return {
            "kind": "static",
            "table": {"file": files.add("table", in_eight_bits([table])), "rows": len(table)},
            "tokenizer": files.add_json("tokenizer", self._fields),
            "prompt": self._prepared.prompt,
            "skipped": self._prepared.skipped,
            "max_length": self._prepared.max_length,
        }

    @torch.no_grad()
    def _table(self) -> np.ndarray[Any, Any]:
        """Return the rows of the tokens, of as many channels as vectors keep."""
        encoder = self._prepared.encoder
        table = encoder.embed_tokens(torch.arange(encoder.config.vocab_size)).float()
        # The direction of a sum does not depend on how many tokens are 0.
        table[list(encoder.config.unweighted_token_ids or [])] = 0
        return table[:, : self._prepared.kept_channels].numpy()
