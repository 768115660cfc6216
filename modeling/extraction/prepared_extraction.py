"""The two steps of extraction with checked options: tokenizing texts, and finding the spans in them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ...data.batching import longest_first
from .span_choice import Span, chosen
from .text_windows import Prompt, TextWindow, checked_labels, windows_of


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

    def for_labels(self, labels: Sequence[str] | Mapping[str, str], **options: Any) -> "PreparedExtraction":
        """Return the same for other labels, and other values of `threshold`, `nested` and `multi_label`.

        The vectors of labels that a separate encoder reads are left to the caller.

        Args:
            labels: See `extract`.
            **options: The values. None leaves one as it is.

        Raises:
            ValueError: If the labels are not allowed, or leave no room for words.
        """
        names, read = checked_labels(labels)
        options = {name: value for name, value in options.items() if value is not None}
        if self.fields.label_encoder is None:
            options["prompt"] = Prompt(self.tokenizer, read, self.fields, self.prompt.max_length)
        return replace(self, names=names, label_vectors=None, **options)

    def tokenize(self, texts: Sequence[str], max_tokens: int | None = None) -> TokenizedTexts:
        """Split texts into windows. See `windows_of`."""
        windows, places = windows_of(texts, self.tokenizer, self.prompt, self.fields, max_tokens)
        return TokenizedTexts(texts, places, windows)

    def spans(self, tokenized: TokenizedTexts, progress: Any = None) -> list[list[dict[str, Any]]]:
        """Return the spans of each text, see `extract`.

        Args:
            tokenized: The texts.
            progress: A progress bar, which advances by the texts whose windows are all done.
        """
        if progress is not None:
            progress.update(sum(not places for places in tokenized.places))
        return self.of_texts(tokenized, self._in_windows(tokenized.windows, progress))

    def in_words(
        self, windows: list[TextWindow], allowed: Sequence[set[int] | None], progress: Any = None
    ) -> list[list[Span]]:
        """Return the spans of each text in words, given its windows.

        Args:
            windows: The windows of all texts.
            allowed: For each text the numbers of the labels that its spans may have; None for all.
            progress: A progress bar, which advances by the texts whose windows are all done.
        """
        found = self._by_text(windows, self._in_windows(windows, progress))
        return [
            chosen([span for span in found[text] if labels is None or span[2] in labels], self.nested, self.multi_label)
            for text, labels in enumerate(allowed)
        ]

    def in_window(self, scores: torch.Tensor) -> list[Span]:
        """Return the spans above the threshold in a window, given its logits."""
        found: list[Span] = self.model.scorer.spans(scores.float().sigmoid(), self.threshold)
        return found

    def of_texts(self, tokenized: TokenizedTexts, in_windows: Iterable[list[Span]]) -> list[list[dict[str, Any]]]:
        """Return the spans of each text, given those above the threshold in each window."""
        found = self._by_text(tokenized.windows, in_windows)
        return [
            self._chosen(text, tokenized.places[number], found[number]) for number, text in enumerate(tokenized.texts)
        ]

    @staticmethod
    def _by_text(windows: list[TextWindow], in_windows: Iterable[list[Span]]) -> dict[int, list[Span]]:
        """Return the spans that the windows of each text own, in words of the text."""
        found: dict[int, list[Span]] = defaultdict(list)
        for window, spans in zip(windows, in_windows, strict=True):
            shifted = [(a + window.first, b + window.first, label, score) for a, b, label, score in spans]
            found[window.text] += [span for span in shifted if window.owns(span)]
        return found

    def _in_windows(self, windows: list[TextWindow], progress: Any) -> list[list[Span]]:
        """Return the spans above the threshold in each window."""
        lengths = [len(window.ids) for window in windows]
        missing = Counter(window.text for window in windows)
        spans: dict[int, list[Span]] = {}
        with self.model.ready_to_extract(sum(lengths)):
            for batch in longest_first(lengths, self.max_tokens):
                found = self.model.window_scores([windows[place] for place in batch], self.label_vectors)
                for place, scores in zip(batch, found, strict=True):
                    spans[place] = self.in_window(scores)
                missing.subtract(windows[place].text for place in batch)
                if progress is not None:
                    progress.update(sum(not missing[text] for text in {windows[place].text for place in batch}))
        return [spans[place] for place in range(len(windows))]

    def _chosen(self, text: str, places: list[tuple[int, int]], spans: list[Span]) -> list[dict[str, Any]]:
        found = []
        for first, last, label, score in chosen(spans, self.nested, self.multi_label):
            start, end = places[first][0], places[last][1]
            part = {"start": start, "end": end, "text": text[start:end]}
            found.append({**part, "label": self.names[label], "score": score})
        return found
