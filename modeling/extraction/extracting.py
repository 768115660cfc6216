"""`extract`: finds the spans of texts that fit labels, in batches without padding."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, islice
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from ...configuration.span_extraction_field import span_extraction_fields
from ...data.argument_checks import check_count, check_text
from ...tokenizer.private_copy import private_copy
from ..cpu.prepacked import prepacked_for
from ..packing import device_of, run_packed
from ..text_encoding.evaluation_mode import evaluation_mode
from ..text_encoding.tokenizer_checks import check_tokenizer, longest_positions
from .prepared_extraction import PreparedExtraction
from .text_windows import Prompt, TextWindow, checked_labels

Labels = Sequence[str] | Mapping[str, str]
# Number of texts to tokenize and sort together.
_CHUNK = 2048
# Number of labels that a separate encoder reads together.
_LABELS = 64


class ExtractionMixin:
    """Mixin that gives a model with a head for span extraction the methods `extract` and `iter_extract`.

    Attributes:
        label_tokenizer: The tokenizer of a separate encoder of labels, which is saved and loaded with the model.
    """

    label_tokenizer: PreTrainedTokenizerBase | None = None

    def extract(
        self, texts: str | Iterable[str], labels: Labels, tokenizer: PreTrainedTokenizerBase, **options: Any
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """Find the spans of texts that fit labels, such as entities, without training for these labels.

        Texts may have any length: long ones are read in windows that overlap by a quarter, and a span in two windows
        gets its score from the one in which it is farther from the end. Windows are sorted by length and computed
        without padding, in the dtype and on the device of the model, in evaluation mode and without gradients.

        Args:
            texts: A text or several texts.
            labels: The names of the labels; or a dict from names to descriptions, which the model reads instead.
            tokenizer: The tokenizer of the model.
            **options: Arguments of `iter_extract`.

        Returns:
            For each text a list of spans in the order of the text; for a single text, its list. A span has `start` and
            `end` in characters, `text`, `label` and `score`, a probability.

        Raises:
            ValueError: If an argument is invalid, or the labels leave no room for words.
        """
        several = [texts] if isinstance(texts, str) else texts
        found = list(self.iter_extract(several, labels, tokenizer, **options))
        return found[0] if isinstance(texts, str) else found

    def iter_extract(
        self,
        texts: Iterable[str],
        labels: Labels,
        tokenizer: PreTrainedTokenizerBase,
        *,
        threshold: float | None = None,
        nested: bool = False,
        multi_label: bool = False,
        max_length: int | None = None,
        max_tokens: int = 2048,
        show_progress_bar: bool | None = None,
    ) -> Iterator[list[dict[str, Any]]]:
        """Like `extract`, but for more texts than fit in memory: read thousands of texts at a time.

        Args:
            texts: Texts, also from an infinite iterator.
            labels: See `extract`.
            tokenizer: The tokenizer of the model.
            threshold: The probability above which a span is returned. Defaults to that of the configuration.
            nested: Whether a span may be inside another one. Otherwise, the most probable of those that overlap stays.
            multi_label: Whether a span may have several labels.
            max_length: Number of tokens of a window, with its labels. Defaults to the limit of the tokenizer and the
                model.
            max_tokens: Maximum number of tokens in a batch, unless a single window has more.
            show_progress_bar: Whether to show a progress bar; by default if the log level of transformers is INFO or
                lower.

        Yields:
            The spans of the next text, see `extract`.

        Raises:
            ValueError: If an argument is invalid, or the labels leave no room for words.
        """
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            raise ValueError(f"texts must be an iterable of strings, got {texts!r}.")
        prepared = self.prepare_extraction(
            labels,
            tokenizer,
            threshold=threshold,
            nested=nested,
            multi_label=multi_label,
            max_length=max_length,
            max_tokens=max_tokens,
        )
        show = logging.get_verbosity() <= logging.INFO if show_progress_bar is None else show_progress_bar
        return _iter_extract(texts, prepared, show)

    def prepare_extraction(
        self,
        labels: Labels,
        tokenizer: PreTrainedTokenizerBase,
        *,
        threshold: float | None = None,
        nested: bool = False,
        multi_label: bool = False,
        max_length: int | None = None,
        max_tokens: int = 2048,
    ) -> PreparedExtraction:
        """Check the options of `iter_extract`, and return its two steps: tokenizing texts, and finding spans.

        The steps can run in two threads. For the arguments and errors, see `iter_extract`.
        """
        config = cast(PreTrainedModel, self).config
        fields = span_extraction_fields(config)
        threshold = fields.threshold if threshold is None else threshold
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be a number from 0 to 1, got {threshold!r}.")
        check_count(max_tokens, "max_tokens")
        names, read = checked_labels(labels)
        check_tokenizer(config, tokenizer)
        limits = (max_length, longest_positions(config), tokenizer.model_max_length)
        longest = min((limit for limit in limits if limit is not None and limit < 10**9), default=None)
        own = private_copy(tokenizer)
        separate = fields.label_encoder is not None
        prompt = Prompt(own, [] if separate else read, fields, longest)
        vectors = self.label_vectors(read) if separate else None
        return PreparedExtraction(self, own, prompt, names, fields, threshold, nested, multi_label, max_tokens, vectors)

    @torch.no_grad()
    def label_vectors(self, labels: list[str]) -> torch.Tensor:
        """Return the vectors of labels that a separate encoder reads, (C, D)."""
        if self.label_tokenizer is None:
            raise ValueError("The model needs a tokenizer of labels: set model.label_tokenizer.")
        model, tokenizer = cast(Any, self), private_copy(self.label_tokenizer)
        vectors: list[torch.Tensor] = []
        with evaluation_mode(model.label_encoder):
            for first in range(0, len(labels), _LABELS):
                part = labels[first : first + _LABELS]
                encoded = tokenizer(part, padding=True, truncation=True, return_tensors="pt")
                inputs = (encoded[name].to(model.device) for name in ("input_ids", "attention_mask"))
                vectors.append(model.label_encoder(*inputs))
        return torch.cat(vectors)

    @torch.no_grad()
    def window_scores(self, windows: list[TextWindow], vectors: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Return the logits of the spans of each window. Call it in evaluation mode.

        Args:
            windows: The windows, in ascending order of their numbers of tokens.
            vectors: Those of the labels, if a separate encoder has read them.

        Returns:
            (W, K, C) or (W, C, 3) each, see `SpanExtractionOutput`.
        """
        own = [max(window.label_ids) if vectors is None else len(vectors) for window in windows]
        counts = ([window.num_words for window in windows], own)
        numbers = ([window.word_ids for window in windows], [window.label_ids for window in windows])
        words, labels = (torch.tensor(_numbered_together(*pair)) for pair in zip(numbers, counts, strict=True))
        states = self.token_states([window.ids for window in windows], (words > 0) | (labels > 0))
        scores = cast(Any, self).scores(states, (words, counts[0]), (labels, counts[1]), vectors)
        return cast("list[torch.Tensor]", scores)

    def token_states(self, ids: list[list[int]], needed: torch.Tensor) -> torch.Tensor:
        """Return the hidden states of all tokens of some texts, (T, D), of which the caller uses the needed ones, (T,).

        Args:
            ids: The ids of the tokens of each text, in ascending order of their numbers.
            needed: Which tokens the caller uses.
        """
        states: torch.Tensor = run_packed(cast(Any, self).model, ids, needed[None]).last_hidden_state
        return states[0]

    @contextmanager
    def ready_to_extract(self, tokens: int) -> Iterator[None]:
        """Keep the model ready to compute a number of tokens: in evaluation mode, and with prepacked weights."""
        encoder = cast(Any, self).model
        tokens = tokens if device_of(encoder).type == "cpu" else 0
        with evaluation_mode(cast(nn.Module, self)), prepacked_for(encoder.layers, tokens):
            yield


def _numbered_together(numbers: list[list[int]], counts: list[int]) -> list[int]:
    """Number the words of all texts, from the numbers of those of each text; 0 stays 0."""
    offsets = accumulate(counts, initial=0)
    return [number and number + offset for text, offset in zip(numbers, offsets, strict=False) for number in text]


def _iter_extract(texts: Iterable[str], prepared: PreparedExtraction, show: bool) -> Iterator[list[dict[str, Any]]]:
    iterator, done = iter(texts), 0
    with logging.tqdm(desc="Extracting", unit="text", disable=not show) as progress:
        while chunk := list(islice(iterator, _CHUNK)):
            for number, text in enumerate(chunk, start=done):
                check_text(text, "texts", number)
            yield from prepared.spans(prepared.tokenize(chunk), progress)
            done += len(chunk)
