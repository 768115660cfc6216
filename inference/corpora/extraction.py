"""Finds the entities of texts, and makes a column with the list of those of each text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from ...command_line import UsageError
from ...modeling import SequenceEncoderForSpanExtraction
from ...modeling.extraction.prepared_extraction import TokenizedTexts
from ..runtimes.exported_extractor import ExportedExtractor
from .arguments import ExtractionArguments, WindowedModelArguments
from .results import Tokens
from .rows import Chunk

_ENTITY = pa.struct(
    [
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("text", pa.string()),
        ("label", pa.string()),
        ("score", pa.float32()),
    ]
)


@dataclass
class WindowTokens(Tokens):
    """The tokens of the windows of texts, of which a text has any number."""

    texts: TokenizedTexts | None = None

    @property
    def rows(self) -> int:
        """See `Tokens.rows`."""
        return 0 if self.texts is None else len(self.texts.texts)


class Extraction:
    """The entities of texts, with the options of `extract`.

    Args:
        model: The model, which may be exported.
        tokenizer: Its tokenizer.
        reading: How to read texts.
        options: What to extract.

    Raises:
        UsageError: If the labels do not fit the model.
        ValueError: If the tokenizer does not.
    """

    def __init__(
        self,
        model: SequenceEncoderForSpanExtraction | ExportedExtractor,
        tokenizer: PreTrainedTokenizerBase,
        reading: WindowedModelArguments,
        options: ExtractionArguments,
    ) -> None:
        self.model, self.options = model, options
        self.device_type = model.device.type
        labels: Any = options.label_descriptions if options.labels is None else options.labels
        try:
            self.prepared = model.prepare_extraction(
                labels,
                tokenizer,
                threshold=options.threshold,
                nested=options.nested,
                multi_label=options.multi_label,
                max_length=reading.max_length,
                max_tokens=reading.max_tokens,
            )
        except ValueError as error:
            option = "labels" if options.label_descriptions is None else "label_descriptions"
            raise UsageError(f"--{option}: {error}") if str(error).startswith("labels") else error from error

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """See `Computation.tokenizer`."""
        return self.prepared.tokenizer

    @property
    def fields(self) -> list[pa.Field]:
        """See `Computation.fields`."""
        return [pa.field("entities", pa.list_(_ENTITY))]

    @property
    def facts(self) -> Mapping[str, Any]:
        """See `Computation.facts`."""
        options = self.options
        facts = {
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "labels": self.prepared.names,
            "threshold": self.prepared.threshold,
            "nested": options.nested,
            "multi_label": options.multi_label,
            "max_length": self.prepared.prompt.max_length,
        }
        return facts if options.label_descriptions is None else facts | {"descriptions": options.label_descriptions}

    def tokenize(self, texts: list[list[str]]) -> Tokens:
        """See `Computation.tokenize`."""
        found = self.prepared.tokenize(texts[0])
        return WindowTokens({"input_ids": [window.ids for window in found.windows]}, 0, texts=found)

    def compute(self, chunk: Chunk, tokens: Tokens, progress: Any) -> list[pa.Array]:
        """See `Computation.compute`."""
        texts = tokens.texts if isinstance(tokens, WindowTokens) else None
        found = iter([] if texts is None else self.prepared.spans(texts, progress))
        return [pa.array([next(found) if good else None for good in chunk.good], pa.list_(_ENTITY))]
