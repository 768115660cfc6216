"""Computes the explained numbers for many changed copies of texts, packed into rows without padding.

Shapes: N copies, W words of a request, T targets, B rows of a batch, S longest row, L tokens of a row, E channels of
the token vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from ...data.argument_checks import check_count
from ...data.batching import longest_first
from ...modeling.text_encoding.evaluation_mode import evaluation_mode
from .heads import LEAVE_OUT, MASK, Head
from .words import Request, Row, without_words

REMOVALS = (MASK, LEAVE_OUT)
# The token vectors of a row at the start and at the end of a path, (L, E) each.
Path = tuple[torch.Tensor, torch.Tensor]


class Values:
    """The numbers that a model gives for copies of texts without some of their words.

    Copies of all texts are sorted by length and go into batches with a limited number of tokens. The model packs each
    batch into one row, so it computes no padding. Equal copies are computed once.

    Args:
        head: The head of the model.
        removal: "mask" to put mask tokens in the place of removed words, or "leave_out" to leave them out; by default
            what suits the head.
        max_tokens: The largest number of tokens in a batch.

    Raises:
        ValueError: If the model cannot read texts without those words.
    """

    def __init__(self, head: Head, removal: str | None = None, max_tokens: int = 2048) -> None:
        mask_id = head.tokenizer.mask_token_id
        if removal is None:
            removal = head.removal if mask_id is not None or head.in_place else LEAVE_OUT
        if removal not in REMOVALS:
            raise ValueError(f"removal must be one of {', '.join(REMOVALS)}, got {removal!r}.")
        check_count(max_tokens, "max_tokens")
        if removal == MASK and mask_id is None:
            other = "" if head.in_place else " Pass removal='leave_out'."
            raise ValueError(f"removal='mask' needs a tokenizer with a mask token, which this one lacks.{other}")
        if removal == LEAVE_OUT and head.in_place:
            raise ValueError("removal='leave_out' would move the tokens whose labels are explained; pass 'mask'.")
        self.head, self.removal, self.max_tokens = head, removal, max_tokens
        self.mask_id = mask_id if removal == MASK else None

    def __call__(self, asked: Sequence[tuple[Request, torch.Tensor]]) -> list[torch.Tensor]:
        """Compute the numbers of copies.

        Args:
            asked: Requests, each with the words of its copies, (N, W) bool.

        Returns:
            The numbers for each request, (N, T) in float32 on the CPU.

        Raises:
            ValueError: If a copy has no tokens, or a number is not finite.
        """
        rows: dict[Row, int] = {}
        copies: list[tuple[int, list[int]]] = []
        for number, (request, kept) in enumerate(asked):
            for words in kept.tolist():
                changed = [without_words(row, words, self.mask_id) for row in request.rows]
                if not all(row.ids for row in changed):
                    raise ValueError(
                        f"without its words, nothing is left of {request.name()}, because the tokenizer adds no "
                        "special tokens; give it a mask token, and pass removal='mask'."
                    )
                copies.append((number, [rows.setdefault(row, len(rows)) for row in changed]))
        outputs = self.outputs(list(rows))
        found: list[list[torch.Tensor]] = [[] for _ in asked]
        for number, parts in copies:
            read, targets = [outputs[part] for part in parts], asked[number][0].targets
            found[number].append(torch.stack([self.head.number(target, read) for target in targets]))
        tables = [torch.stack(each).cpu() for each in found]
        for (request, _), table in zip(asked, tables, strict=True):
            check_finite(table, request)
        return tables

    @torch.no_grad()
    def outputs(self, rows: Sequence[Row]) -> list[torch.Tensor]:
        """Return the outputs of the head for each row."""
        found: list[Any] = [None] * len(rows)
        with evaluation_mode(self.head.model):
            for batch in longest_first([len(row.ids) for row in rows], self.max_tokens):
                part = [rows[index] for index in batch]
                for index, output in zip(batch, self.head.outputs(self._inputs(part), part), strict=True):
                    found[index] = output
        return found

    def path_gradients(
        self, asked: Sequence[tuple[Request, list[Path]]], steps: Sequence[float], shares: Sequence[float]
    ) -> list[list[torch.Tensor]]:
        """Compute the product of each token's path and the mean gradient of the numbers at points of the path.

        Args:
            asked: Requests, each with the token vectors at the start and the end of the path of each of its rows.
            steps: Where the N points are, from 0 at the start to 1 at the end.
            shares: The shares of the points in the mean.

        Returns:
            For each request and row, the sums over the channels of the products, (T, L) in float32 on the CPU.

        Raises:
            ValueError: If a product is not finite.
        """
        found = [
            [torch.zeros(len(request.targets), len(end), device=end.device) for _, end in paths]
            for request, paths in asked
        ]
        copies = [
            (number, point, target)
            for number, (request, _) in enumerate(asked)
            for point in zip(steps, shares, strict=True)
            for target in range(len(request.targets))
        ]
        lengths = [sum(len(row.ids) for row in asked[number][0].rows) for number, _, _ in copies]
        with evaluation_mode(self.head.model), torch.enable_grad(), _frozen(self.head.model):
            for batch in longest_first(lengths, self.max_tokens):
                self._add_gradients(asked, [copies[index] for index in batch], found)
        for (request, _), tables in zip(asked, found, strict=True):
            for table in tables:
                check_finite(table, request)
        return [[table.cpu() for table in tables] for tables in found]

    def _add_gradients(
        self,
        asked: Sequence[tuple[Request, list[Path]]],
        copies: Sequence[tuple[int, tuple[float, float], int]],
        found: list[list[torch.Tensor]],
    ) -> None:
        """Add what one batch of copies adds to the means."""
        rows = [row for number, _, _ in copies for row in asked[number][0].rows]
        points = [
            (start + (end - start) * step).detach().requires_grad_()
            for number, (step, _), _ in copies
            for start, end in asked[number][1]
        ]
        outputs = iter(self.head.outputs(self._inputs(rows, points), rows))
        numbers = []
        for number, _, target in copies:
            request = asked[number][0]
            read = [next(outputs) for _ in request.rows]
            numbers.append(self.head.number(request.targets[target], read))
        gradients = iter(torch.autograd.grad(torch.stack(numbers).sum(), points))
        for number, (_, share), target in copies:
            for (start, end), table in zip(asked[number][1], found[number], strict=True):
                table[target] += share * ((end - start).float() * next(gradients).float()).sum(-1)

    def _inputs(self, rows: Sequence[Row], vectors: Sequence[torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
        device = self.head.model.device
        mask = pad_sequence([torch.ones(len(row.ids), dtype=torch.long) for row in rows], batch_first=True)
        inputs = {"attention_mask": mask.to(device)}
        if vectors is None:
            ids = pad_sequence([torch.tensor(row.ids) for row in rows], batch_first=True)
            inputs["input_ids"] = ids.to(device)
        else:
            inputs["inputs_embeds"] = pad_sequence(list(vectors), batch_first=True)
        if all(row.types is not None for row in rows):
            types = pad_sequence([torch.tensor(row.types) for row in rows], batch_first=True)
            inputs["token_type_ids"] = types.to(device)
        return inputs


@contextmanager
def _frozen(model: torch.nn.Module) -> Iterator[None]:
    """Keep the fused layers from computing the gradients of weights, which nothing here needs."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)


def check_finite(numbers: torch.Tensor, request: Request) -> None:
    """Check that the model gives finite numbers.

    Raises:
        ValueError: If it does not.
    """
    if not numbers.isfinite().all():
        raise ValueError(f"the model gives a number that is not finite for {request.name()}; check its weights.")
