"""Scores of queries and documents that have dense, sparse and multi-vector representations.

The definitions are those of BGE-M3 (Chen et al., 2024, https://arxiv.org/abs/2402.03216, section 3.2) and of
`compute_score` in FlagEmbedding (https://github.com/FlagOpen/FlagEmbedding).

Shapes: Q queries, D documents, L tokens of a text, C channels, V vocabulary, B batch, S sequence.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def lexical_score(query: Mapping[str, float], document: Mapping[str, float]) -> float:
    """Return the sum of the products of the weights of all tokens that both texts have."""
    few, many = sorted((query, document), key=len)
    return sum(weight * many[token] for token, weight in few.items() if token in many)


def multi_vector_score(query: torch.Tensor, document: torch.Tensor) -> torch.Tensor:
    """Return the mean over the tokens of a query of the largest product with a token of a document.

    Args:
        query: (L, C).
        document: (L', C).

    Returns:
        A scalar; 0 if one of the texts has no tokens.
    """
    if not len(query) or not len(document):
        return query.new_zeros(())
    return (query @ document.T).amax(dim=1).mean()


def multi_vector_scores(queries: Sequence[torch.Tensor], documents: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the `multi_vector_score` of each query with each document.

    Args:
        queries: (L, C) each.
        documents: (L', C) each.

    Returns:
        (Q, D).
    """
    if not queries or not documents:
        return torch.zeros(len(queries), len(documents))
    together = torch.cat(list(documents))
    lengths = torch.tensor([len(document) for document in documents])
    owners = torch.arange(len(documents)).repeat_interleave(lengths).to(together.device)
    scores = together.new_zeros(len(queries), len(documents))
    for row, query in enumerate(queries):
        if len(query):
            best = scores.new_full((len(query), len(documents)), -torch.inf)
            best = best.scatter_reduce(1, owners.expand(len(query), -1), query @ together.T, "amax")
            scores[row] = best.mean(dim=0)
    return scores.masked_fill(lengths.to(scores.device) == 0, 0)


def weighted_scores(
    dense: torch.Tensor, sparse: torch.Tensor, multi: torch.Tensor, weights: Sequence[float]
) -> dict[str, torch.Tensor]:
    """Return the three scores and their weighted means, by the names of FlagEmbedding.

    Args:
        dense: Scores of any shape.
        sparse: The same.
        multi: The same.
        weights: The weights of the three, in this order.

    Raises:
        ValueError: If there are not three weights of at least 0 and a positive sum.
    """
    if len(weights) != 3 or min(weights) < 0 or not 0 < sum(weights) < torch.inf:
        raise ValueError(f"weights must be three finite numbers of at least 0 with a positive sum, got {weights!r}.")
    of_dense, of_sparse, of_multi = weights
    two = of_dense * dense + of_sparse * sparse
    # Without a weight for either, their mean is undefined.
    both = two / (of_dense + of_sparse) if of_dense + of_sparse else torch.full_like(two, torch.nan)
    return {
        "colbert": multi,
        "sparse": sparse,
        "dense": dense,
        "sparse+dense": both,
        "colbert+sparse+dense": (two + of_multi * multi) / sum(weights),
    }


def similarities(
    queries: Mapping[str, Any], documents: Mapping[str, Any], weights: Sequence[float] = (1.0, 1.0, 1.0)
) -> dict[str, torch.Tensor]:
    """Return the scores of each query with each document.

    Args:
        queries: What `encode_multi` returns for a list of texts, with all three representations.
        documents: The same.
        weights: The weights of the dense, sparse and multi-vector scores in their means.

    Returns:
        (Q, D) for each of "dense", "sparse", "colbert", "sparse+dense" and "colbert+sparse+dense".

    Raises:
        ValueError: If a representation is missing, or only that of a single text, or the weights are invalid.
    """
    sides = (("queries", queries), ("documents", documents))
    for name, side in sides:
        for part in ("dense_vecs", "lexical_weights", "colbert_vecs"):
            if side.get(part) is None:
                raise ValueError(f"{name} must have {part}, which encode_multi leaves out on request.")
        if isinstance(side["lexical_weights"], Mapping):
            raise ValueError(f"{name} must be those of a list of texts, got those of a single text; encode a list.")
    # One side may be in half precision.
    dense = [torch.as_tensor(side["dense_vecs"]).float() for _, side in sides]
    tokens = [[torch.as_tensor(text).float() for text in side["colbert_vecs"]] for _, side in sides]
    words = [side["lexical_weights"] for _, side in sides]
    sparse = [[lexical_score(one, other) for other in words[1]] for one in words[0]]
    multi = multi_vector_scores(*tokens)
    return weighted_scores(dense[0] @ dense[1].T, multi.new_tensor(sparse).view_as(multi), multi, weights)


def vocabulary_weights(token_weights: torch.Tensor, input_ids: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Return the largest weight of each token of the vocabulary in each text, with gradients, for training.

    Args:
        token_weights: (B, S), as in the outputs of `SequenceEncoderForRetrieval`.
        input_ids: (B, S).
        vocab_size: V.

    Returns:
        (B, V), 0 for tokens that a text does not have.
    """
    weights = token_weights.new_zeros(len(input_ids), vocab_size)
    return weights.scatter_reduce(1, input_ids, token_weights, "amax")
