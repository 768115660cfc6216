"""Packs of windows from a stream of texts that no disk holds, and the place in it where a training goes on.

Documents are shuffled and packed block by block. Where a block starts in the source is written to a journal, so that
training goes on in the middle of a stream without reading what came before, and with the same packs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerBase

from ..command_line import UsageError
from ..saving.whole_folders import write_whole
from .corpus import text_of
from .packs import Pack, pack
from .windows import Window, segment_windows

# A block ends at so many characters, however few documents they are.
BLOCK_CHARACTERS = 200_000_000


class PackedStream(IterableDataset[Pack]):
    """The packs of a stream of texts, without end: after the last document comes the first again.

    Args:
        texts: a streamed dataset with a column "text", in which a place can be kept (`state_dict`).
        tokenizer: of the model.
        max_length: of a window.
        max_tokens: of a pack.
        pairs: whether windows are cut into two segments.
        buffer: documents of a block, which are shuffled among each other.
        seed: of the shuffling, and of what the collator draws.
        journal: a file for the starts of blocks, or None.
        writes: whether this process writes it.
    """

    def __init__(
        self,
        texts: Any,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        max_tokens: int,
        pairs: bool = True,
        buffer: int = 10_000,
        seed: int = 0,
        journal: Path | None = None,
        writes: bool = True,
    ) -> None:
        self.texts, self.tokenizer, self.max_length, self.max_tokens = texts, tokenizer, max_length, max_tokens
        self.pairs, self.buffer, self.seed, self.journal, self.writes = pairs, buffer, seed, journal, writes
        self.beginning = texts.state_dict()
        self.first, self.total = 0, 1

    def plan(self, total: int) -> None:
        """Tells how many packs the whole training will have, for schedules by progress."""
        self.total = total

    def start_at(self, number: int) -> None:
        """Lets the next iteration begin with a pack: after as many as were trained on."""
        self.first = number

    def __iter__(self) -> Iterator[Pack]:
        """The packs from the first one on.

        Raises:
            UsageError: if there is no document with a token in the stream, or several workers were to read it.
        """
        worker = get_worker_info()
        if worker is not None and worker.num_workers > 1:
            raise UsageError(
                f"dataloader_num_workers must be 0 or 1 for a stream, got {worker.num_workers}: each would read it all."
            )
        place = self._resume()
        number, epoch = place["pack"], place["epoch"]
        self.texts.load_state_dict(place["source"])
        while True:
            documents, before = iter(self.texts), number
            while block := self._read(documents):
                for windows in self._packs(block, number):
                    if number >= self.first:
                        progress = min(1.0, number / self.total)
                        yield {"windows": windows, "seed": [self.seed, number], "progress": progress}
                    number += 1
                self._note({"pack": number, "epoch": epoch, "source": self.texts.state_dict()})
            if number == before and number == place["pack"] == 0:
                raise UsageError("There is no text in the stream.")
            epoch += 1
            self.texts.load_state_dict(self.beginning)

    def _resume(self) -> dict[str, Any]:
        """The last start of a block before the first pack; later ones are forgotten, as they will be written again."""
        place = {"pack": 0, "epoch": 0, "source": self.beginning}
        if self.journal is None or not self.journal.exists():
            return place
        kept = []
        for line in self.journal.read_text(encoding="utf-8").splitlines():
            try:
                start = json.loads(line)
            except ValueError:
                # Cut off where a process was killed.
                break
            if start["pack"] > self.first:
                break
            place = start
            kept.append(line + "\n")
        if self.writes:
            write_whole(self.journal, kept)
        return place

    def _note(self, start: dict[str, Any]) -> None:
        if self.journal is not None and self.writes:
            with self.journal.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(start) + "\n")

    def _packs(self, block: list[str], number: int) -> Iterator[list[Window]]:
        windows = list(segment_windows(block, self.tokenizer, self.max_length, self.pairs))
        order = np.random.default_rng([self.seed, number]).permutation(len(windows))
        yield from pack(((windows[i], windows[i]["length"]) for i in order), self.max_tokens)

    def _read(self, documents: Iterator[Any]) -> list[str]:
        """The texts of the next block; none at the end."""
        block: list[str] = []
        characters = 0
        while len(block) < self.buffer and characters < BLOCK_CHARACTERS:
            try:
                document = next(documents, None)
            # Each reader has errors of its own for what it cannot read.
            except Exception as error:
                raise UsageError(f"the stream cannot be read on: {str(error) or type(error).__name__}") from error
            if document is None:
                break
            block.append(text_of(document["text"]))
            characters += len(block[-1])
        return block
