"""Attributions: how much each word of a text adds to the number that the model gives.

Shapes: N copies, W words of a request, T targets, L tokens of a row, E channels of the token vectors.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from .attention import attention_weights, rolled_out
from .values import Path, Values
from .words import NO_WORD, Request


def occlusion(values: Values, requests: Sequence[Request], samples: int, seed: int) -> list[torch.Tensor]:
    """Return what the number loses without each word, one at a time (Zeiler and Fergus, 2014), (W, T)."""
    found = []
    for numbers in values([(request, _all_and_without_one(request)) for request in requests]):
        found.append(numbers[:1] - numbers[1:])
    return found


def _all_and_without_one(request: Request) -> torch.Tensor:
    """Return the words of the whole text, and of the copies that lack one word each, (W + 1, W)."""
    kept = request.kept(len(request.words) + 1)
    kept[1:].fill_diagonal_(False)
    return kept


def shapley(values: Values, requests: Sequence[Request], samples: int, seed: int) -> list[torch.Tensor]:
    """Return the Shapley values of words, (W, T): what they add on average, over orders in which words join the text.

    The orders are sampled (Castro et al., 2009). Each order is followed by its reverse, which lowers the variance
    (Mitchell et al., 2022). If there are no more orders than samples, all of them count, and the values are exact.
    """
    orders = [_orders(len(request.words), samples, np.random.default_rng(seed)) for request in requests]
    asked = []
    for request, paths in zip(requests, orders, strict=True):
        ranks = torch.from_numpy(paths.argsort(1))
        # (orders, W + 1, W): a word is there as soon as its turn has come.
        turns = torch.arange(len(request.words) + 1)[None, :, None]
        asked.append((request, (ranks[:, None] < turns).flatten(0, 1)))
    found = []
    for request, paths, numbers in zip(requests, orders, values(asked), strict=True):
        steps = numbers.unflatten(0, (len(paths), -1)).diff(dim=1)
        ranks = torch.from_numpy(paths.argsort(1))[..., None].expand(-1, -1, steps.shape[-1])
        found.append(steps.gather(1, ranks).mean(0) if len(request.words) else steps.mean(0))
    return found


def _orders(words: int, samples: int, random: np.random.Generator) -> np.ndarray:
    """Return orders of words, (orders, W)."""
    if words < 10 and math.factorial(words) <= samples:
        return np.array(list(itertools.permutations(range(words))), dtype=np.int64)
    pairs = [random.permutation(words) for _ in range(-(-samples // 2))]
    return np.array([order for one in pairs for order in (one, one[::-1])])[:samples]


@torch.inference_mode(False)
def integrated_gradients(values: Values, requests: Sequence[Request], samples: int, seed: int) -> list[torch.Tensor]:
    """Return integrated gradients (Sundararajan et al., 2017), summed over the pieces of each word, (W, T).

    The path leads from a text in which mask tokens replace all words, or zeros if the tokenizer has no mask token. The
    integral is a sum of `samples` points by the rule of Gauss and Legendre.
    """
    nodes, weights = np.polynomial.legendre.leggauss(samples)
    asked = [(request, _paths(values, request)) for request in requests]
    found = values.path_gradients(asked, ((nodes + 1) / 2).tolist(), (weights / 2).tolist())
    return [_by_words(request, products) for request, products in zip(requests, found, strict=True)]


@torch.inference_mode(False)
def gradient_x_input(values: Values, requests: Sequence[Request], samples: int, seed: int) -> list[torch.Tensor]:
    """Return the products of token vectors and their gradients (Shrikumar et al., 2016), summed over words, (W, T)."""
    ends = [[end for _, end in _paths(values, request)] for request in requests]
    asked = [
        (request, [(torch.zeros_like(end), end) for end in each]) for request, each in zip(requests, ends, strict=True)
    ]
    found = values.path_gradients(asked, [1.0], [1.0])
    return [_by_words(request, products) for request, products in zip(requests, found, strict=True)]


@torch.no_grad()
def _paths(values: Values, request: Request) -> list[Path]:
    """Return the token vectors without words and with them, for each row."""
    embed, paths = values.head.encoder.get_input_embeddings(), []
    mask_id, device = values.head.tokenizer.mask_token_id, values.head.model.device
    for row in request.rows:
        vectors = embed(torch.tensor(row.ids, device=device))
        words = torch.tensor(row.words, device=device)[:, None] != NO_WORD
        nothing = torch.zeros_like(vectors[0]) if mask_id is None else embed(torch.tensor(mask_id, device=device))
        paths.append((torch.where(words, nothing, vectors), vectors))
    return paths


def _by_words(request: Request, tables: list[torch.Tensor]) -> torch.Tensor:
    """Sum the numbers of the tokens of each row, (T, L), over the tokens of each word, (W, T)."""
    sums = torch.zeros(len(request.words), len(request.targets))
    for row, products in zip(request.rows, tables, strict=True):
        words = torch.tensor(row.words)
        places = (words != NO_WORD).nonzero().squeeze(1)
        sums.index_add_(0, words[places], products[:, places].t().contiguous())
    return sums


def attention_rollout(values: Values, requests: Sequence[Request], samples: int, seed: int) -> list[torch.Tensor]:
    """Return how much of each word attention brings to the tokens that a number is computed from, (W, T).

    See `rolled_out`. The scores are shares, never negative, and are the same for all labels.
    """
    found = []
    for request in requests:
        sums = torch.zeros(len(request.words), len(request.targets))
        for row in request.rows:
            depth = values.head.encoder.config.num_hidden_layers
            weights = attention_weights(values.head.encoder, row, range(depth))
            flow = rolled_out([weights[layer] for layer in range(depth)])
            words = torch.tensor(row.words)
            places = (words != NO_WORD).nonzero().squeeze(1)
            for index, target in enumerate(request.targets):
                # Without places, the number depends on the text's vector.
                read = list(target.places) or values.head.pooled_places(row)
                sums[:, index].index_add_(0, words[places], flow[read].mean(0)[places])
        found.append(sums)
    return found


Method = Callable[[Values, Sequence[Request], int, int], list[torch.Tensor]]
# Each with its default number of samples: orders of words, or points on the path.
METHODS: dict[str, tuple[Method, int]] = {
    "occlusion": (occlusion, 1),
    "shapley": (shapley, 4),
    "integrated_gradients": (integrated_gradients, 16),
    "gradient_x_input": (gradient_x_input, 1),
    "attention_rollout": (attention_rollout, 1),
}
