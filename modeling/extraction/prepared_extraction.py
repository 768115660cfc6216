"""The two steps of extraction with checked options: tokenizing texts, and finding the spans in them."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ...data.batching import longest_first
from .span_choice import Span, chosen
from .text_windows import Prompt, TextWindow, windows_of


@dataclass(frozen=True)
class TokenizedTexts:
    """Texts, the places of the words of each, and the windows of all."""

    texts: Sequence[str]
    places: list[list[tuple[int, int]]]
    windows: list[TextWindow]


@dataclass(frozen=True)
class PreparedExtraction:
    """The two steps of `iter_extract` with checked options and a private tokenizer. See `prepare_extraction`."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    prompt: Prompt
    names: list[str]
    fields: Any
    threshold: float
    nested: bool
    multi_label: bool
    max_tokens: int
    label_vectors: torch.Tensor | None = None  # Those that a separate encoder has computed.

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Split texts into windows."""
        windows, places = windows_of(texts, self.tokenizer, self.prompt, self.fields)
        return TokenizedTexts(texts, places, windows)

    def spans(self, tokenized: TokenizedTexts, progress: Any = None) -> list[list[dict[str, Any]]]:
        """Return the spans of each text, see `extract`.

        Args:
            tokenized: The texts.
            progress: A progress bar, which advances by the texts whose windows are all done.
        """
        found: dict[int, list[Span]] = defaultdict(list)
        if progress is not None:
            progress.update(sum(not places for places in tokenized.places))
        for window, spans in self._in_windows(tokenized.windows, progress):
            shifted = [(a + window.first, b + window.first, label, score) for a, b, label, score in spans]
            found[window.text] += [span for span in shifted if window.owns(span)]
        return [
            self._chosen(text, tokenized.places[number], found[number]) for number, text in enumerate(tokenized.texts)
        ]

    def _in_windows(self, windows: list[TextWindow], progress: Any) -> Iterator[tuple[TextWindow, list[Span]]]:
        """Yield each window and its spans above the threshold, in the order of the windows."""
        lengths = [len(window.ids) for window in windows]
        missing = Counter(window.text for window in windows)
        spans: dict[int, list[Span]] = {}
        with self.model.ready_to_extract(sum(lengths)):
            for batch in longest_first(lengths, self.max_tokens):
                found = self.model.window_scores([windows[place] for place in batch], self.label_vectors)
                for place, scores in zip(batch, found, strict=True):
                    spans[place] = self.model.scorer.spans(scores.float().sigmoid(), self.threshold)
                missing.subtract(windows[place].text for place in batch)
                if progress is not None:
                    progress.update(sum(not missing[text] for text in {windows[place].text for place in batch}))
        yield from ((window, spans[place]) for place, window in enumerate(windows))

    def _chosen(self, text: str, places: list[tuple[int, int]], spans: list[Span]) -> list[dict[str, Any]]:
        found = []
        for first, last, label, score in chosen(spans, self.nested, self.multi_label):
            start, end = places[first][0], places[last][1]
            part = {"start": start, "end": end, "text": text[start:end]}
            found.append({**part, "label": self.names[label], "score": score})
        return found
