"""Groups sequences of similar lengths for attention on a CPU, and places their tokens and heads.

Shapes: T packed tokens, P positions of all groups including padding, N sequences of a group, L length of a group: of
its longest sequence, possibly rounded up; G heads of keys and values, R queries for each of them, C channels of a head.
"""

import torch

from ..cpu.shapes import round_up_length
from .heads import Rotation
from .masks import additive_mask, within_window

# The cost of another group, as the number of attention weights that take equally long.
GROUP_COST = 60_000

Run = tuple[int, int]


def group_runs(runs: list[Run], heads: int, dtype: torch.dtype) -> list[list[Run]]:
    """Group neighbouring runs at the least cost, which counts attention weights, with those of padding, and calls.

    Args:
        runs: The number of sequences and their length, for each run of sequences of equal length.
        heads: The number of attention heads.
        dtype: The dtype of the attention.
    """
    best: list[tuple[float, int]] = [(0.0, 0)]  # The least cost of the first runs, and where their last group starts.
    for end in range(1, len(runs) + 1):
        options, count, longest = [], 0, runs[end - 1][1]
        # The loop below runs for each pair of runs.
        rounds = padded_length(longest, 0, dtype) > longest
        for start in reversed(range(end)):
            count += runs[start][0]
            length = padded_length(longest, heads * count, dtype) if rounds else longest
            options.append((best[start][0] + GROUP_COST + heads * count * length**2, start))
        best.append(min(options))
    groups, end = [], len(runs)
    while end:
        start = best[end][1]
        groups.append(runs[start:end])
        end = start
    return groups[::-1]


def padded_length(longest: int, rows: int, dtype: torch.dtype) -> int:
    """Return the length of a group, given its longest sequence and its number of matrices of attention weights."""
    return round_up_length(longest, rows, dtype, torch.device("cpu"))


def batched_product(
    a: torch.Tensor,
    b: torch.Tensor,
    parts: list[int],
    scaling: float = 1.0,
    into: torch.Tensor | None = None,
    beta: float = 0,
) -> torch.Tensor:
    """Return scaling · ab for batches of matrices, computed in parts of the batch.

    Args:
        a: (n, i, j).
        b: (n, j, k).
        parts: The numbers of matrices in the parts.
        scaling: The factor.
        into: (n, i, k), the tensor to write to.
        beta: The factor of what is in `into`, which is added to the product.
    """
    output = a.new_empty(len(a), a.shape[1], b.shape[2]) if into is None else into
    for x, y, part in zip(a.split(parts), b.split(parts), output.split(parts), strict=True):
        torch.baddbmm(part, x, y, beta=beta, alpha=scaling, out=part)
    return output


