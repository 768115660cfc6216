"""Encodes texts with a table of token vectors: the vector of a text is the mean of rows of the table.

There are no layers, so there is nothing to sort, batch or pack.

Shapes: N texts, T tokens of all texts, D channels.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from ...tokenizer.token_rows import TokenRows
from ..packing import device_of, moved

# Number of tokens whose vectors are in memory at a time, if these are not simply the rows of the table.
_MOST_TOKENS = 65_536


@torch.no_grad()
def mean_vectors(model: Any, ids: Sequence[Any], skipped: int = 0) -> torch.Tensor:
    """Return the mean of the token vectors of each text, (N, D) in at least float32; zero for a text without tokens.

    Args:
        model: A static encoder.
        ids: The tokens of the texts.
        skipped: Number of tokens to skip at the start of each text, those of the prompt.
    """
    rows = ids if isinstance(ids, TokenRows) else TokenRows.of(ids)
    if skipped:
        rows = TokenRows.of([cast(Any, row)[skipped:] for row in rows])
    if model.config.unweighted_token_ids:
        rows = rows.without(model.config.unweighted_token_ids)
    table, device = model.embed_tokens, device_of(model)
    tokens, offsets = (moved(torch.from_numpy(each), device) for each in (rows.ids, rows.offsets))
    # Adapters, tables in eight bits and offloaded tables compute rows in their own way.
    plain = type(table) is nn.Embedding and not table.weight.is_meta and not hasattr(table, "_hf_hook")
    dtype = torch.promote_types(model.dtype, torch.float32)
    # A cast takes as long as reading a few rows for each row of the table.
    if plain and (table.weight.dtype == dtype or len(rows.ids) > len(table.weight)):
        return F.embedding_bag(tokens, table.weight.to(dtype), offsets, mode="mean", include_last_offset=True)
    vectors = torch.zeros(len(rows), model.config.hidden_size, dtype=dtype, device=device)
    lengths = offsets.diff()
    texts = torch.repeat_interleave(torch.arange(len(rows), device=device), lengths)
    for part, some in zip(texts.split(_MOST_TOKENS), tokens.split(_MOST_TOKENS), strict=True):
        vectors.index_add_(0, part, table(some).to(device, dtype))
    return vectors / lengths.clamp(min=1)[:, None]
