"""Encodes many texts: sorts them by length, packs them without padding, and returns vectors in the order of the texts.

Shapes: N texts, T tokens of a batch, D channels of the vectors.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...data.argument_checks import check_count
from ...data.batching import longest_first
from ...tokenizer.private_copy import lowercased, private_copy, without_special_tokens
from ...tokenizer.token_rows import RowTokenizer
from ..cpu.busy_neighbours import warned_of_busy_neighbours
from ..cpu.prepacked import prepacked_for
from ..packing import device_of, moved, run_packed
from .embedding_recipe import EmbeddingRecipe
from .evaluation_mode import evaluation_mode
from .prepared_encoding import PreparedEncoding, check_sentences, tokenized_chunks
from .static_encoding import mean_vectors
from .text_length import TextLengthMixin
from .text_pooling import needed_tokens, pooled


class TextEncodingMixin(TextLengthMixin):
    """Mixin that gives the encoder the methods `encode` and `iter_encode`.

    Attributes:
        is_static: Whether the encoder is a table of token vectors. `encode` then adds no special tokens.
    """

    is_static: bool = False

    def encode(
        self,
        sentences: str | Iterable[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        convert_to_tensor: bool = False,
        **options: Any,
    ) -> torch.Tensor | Any:
        """Compute a vector for each text, for search, clustering and comparison.

        With default arguments, a model from a sentence-transformers folder returns the same vectors as
        `SentenceTransformer`. Arguments have the names of `SentenceTransformer.encode`, but batches are limited by
        tokens instead of texts, and have no padding.

        The computation uses the dtype and device of the model, in evaluation mode and without gradients. Several
        threads may call this method at the same time with different options, but not while another thread trains the
        model or changes its mode.

        Args:
            sentences: A text or several texts.
            tokenizer: The tokenizer of the model.
            convert_to_tensor: Whether to return a tensor on the device of the model instead of a NumPy array.
            **options: Arguments of `iter_encode`.

        Returns:
            (N, D), in the order of the texts; (D,) for a single text.

        Raises:
            ValueError: If an argument is invalid, the recipe of the folder is not supported, or a vector is not finite.
        """
        if not convert_to_tensor:
            check_numpy_dtype(options.get("dtype"))
        texts = [sentences] if isinstance(sentences, str) else sentences
        parts = cast("list[torch.Tensor]", list(self.iter_encode(texts, tokenizer, convert_to_tensor=True, **options)))
        if parts:
            vectors = torch.cat(parts)
        else:
            recipe = self.recipe_for(options.get("pooling"), options.get("normalize_embeddings"))
            kept = recipe.kept_channels(cast(PreTrainedModel, self).config.hidden_size, options.get("truncate_dim"))
            vectors = torch.empty(0, kept, dtype=options.get("dtype", torch.float32), device=device_of(self))
        vectors = vectors[0] if isinstance(sentences, str) else vectors
        return vectors if convert_to_tensor else vectors.cpu().numpy()

    def iter_encode(
        self,
        sentences: Iterable[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        pooling: str | None = None,
        normalize_embeddings: bool | None = None,
        max_length: int | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
        max_tokens: int = 2048,
        dtype: torch.dtype = torch.float32,
        convert_to_tensor: bool = False,
        show_progress_bar: bool | None = None,
    ) -> Iterator[torch.Tensor | Any]:
        """Like `encode`, but for more texts than fit in memory: read and yield thousands of texts at a time.

        By default, this follows the embedding recipe in the folder of the model.

        Args:
            sentences: Texts, also from an infinite iterator.
            tokenizer: The tokenizer of the model.
            pooling: How to pool the vectors of the last layer: `mean`, `cls`, `max`, `mean_sqrt_len_tokens`,
                `weightedmean` or `lasttoken`. Defaults to the recipe, or else to `mean`.
            normalize_embeddings: Whether to scale vectors to unit length. Defaults to the recipe, or else to False.
            max_length: Number of tokens to truncate texts to. Defaults to the recipe, or else to the limit of the
                tokenizer and the model.
            prompt: A text to put before each text.
            prompt_name: The name of a prompt of the recipe. Defaults to the default prompt of the recipe, if any.
            truncate_dim: Number of channels to keep. Defaults to the recipe, or else to all.
            max_tokens: Maximum number of tokens in a batch, unless a single text has more.
            dtype: The dtype of the vectors.
            convert_to_tensor: Whether to yield tensors on the device of the model instead of NumPy arrays.
            show_progress_bar: Whether to show a progress bar; by default if the log level of transformers is INFO or
                lower.

        Yields:
            (N, D) for the next N texts.

        Raises:
            ValueError: If an argument is invalid, the recipe of the folder is not supported, or a vector is not finite.
        """
        check_sentences(sentences)
        prepared = self.prepare_encoding(
            tokenizer,
            pooling=pooling,
            normalize_embeddings=normalize_embeddings,
            max_length=max_length,
            prompt=prompt,
            prompt_name=prompt_name,
            truncate_dim=truncate_dim,
            max_tokens=max_tokens,
            dtype=dtype,
        )
        if not convert_to_tensor:
            check_numpy_dtype(dtype)
        return _iter_encode(sentences, prepared, convert_to_tensor, show_progress_bar)

    def prepare_encoding(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pooling: str | None = None,
        normalize_embeddings: bool | None = None,
        max_length: int | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
        max_tokens: int = 2048,
        dtype: torch.dtype = torch.float32,
    ) -> PreparedEncoding:
        """Check the options of `iter_encode`, and return its two steps: tokenizing texts, and computing vectors.

        The steps can run in two threads. For the arguments and errors, see `iter_encode`.
        """
        recipe = self.recipe_for(pooling, normalize_embeddings)
        check_count(max_tokens, "max_tokens")
        kept = recipe.kept_channels(cast(PreTrainedModel, self).config.hidden_size, truncate_dim)
        prompt = recipe.prompt(prompt, prompt_name)
        own = private_copy(tokenizer)
        max_length = self.longest_text(tokenizer, max_length)
        own = lowercased(own) if recipe.lowercase else own
        normalize = bool(normalize_embeddings)
        prepared = PreparedEncoding(self, own, recipe, prompt, max_length, max_tokens, kept, normalize, dtype)
        if self.is_static:
            own = without_special_tokens(own)
            rows = RowTokenizer(own, max_length) if recipe.pooling == ("mean",) else None
            prepared = replace(prepared, tokenizer=own, rows=rows)
        return prepared if recipe.include_prompt else replace(prepared, skipped=prepared.count_prompt_tokens())

    def recipe_for(self, pooling: str | None = None, normalize_embeddings: bool | None = None) -> EmbeddingRecipe:
        """Return the recipe of the model, changed by arguments of `iter_encode`.

        Args:
            pooling: The pooling, instead of the recipe's.
            normalize_embeddings: Whether to scale vectors to unit length, instead of the recipe's setting.

        Raises:
            ValueError: If the pooling does not exist, or the recipe of the folder is not supported.
        """
        return (self.embedding_recipe or EmbeddingRecipe()).changed(pooling, normalize_embeddings)

    def _check_finite(self, vectors: torch.Tensor, name: Callable[[int], str]) -> None:
        if vectors.isfinite().all():
            return
        text = name(int(vectors.isfinite().all(dim=1).int().argmin()))
        model = cast(PreTrainedModel, self)
        bad = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
        cause = f"weights such as {bad[0]} are not finite" if bad else f"values are too large for {vectors.dtype}"
        cause = cause if bad or vectors.dtype == model.dtype else f"{cause} or {model.dtype}"
        raise ValueError(f"The vector of {text} is not finite, because in {type(self).__name__} {cause}.")

    def _encode_ids(
        self, ids: Sequence[Any], modes: tuple[str, ...], skipped: int, max_tokens: int, progress: Any
    ) -> torch.Tensor:
        """Return the pooled vectors in float32, or in float64 if the model is; zero for a text without tokens."""
        model = cast(PreTrainedModel, self)
        if self.is_static and modes == ("mean",):
            vectors = mean_vectors(model, ids, skipped)
            progress.update(len(ids))
            return vectors
        device = device_of(self)
        dtype = torch.promote_types(model.dtype, torch.float32)
        vectors = torch.zeros(len(ids), model.config.hidden_size * len(modes), device=device, dtype=dtype)
        tokens = sum(len(text) for text in ids) if device.type == "cpu" else 0
        with evaluation_mode(model), prepacked_for(cast(nn.Module, model.layers), tokens):
            for batch in longest_first([len(text) for text in ids], max_tokens, progress):
                with warned_of_busy_neighbours(device):
                    found = self.encode_batch([ids[i] for i in batch], modes, skipped).to(device, dtype)
                vectors.index_copy_(0, moved(torch.tensor(batch), device), found)
        return vectors

    @torch.no_grad()
    def encode_batch(self, ids: list[list[int]], modes: tuple[str, ...], skipped: int = 0) -> torch.Tensor:
        """Compute the pooled vectors of one batch, which `encode` and a server share. Call it in evaluation mode.

        Args:
            ids: The token ids of the texts, none of them empty, in ascending order of length.
            modes: The poolings, whose results are concatenated.
            skipped: Number of tokens to skip at the start of each text, those of the prompt.

        Returns:
            (N, D x modes), before the later steps of the recipe.
        """
        if self.is_static and modes == ("mean",):
            return mean_vectors(self, ids, skipped)
        lengths = [len(text) for text in ids]
        outputs = run_packed(self, ids, needed_tokens(lengths, modes, skipped))
        return pooled(outputs.last_hidden_state[0], lengths, modes, skipped)


def _iter_encode(
    sentences: Iterable[str], prepared: PreparedEncoding, convert_to_tensor: bool, show_progress_bar: bool | None
) -> Iterator[torch.Tensor | Any]:
    for ids, name, progress in tokenized_chunks(sentences, prepared, show_progress_bar):
        vectors = prepared.vectors(ids, name, progress)
        yield vectors if convert_to_tensor else vectors.cpu().numpy()


def check_numpy_dtype(dtype: torch.dtype | None) -> None:
    """Check that NumPy has a dtype.

    Raises:
        ValueError: If it does not.
    """
    if dtype == torch.bfloat16:
        raise ValueError("NumPy has no bfloat16; with dtype=torch.bfloat16, pass convert_to_tensor=True.")