class GroupPlan:
    """The groups of sequences, and the positions of tokens in them.

    Attributes:
        lengths: (N,) the lengths of the sequences of each group.
        shapes: (N, L) for each group.
        positions: P.
        real: (P,) bool, False at padding.
        tokens: (P,) the token at each position, and an arbitrary token at padding. None if there is no padding.
        places: (T,) the position of each token. None if there is no padding.
    """

    def __init__(self, runs: list[Run], heads: int, like: torch.Tensor) -> None:
        groups = group_runs(runs, heads, like.dtype)
        self.lengths = [
            torch.cat([torch.full((count,), length, device=like.device) for count, length in group]) for group in groups
        ]
        self.shapes = [
            (len(lengths), padded_length(int(lengths[-1]), heads * len(lengths), like.dtype))
            for lengths in self.lengths
        ]
        self.positions = sum(count * length for count, length in self.shapes)
        parts = [self._token_mask(*group) for group in zip(self.lengths, self.shapes, strict=True)]
        self.real = torch.cat([part.flatten() for part in parts])
        self.tokens = self.places = None
        if not bool(self.real.all()):
            self.places = self.real.nonzero().squeeze(1)
            self.tokens = self.real.cumsum(0) - 1
        self.masks: dict[tuple[int | None, torch.dtype], list[torch.Tensor | None]] = {}
        self._head_rows: dict[tuple[int, int], HeadRows] = {}

    @staticmethod
    def _token_mask(lengths: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        return torch.arange(shape[1], device=lengths.device) < lengths[:, None]

    def masks_of(self, window: int | None, like: torch.Tensor) -> list[torch.Tensor | None]:
        """Return the additive mask of each group, (N or 1, 1, 1 or L, L); None if it hides nothing."""
        key = (window, like.dtype)
        if key not in self.masks:
            groups = zip(self.lengths, self.shapes, strict=True)
            self.masks[key] = [self._mask(*group, window, like) for group in groups]
        return self.masks[key]

    def _mask(
        self, lengths: torch.Tensor, shape: tuple[int, int], window: int | None, like: torch.Tensor
    ) -> torch.Tensor | None:
        allowed = []
        if bool(lengths[0] < shape[1]):
            allowed.append(self._token_mask(lengths, shape)[:, None, None])
        if window is not None and window < shape[1] - 1:
            index = torch.arange(shape[1], device=lengths.device)
            allowed.append(within_window(index[:, None], index, window)[None, None])
        if not allowed:
            return None
        return additive_mask(allowed[0] if len(allowed) == 1 else allowed[0] & allowed[1], like.dtype)

    def spread(self, packed: torch.Tensor) -> list[torch.Tensor]:
        """Distribute packed tokens (T, ...) to the groups, (N, L, ...) each."""
        return self.views(packed if self.tokens is None else packed.index_select(0, self.tokens))

    def scatter(self, packed: torch.Tensor) -> list[torch.Tensor]:
        """Distribute packed tokens (T, ...) to the groups, (N, L, ...) each, with zeros at padding."""
        if self.places is not None:
            packed = packed.new_zeros(self.positions, *packed.shape[1:]).index_copy_(0, self.places, packed)
        return self.views(packed)

    def gather(self, placed: torch.Tensor) -> torch.Tensor:
        """Collect the packed tokens (T, ...) from all positions (P, ...)."""
        return placed if self.places is None else placed.index_select(0, self.places)

    def views(self, placed: torch.Tensor) -> list[torch.Tensor]:
        """Return views of the groups, (N, L, ...) each, of all positions (P, ...)."""
        return [part.unflatten(0, shape) for part, shape in zip(self.split(placed), self.shapes, strict=True)]

    def split(self, placed: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Split rows into those of each group, given as many rows for each position, (P * n, ...)."""
        return placed.split([count * length * (len(placed) // self.positions) for count, length in self.shapes])

    def rotations(self, rotation: Rotation, dtype: torch.dtype) -> list[Rotation]:
        """Return the cosines and sines of each group, (N, 1, L, C), for those of all tokens, (1, T, C)."""
        cos, sin = ([part[:, None] for part in self.spread(x[0].to(dtype))] for x in rotation)
        return list(zip(cos, sin, strict=True))

    def head_rows(self, key_heads: int, repeats: int) -> "HeadRows":
        """Return the rows of heads, for the number of heads of keys and of queries for each of them."""
        if (key_heads, repeats) not in self._head_rows:
            self._head_rows[key_heads, repeats] = HeadRows(self, key_heads, repeats)
        return self._head_rows[key_heads, repeats]


class HeadRows:
    """The places of the rows (C,) that heads have for tokens, so that one operation moves those of all groups.

    Packed rows are those of tokens with their heads, (T, G, R + 2). Placed rows are those of all queries, then of all
    keys, then of all values. Each of these has the rows of the first group, then of the second, and so on: (N, G, R, L)
    for queries and (N, G, L) for the others.

    Attributes:
        taken: (P * G * (R + 2),) the packed row at each placed one, and an arbitrary row at padding.
        places: (T * G * (R + 2),) the placed row of each packed one.
        queries: (P * H,) the row of a token and its heads of queries, (T, H), at each placed row of queries.
        padding: The placed rows of queries at padding.
        outputs: (T * H,) the placed row of queries of each token and head, (T, H).
    """

    def __init__(self, plan: GroupPlan, key_heads: int, repeats: int) -> None:
        every = torch.arange(plan.positions, device=plan.real.device)
        heads = torch.arange(key_heads * (repeats + 2), device=every.device).view(key_heads, repeats + 2, 1)
        grids = [
            torch.broadcast_tensors(part[:, None, None], kind)
            for kind in heads.split([repeats, 1, 1], 1)
            for part in plan.views(every)
        ]
        positions, members = (torch.cat([grid.flatten() for grid in part]) for part in zip(*grids, strict=True))
        tokens = every if plan.tokens is None else plan.tokens
        self.taken = tokens[positions] * heads.numel() + members
        real = plan.real[positions]
        self.places = torch.empty_like(self.taken[: int(real.sum())])
        self.places[self.taken[real]] = real.nonzero().squeeze(1)
        self._sizes = [plan.positions * key_heads * kind for kind in (repeats, 1, 1)]
        of_queries, is_real = self.taken[: self._sizes[0]], real[: self._sizes[0]]
        self.queries = of_queries // (repeats + 2) * repeats + of_queries % (repeats + 2)
        self.padding = (~is_real).nonzero().squeeze(1)
        self.outputs = self.places.view(-1, repeats + 2)[:, :repeats].flatten()

    def split(self, placed: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Split placed rows into those of queries, keys and values."""
        return placed.split(self._sizes)

    def spread(self, heads: torch.Tensor) -> list[torch.Tensor]:
        """Return the placed rows of queries, keys and values, (P * H, C) and (P * G, C), for (T, G, R + 2, C)."""
        return [heads.reshape(-1, heads.shape[-1]).index_select(0, taken) for taken in self.split(self.taken)]
