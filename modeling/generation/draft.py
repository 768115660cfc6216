"""A text that is being written: which tokens are fixed, which were written, and how many steps are left.

Shapes: L tokens of the text, M masks in it.
"""

import math
from collections.abc import Sequence

import torch

from .constraints import Constraint


class Draft:
    """One text, on the CPU.

    Args:
        ids: (L,) its tokens, with masks.
        mask: The id of the mask token.
        new_tokens: Maximum number of tokens to write after it.
        block_length: Number of those that are masked at once.
        steps: Maximum number of steps for each block; by default as many as it has masks.
        ends: Tokens that end the text, among the new ones.
        constraints: What may be written.
        seed: The seed of the random choices.

    Attributes:
        ids: (L,) the tokens so far.
        writable: (L,) bool, the tokens that were masks.
        confidence: (L,) the probability of each written token when it was written.
        steps_taken: Number of forward passes.
    """

    def __init__(
        self,
        ids: torch.Tensor,
        mask: int,
        *,
        new_tokens: int = 0,
        block_length: int | None = None,
        steps: int | None = None,
        ends: Sequence[int] = (),
        constraints: Sequence[Constraint] = (),
        seed: int = 0,
    ) -> None:
        self.ids, self.mask = ids.clone(), mask
        self.writable = ids == mask
        self.confidence = torch.zeros(len(ids))
        self.prompt_length, self.remaining = len(ids), new_tokens
        self.block_length, self.steps = block_length or new_tokens, steps
        self.ends, self.constraints = torch.tensor(ends, dtype=torch.long), constraints
        self.joint = any(constraint.joint for constraint in constraints)
        self.generator = torch.Generator().manual_seed(seed)
        self.steps_taken = 0
        self._block_start, self._debt = 0, 0.0
        self._start_block()

    def _start_block(self) -> None:
        added = min(self.block_length, self.remaining)
        if added:
            self.ids = torch.cat([self.ids, self.ids.new_full((added,), self.mask)])
            self.writable = torch.cat([self.writable, torch.ones(added, dtype=torch.bool)])
            self.confidence = torch.cat([self.confidence, torch.zeros(added)])
            self.remaining -= added
        masks = int(self.masked().sum())
        self._planned = self.steps_left = masks if self.steps is None or not masks else self.steps

    def masked(self) -> torch.Tensor:
        """Return which tokens (L,) are masks."""
        return self.writable & (self.ids == self.mask)

    @property
    def done(self) -> bool:
        """Whether nothing is left to write."""
        return not self.steps_left

    def quota(self, masks: int) -> int:
        """Return how many of its masks to write in the next step, so that the last step writes the last of them."""
        return math.ceil(masks / self.steps_left)

    def uniform(self, count: int) -> torch.Tensor:
        """Draw random numbers from [0, 1), which depend only on the seed and on earlier draws for this text."""
        return torch.rand(count, generator=self.generator)

    def write(self, places: torch.Tensor, tokens: torch.Tensor, confidence: torch.Tensor) -> None:
        """Write tokens at places (M,) of masks."""
        self.ids[places] = tokens
        self.confidence[places] = confidence

    def advance(self, remasking: float) -> None:
        """End a step: mask unlikely tokens again, cut the text where it ends, and start the next block.

        Args:
            remasking: The share of written tokens to mask again.
        """
        self.steps_left -= 1
        self._cut()
        if remasking and self.steps_left:
            self._mask_again(remasking)
        if not self.masked().any():
            self.steps_left = 0
            if self.remaining:
                self._block_start = len(self.ids)
                self._start_block()

    def _cut(self) -> None:
        """Drop what follows the first token that ends the text."""
        ends = torch.isin(self.ids[self.prompt_length :], self.ends).nonzero()
        if len(ends):
            self._keep(slice(self.prompt_length + int(ends[0]) + 1))
            self.remaining = 0

    def drop(self, token: int | None) -> None:
        """Remove a token from what was written after the prompt."""
        kept = self.ids != token if token is not None else torch.ones_like(self.writable)
        kept[: self.prompt_length] = True
        self._keep(kept)

    def _keep(self, kept: torch.Tensor | slice) -> None:
        self.ids, self.writable, self.confidence = self.ids[kept], self.writable[kept], self.confidence[kept]

    def _mask_again(self, share: float) -> None:
        """Mask the written tokens of this block again that were the least probable (Wang et al., 2025, ReMDM-conf).

        Their number is that of its rescaled schedule. What is left after rounding adds up over the steps.
        """
        # Without the token that ends the text, which would then end with another one.
        written = self.writable & (self.ids != self.mask) & ~torch.isin(self.ids, self.ends)
        written[: self._block_start] = False
        places = written.nonzero()[:, 0]
        passed = 1 - (self.steps_left + 1) / self._planned
        limit = min(1.0, (self.steps_left / self._planned) / passed) if passed else 0.0
        self._debt += share * limit * len(places)
        count = min(int(self._debt), len(places))
        self._debt -= count
        again = places[self.confidence[places].argsort(stable=True)[:count]]
        self.ids[again] = self.mask
