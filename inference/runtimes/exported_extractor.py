"""Extracts spans with an exported encoder, on ONNX Runtime, OpenVINO or torch, and the head in torch.

No exporter takes a recurrent layer over texts of any length, and the head costs little beside the encoder. `export`
therefore writes a graph of the encoder, and the weights of the head beside it.

Shapes: T tokens of some texts, D channels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from ...modeling import SequenceEncoderForSpanExtraction
from ...modeling.extraction.extracting import ExtractionMixin, Labels
from ...modeling.extraction.label_encoder import read_label_tokenizer, write_label_tokenizer
from .exported_graph import ExportedHead
from .graphs import inputs_of
from .loading import hub_options, load_exported
from .similar_lengths import similar_lengths

_HEAD = "head.safetensors"
_ENCODER = "model."


def write_head(folder: Path, model: SequenceEncoderForSpanExtraction) -> None:
    """Write the weights of the head beside the graph of its encoder, in float32."""
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(_ENCODER)}
    save_file({name: tensor.detach().float().contiguous() for name, tensor in weights.items()}, folder / _HEAD)
    write_label_tokenizer(model.label_tokenizer, folder)


class ExportedExtractor(ExtractionMixin, ExportedHead):
    """A `SequenceEncoderForSpanExtraction` that `export` has saved, with its tokenizer.

    Load one with `from_pretrained`.

    Args:
        exported: The `ExportedModel` of transformers.
        tokenizer: The tokenizer of the model.
        head: The model, without its encoder.
    """

    def __init__(
        self, exported: Any, tokenizer: PreTrainedTokenizerBase, head: SequenceEncoderForSpanExtraction
    ) -> None:
        super().__init__(exported, None)
        self.tokenizer, self._head = tokenizer, head

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> ExportedExtractor:
        """Load an exported model. It computes in float32.

        Args:
            name: A folder or a Hub id.
            **options: See `ExportedEncoder.from_pretrained`.

        Raises:
            MissingLibraryError: If the runtime is not installed.
            OSError: If there is no exported model, or it has no head.
            ValueError: If a file cannot be read, or the model is a torch program and not trusted.
        """
        hub = hub_options(options)
        return cls.with_head(*load_exported(name, **options), name, hub)

    @classmethod
    def with_head(
        cls, exported: Any, tokenizer: PreTrainedTokenizerBase, name: str | os.PathLike[str], hub: dict[str, Any]
    ) -> ExportedExtractor:
        """Load the head of an exported encoder.

        Args:
            exported: The encoder.
            tokenizer: Its tokenizer.
            name: The folder or the Hub id of both.
            hub: The options that find the files on the Hub.

        Raises:
            OSError: If there is no head.
        """
        file = cast(str, cached_file(os.fspath(name), _HEAD, **hub))
        with torch.device("meta"):
            head: Any = SequenceEncoderForSpanExtraction(exported.config)
        head.model = None
        head.load_state_dict(load_file(file), assign=True)
        found = cls(exported, tokenizer, head.to(exported.device).eval())
        if head.label_encoder is not None:
            found.label_tokenizer = read_label_tokenizer(name, hub)
        return found

    @property
    def label_encoder(self) -> Any:
        """The separate encoder of labels, which runs in torch; None if the model has no such encoder."""
        return self._head.label_encoder

    @property
    def scorer(self) -> Any:
        """The last part of the head."""
        return self._head.scorer

    @property
    def scores(self) -> Any:
        """See `SequenceEncoderForSpanExtraction.scores`."""
        return self._head.scores

    def extract(
        self,
        texts: str | Iterable[str],
        labels: Labels,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **options: Any,
    ) -> Any:
        """Find the spans of texts that fit labels, as `SequenceEncoderForSpanExtraction.extract`.

        Args:
            texts: A text or several texts.
            labels: See `SequenceEncoderForSpanExtraction.extract`.
            tokenizer: The tokenizer; by default that of the folder.
            **options: See `SequenceEncoderForSpanExtraction.iter_extract`.
        """
        return super().extract(texts, labels, tokenizer or self.tokenizer, **options)

    def token_states(self, ids: list[list[int]], needed: torch.Tensor) -> torch.Tensor:
        """See `ExtractionMixin.token_states`. Texts of similar length run together, since attention is padded."""
        groups = similar_lengths([len(text) for text in ids])[0] if self.runs_groups else [list(range(len(ids)))]
        found: list[torch.Tensor] = []
        for group in groups:
            inputs = inputs_of([ids[text] for text in group], self.config.pad_token_id, self._inputs)
            states = self(**inputs)["last_hidden_state"]
            found += [row[: len(ids[text])] for row, text in zip(states, group, strict=True)]
        return torch.cat(found)

    @contextmanager
    def ready_to_extract(self, tokens: int) -> Iterator[None]:
        """Do nothing, since a graph is always ready."""
        yield
