"""Infilling: the model writes what is missing in the gaps of a text, and how much.

Shapes: L tokens of a text, G gaps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ....command_line import UsageError
from ....evaluation.tasks.columns import check_columns, check_values
from ....evaluation.tasks.task import Examples
from .writing import WritingTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MOST_GAPS = 3


class Infilling(WritingTask):
    """Gaps of up to `block` tokens at random places of a text.

    The number of masks of a gap is uniform from 1 to `block`, and the number of its tokens uniform from 1 to that. So
    the masks say nothing about the length except the largest possible one, as when a user leaves it open. With at most
    16 masks, the mean is 4.75 tokens, a little more than the 3 to 4 of BART and SpanBERT (Lewis et al., 2020; Joshi et
    al., 2020), which are trained to represent texts rather than to write them.
    """

    block_argument: ClassVar[str] = "max_gap_tokens"

    def read(self, examples: Examples, known: list[str] | None = None) -> dict[str, Any]:
        """See `HeadTask`. There are no labels."""
        self.text = self.data.text_column or "text"
        self.texts = (self.text,)
        check_columns(examples, {"text_column": self.text})
        check_values(
            self.data,
            examples,
            "text_column",
            self.text,
            lambda value: isinstance(value, str) and bool(value.strip()),
            "a text that is not blank in every row",
        )
        return {split: rows.select_columns([self.text]) for split, rows in examples.items()}

    def encode(self, rows: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
        """See `WritingTask`. All tokens but special ones may be written.

        Raises:
            UsageError: If a text is too short for a gap.
        """
        from datasets import Dataset

        from ....modeling.label_checks import IGNORED

        columns: dict[str, list[Any]] = {"input_ids": [], "labels": [], "row": list(range(len(rows)))}
        for batch in rows.iter(1000):
            # A text may mention special tokens such as [MASK].
            encoded = self.cut.tokenise(
                tokenizer,
                self.max_length,
                batch[self.text],
                split_special_tokens=True,
                return_special_tokens_mask=True,
            )
            for ids, special in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True):
                if special.count(0) < 2:
                    text = rows[len(columns["labels"])][self.text]
                    raise UsageError(
                        f"--text_column {self.text} must contain texts of at least two tokens, one for a gap and one "
                        f"beside it, got {text!r}."
                    )
                columns["input_ids"].append(ids)
                columns["labels"].append([IGNORED if each else token for token, each in zip(ids, special, strict=True)])
        return Dataset.from_dict(columns)

    def draw(
        self, ids: np.ndarray, written: np.ndarray, rng: np.random.Generator, evaluating: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `WritingTask`. At least half of the text, and a token between two gaps, are not in gaps."""
        start, stop = np.flatnonzero(written)[[0, -1]] + [0, 1]
        before, text, after = ids[:start], ids[start:stop], ids[stop:]
        masks = rng.integers(1, self.block, size=rng.integers(1, _MOST_GAPS, endpoint=True), endpoint=True)
        tokens = np.minimum(rng.integers(1, masks, endpoint=True), max(1, len(text) // 2))
        room = self.max_length - len(before) - len(after)
        while True:
            # Masks that are left over take the place of the end of a long text.
            size = min(len(text), room - int((masks - tokens).sum()))
            if len(masks) == 1 or 2 * tokens.sum() <= size:
                break
            masks, tokens = masks[:-1], tokens[:-1]
        count = len(masks)
        free = size - int(tokens.sum()) - (count - 1)
        # Each choice of places is equally likely.
        offsets = np.sort(rng.choice(free + count, count, replace=False)) - np.arange(count)
        starts = offsets + np.concatenate([[0], np.cumsum(tokens[:-1] + 1)])
        parts, flags, done = [before], [np.zeros(len(before), bool)], 0
        for begin, length, left in zip(starts, tokens, masks - tokens, strict=True):
            end = begin + length
            parts += [text[done:end], np.full(left, self.pad_id)]
            flags += [np.arange(done, end) >= begin, np.ones(left, bool)]
            done = end
        rest = np.concatenate([text[done:size], after])
        return np.concatenate([*parts, rest]), np.concatenate([*flags, np.zeros(len(rest), bool)])

    def usage(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """See `WritingTask`."""
        mask = tokenizer.mask_token
        return f"""Fill gaps of one token, or of at most {self.block} tokens, whose number the model chooses:

```python
filled = model.infill(["The {mask} of {mask}{{1,{self.block}}}."], tokenizer)
print(filled[0].text)
```"""
