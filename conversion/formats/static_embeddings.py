"""Reads the folders of static embeddings, without the packages: those of model2vec and of sentence-transformers.

model2vec (Tulkens and van Dongen, 2024, https://github.com/MinishLab/model2vec) saves its table as `embeddings`, and
the module `StaticEmbedding` of sentence-transformers as `embedding.weight`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from safetensors import safe_open
from tokenizers import Tokenizer

from ...configuration import SequenceEncoderConfig
from ...configuration.presets import static_fields
from ...saving.module_list import MODULE_LIST, STATIC_MODULE, read_module_list
from ..key_mapping import Tensors
from .package_checkpoints import PackageCheckpoint
from .weight_files import find_file, read_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...modeling import SequenceEncoderPreTrainedModel
    from ...modeling.text_encoding.embedding_recipe import EmbeddingRecipe

MODEL2VEC = "model2vec"
# model2vec reads no more tokens of a text, unless its configuration says otherwise.
_MODEL2VEC_LENGTH = 512
_WEIGHTS, _TOKENIZER = "model.safetensors", "tokenizer.json"
# The name of the table in the module of sentence-transformers.
_MODULE_TABLE = "embedding.weight"


class StaticCheckpoint(PackageCheckpoint):
    """A folder or a repository with a table of token vectors."""

    model_class = "SequenceEncoderModel"
    family = "static"
    allowed: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    @property
    def is_model2vec(self) -> bool:
        """Whether model2vec, rather than sentence-transformers, saved it."""
        return self.fields.get("model_type") == MODEL2VEC

    @property
    def architecture(self) -> str:  # type: ignore[override]
        """See `PackageCheckpoint`."""
        return "StaticModel" if self.is_model2vec else STATIC_MODULE

    @property
    def where(self) -> str:  # type: ignore[override]
        """See `PackageCheckpoint`."""
        return f"in the package {MODEL2VEC if self.is_model2vec else 'sentence-transformers'}"

    @cached_property
    def backend(self) -> Tokenizer:
        """Its tokenizer, as it is in the folder.

        Raises:
            OSError: If the file does not exist.
            ValueError: If it is damaged.
        """
        file = find_file(self.place, _TOKENIZER)
        if file is None:
            raise OSError(f"{self.place} has no {_TOKENIZER}.")
        try:
            return Tokenizer.from_file(str(file))
        except Exception as error:  # The parser raises bare exceptions.
            raise ValueError(f"The tokenizer in {self.place} cannot be read: {error}") from error

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """See `PackageCheckpoint.tokenizer`."""
        from ...tokenizer.static_tokenizer import static_tokenizer

        return static_tokenizer(self.backend)

    def recipe(self) -> EmbeddingRecipe | None:
        """See `PackageCheckpoint.recipe`. A text is cut where the package cuts it."""
        from ...modeling.text_encoding.embedding_recipe import EmbeddingRecipe, Normalize
        from ...modeling.text_encoding.recipe_files import read_recipe

        truncation: Any = self.backend.truncation
        found = read_recipe(self.place) or EmbeddingRecipe()
        if self.is_model2vec:
            normalize = bool(self.fields.get("normalize", False))
            length = self.fields.get("max_length", _MODEL2VEC_LENGTH)
            return EmbeddingRecipe(after=(Normalize(),) * normalize, max_length=length, settings=found.settings)
        return replace(found, max_length=truncation["max_length"] if truncation else None)

    def config(self, theirs: Mapping[str, Any]) -> tuple[SequenceEncoderConfig, list[Any]]:
        """See `PackageCheckpoint.config`."""
        # `inspect` needs no torch.
        with safe_open(self._file(), framework="numpy") as opened:
            shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
        rows, channels = shapes.get("embeddings") or shapes.get(_MODULE_TABLE) or (0, 1)
        return SequenceEncoderConfig(**static_fields(shapes.get("mapping", [rows])[0], channels)), []

    def convert(self, base_model: bool = False) -> SequenceEncoderPreTrainedModel:
        """See `PackageCheckpoint.convert`."""
        import torch

        from ...modeling.static_encoder import static_encoder
        from ...tokenizer.static_tokenizer import unknown_token

        tensors = self._weights()
        table, mapping, weights = (tensors.get(name) for name in ("embeddings", "mapping", "weights"))
        if table is None:
            raise ValueError(f"{self.place} has the weights {', '.join(sorted(tensors))}, and no table of vectors.")
        if not table.is_floating_point():
            table = table.float()
        if mapping is not None:
            table = table[mapping.long()]
        if weights is not None:
            table = table.to(torch.promote_types(table.dtype, torch.float32)) * weights[:, None].to(torch.float32)
        tokens = max(self.backend.get_vocab().values(), default=-1) + 1
        if tokens > len(table):
            raise ValueError(f"The tokenizer in {self.place} has {tokens} tokens, but there are {len(table)} vectors.")
        padding = self.tokenizer().pad_token_id
        fields: dict[str, Any] = {"pad_token_id": padding}
        unknown = unknown_token(self.backend) if self.is_model2vec else None
        if unknown is not None and (number := self.backend.token_to_id(unknown)) is not None:
            # model2vec does not count unknown tokens. As zeros, they do not change directions in sentence-transformers.
            table = table.index_fill(0, torch.tensor([number]), 0)
            fields["unweighted_token_ids"] = [number]
        model = static_encoder(table, **fields)
        model.embedding_recipe = self.recipe()
        return model

    def _weights(self) -> Tensors:
        tensors, _ = read_file(self._file(), self.place)
        if _MODULE_TABLE in tensors:
            tensors["embeddings"] = tensors.pop(_MODULE_TABLE)
        return tensors

    def _file(self) -> Path:
        file = find_file(self.place, _WEIGHTS)
        if file is None:
            raise OSError(f"{self.place} has no {_WEIGHTS}. Other formats are not read.")
        return file


def find_static(place: str | os.PathLike[str], fields: Mapping[str, Any]) -> StaticCheckpoint | None:
    """Recognise static embeddings.

    Args:
        place: A folder or a Hub id.
        fields: The content of its `config.json`, if there is one.
    """
    if fields.get("model_type") == MODEL2VEC:
        return StaticCheckpoint(place, fields)
    if fields or not os.path.isdir(place):
        return None
    folder = Path(place).absolute()
    # Those of older versions are in a subfolder, beside the list of modules.
    for listing, path in ((folder / MODULE_LIST, ""), (folder.parent / MODULE_LIST, folder.name)):
        if listing.is_file():
            first = next(iter(read_module_list(listing)), None)
            if first is not None and first["path"] == path and first["type"].endswith(f".{STATIC_MODULE}"):
                return StaticCheckpoint(place, fields)
    return None
