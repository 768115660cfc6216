"""Lets a static student learn from texts, and from the vectors that its teacher gives them.

The student starts from what its teacher says about every token, and learns the principal components of the vectors of
texts by their cosine, as tokenlearn does by their distance (https://github.com/MinishLab/tokenlearn). How much a token
counts is the length of its row, which it learns, too. The components come in the order of their importance, so that
the first channels are a smaller student.

Shapes: N texts, D channels of the teacher, d channels of the student.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from ...command_line.progress import Progress
from ...modeling import SequenceEncoderModel
from ...modeling.static_encoder import static_encoder
from ...tokenizer import SequenceEncoderTokenizer
from ...tokenizer.token_rows import RowTokenizer, TokenRows
from .narrowing import principal_directions
from .static_table import DIM, read_vocabulary, static_from_vocabulary

# The share of the texts that is held out, and the largest number.
_HELD_OUT, _MOST_HELD_OUT = 0.05, 1000
_BATCH, _LEARNING_RATE, _PATIENCE = 1024, 2e-3, 2


def distill_static(
    teacher: SequenceEncoderModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str] | None = None,
    vectors: Any = None,
    *,
    dim: int | None = None,
    num_train_epochs: int = 10,
    max_length: int | None = None,
    seed: int = 0,
) -> tuple[SequenceEncoderModel, SequenceEncoderTokenizer]:
    """Make a static student: a table of token vectors and a mean, hundreds of times as fast as its teacher.

    Args:
        teacher: A sentence encoder.
        tokenizer: Its tokenizer, which must be a fast one.
        texts: Texts to learn from, which need no labels. Without texts, the teacher only reads its vocabulary.
        vectors: (N, D) the vectors that the teacher gives the texts, such as `embed` writes; by default they are
            computed.
        dim: The number of channels of the student, at most that of the teacher; by default 384, or that of the teacher
            if it is less.
        num_train_epochs: The largest number of epochs. Training stops early if held-out texts do not get better.
        max_length: Number of tokens to truncate the texts to.
        seed: The seed of the order of the texts.

    Returns:
        The student and its tokenizer. Save both in one folder.

    Raises:
        ValueError: If the tokenizer is slow, `dim` is out of range, there are fewer than two texts with tokens, or the
            vectors do not have the shape (N, D).
    """
    if texts is None:
        return static_from_vocabulary(teacher, tokenizer, dim)
    tokens = read_vocabulary(teacher, tokenizer, dim)
    if vectors is None:
        vectors = teacher.encode(texts, tokenizer, max_length=max_length)
    targets = torch.as_tensor(np.asarray(vectors, np.float32))
    if targets.shape != (len(texts), tokens.vectors.shape[1]):
        raise ValueError(f"vectors must be ({len(texts)}, {tokens.vectors.shape[1]}), got {tuple(targets.shape)}.")
    # Special tokens, such as that of unknown words, say nothing: model2vec leaves them out, too.
    rows = RowTokenizer(tokens.tokenizer, max_length)(list(texts)).without(tokens.tokenizer.all_special_ids)
    usable = np.flatnonzero(np.diff(rows.offsets))
    if len(usable) < 2:
        raise ValueError(f"texts must have at least two texts with tokens, got {len(usable)}.")
    targets = targets - targets[usable].mean(0)
    directions = principal_directions(targets[usable], dim or DIM)
    student = _Learner(rows, F.normalize(targets @ directions, dim=1), tokens.table(directions))
    table = student.learn(torch.as_tensor(usable), num_train_epochs, seed)
    # Adam does not change the rows of tokens that no text has.
    return static_encoder(table, pad_token_id=tokens.tokenizer.pad_token_id), tokens.tokenizer


class _Learner:
    """Learns a table.

    Args:
        rows: The tokens of the texts.
        targets: (N, d) what their vectors should be, of unit length.
        table: (V, d) the table to start from.
    """

    def __init__(self, rows: TokenRows, targets: torch.Tensor, table: torch.Tensor) -> None:
        self.ids, self.offsets, self.targets = torch.as_tensor(rows.ids), torch.as_tensor(rows.offsets), targets
        self.table = table
        # The learning rate is for texts of unit length.
        scale = self._means(torch.arange(len(rows))).norm(dim=1)
        self.table = torch.nn.Parameter(table / scale[scale > 0].mean())

    def learn(self, texts: torch.Tensor, epochs: int, seed: int) -> torch.Tensor:
        """Return the table that is best on held-out texts.

        Args:
            texts: The indices of the texts.
            epochs: The largest number of epochs.
            seed: The seed of their order.
        """
        generator = torch.Generator().manual_seed(seed)
        texts = texts[torch.randperm(len(texts), generator=generator)]
        count = min(_MOST_HELD_OUT, math.ceil(_HELD_OUT * len(texts)))
        held_out, texts = texts[:count], texts[count:]
        batches = math.ceil(len(texts) / _BATCH)
        optimizer = torch.optim.Adam([self.table], lr=_LEARNING_RATE, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-3, epochs * batches)
        best, least, waited = self.table.detach().clone(), self._loss_on(held_out), 0
        with Progress("Learning from the texts", epochs * batches, "step") as progress:
            for _ in range(epochs):
                for batch in texts[torch.randperm(len(texts), generator=generator)].split(_BATCH):
                    optimizer.zero_grad()
                    self._loss(batch).backward()
                    optimizer.step()
                    schedule.step()
                    progress.update(1)
                waited += 1
                if (loss := self._loss_on(held_out)) < least:
                    best, least, waited = self.table.detach().clone(), loss, 0
                if waited >= _PATIENCE:
                    break
        return best

    @torch.no_grad()
    def _loss_on(self, texts: torch.Tensor) -> float:
        return float(self._loss(texts))

    def _loss(self, texts: torch.Tensor) -> torch.Tensor:
        """Return the mean cosine distance of texts from their targets."""
        return 1 - F.cosine_similarity(self._means(texts), self.targets[texts]).mean()

    def _means(self, texts: torch.Tensor) -> torch.Tensor:
        """Return the mean of the rows of each text, (texts, d)."""
        lengths = self.offsets.diff()[texts]
        ends = lengths.cumsum(0)
        places = torch.arange(int(ends[-1])) + torch.repeat_interleave(self.offsets[texts] - (ends - lengths), lengths)
        return F.embedding_bag(self.ids[places], self.table, ends - lengths, mode="mean")
