"""Packs windows from a stream of texts that is too large for the disk, and resumes in the middle of it.

Documents are shuffled and packed in blocks. A journal keeps the position in the source at which each block starts. A
resumed training therefore gets the same packs without reading the stream from the start.
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
from ..saving.whole_folders import write_atomically
from .corpus import text_of
from .packs import Pack, pack
from .windows import Window, segment_windows

# Maximum number of characters in a block, however few documents that is.
BLOCK_CHARACTERS = 200_000_000


class PackedStream(IterableDataset[Pack]):
    """An endless dataset of packs from a stream of texts, which starts again after its last document.

    Args:
        texts: A streamed dataset with a column "text" that can save its position (`state_dict`).
        tokenizer: The tokenizer of the model.
        max_length: The maximum number of tokens in a window.
        max_tokens: The token budget of a pack.
        pairs: Whether to cut windows into two segments.
        buffer: The number of documents in a block. The windows of a block are shuffled.
        seed: The seed of the shuffling and of what the collator draws.
        journal: The file that keeps the positions of blocks, or None.
        writes: Whether this process writes the journal.
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
        """Set the number of packs in the whole training, from which progress is computed."""
        self.total = total

    def start_at(self, number: int) -> None:
        """Start the next iteration after the first `number` packs, which were trained on before."""
        self.first = number

    def __iter__(self) -> Iterator[Pack]:
        """Yield packs, starting at the pack that `start_at` set.

        Raises:
            UsageError: If no document in the stream has a token, or if the loader has several workers.
        """
        worker = get_worker_info()
        if worker is not None and worker.num_workers > 1:
            raise UsageError(
                f"dataloader_num_workers must be 0 or 1 for a stream, got {worker.num_workers}, because each worker "
                "would read the whole stream."
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
                self._record_block({"pack": number, "epoch": epoch, "source": self.texts.state_dict()})
            if number == before and number == place["pack"] == 0:
                raise UsageError("The stream contains no text.")
            epoch += 1
            self.texts.load_state_dict(self.beginning)

    def _resume(self) -> dict[str, Any]:
        """Return the last block start up to the first pack, and drop later ones, which will be written again."""
        place = {"pack": 0, "epoch": 0, "source": self.beginning}
        if self.journal is None or not self.journal.exists():
            return place
        kept = []
        for line in self.journal.read_text(encoding="utf-8").splitlines():
            try:
                start = json.loads(line)
            except ValueError:
                # The line is incomplete, because the process was killed.
                break
            if start["pack"] > self.first:
                break
            place = start
            kept.append(line + "\n")
        if _reader(place["source"]) != _reader(self.beginning):
            raise UsageError("another version has read the stream of the interrupted run; start over with --overwrite.")
        if self.writes:
            write_atomically(self.journal, kept)
        return place

    def _record_block(self, start: dict[str, Any]) -> None:
        if self.journal is not None and self.writes:
            with self.journal.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(start) + "\n")

    def _packs(self, block: list[str], number: int) -> Iterator[list[Window]]:
        windows = list(segment_windows(block, self.tokenizer, self.max_length, self.pairs))
        order = np.random.default_rng([self.seed, number]).permutation(len(windows))
        yield from pack(((windows[i], windows[i]["length"]) for i in order), self.max_tokens)

    def _read(self, documents: Iterator[Any]) -> list[str]:
        """Return the texts of the next block, or an empty list at the end of the stream."""
        block: list[str] = []
        characters = 0
        while len(block) < self.buffer and characters < BLOCK_CHARACTERS:
            try:
                document = next(documents, None)
            # Each reader raises its own kinds of errors.
            except Exception as error:
                raise UsageError(f"the stream cannot be read: {str(error) or type(error).__name__}") from error
            if document is None:
                break
            block.append(text_of(document["text"]))
            characters += len(block[-1])
        return block


def _reader(state: Any) -> str | None:
    """Return what reads a stream with this state."""
    found: str | None = state.get("examples_iterable", {}).get("type")
    return found
