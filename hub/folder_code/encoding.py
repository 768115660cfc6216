"""Turns texts into vectors, without padding. The package does it for corpora of any size, and in several threads.

Install sequence-encoder and import sequence_encoder for `iter_encode`.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase

from ...data.batching import longest_first
from ...modeling.packing import device_of, moved, run_packed
from ...modeling.text_encoding.embedding_recipe import EmbeddingRecipe
from ...modeling.text_encoding.evaluation_mode import evaluation_mode
from ...modeling.text_encoding.prepared_encoding import count_leading_tokens
from ...modeling.text_encoding.text_length import TextLengthMixin
from ...modeling.text_encoding.text_pooling import needed_tokens, pooled


class TextEncodingMixin(TextLengthMixin):
    """Mixin that gives the encoder the method `encode`."""

    is_static: bool = False

    @torch.no_grad()
    def encode(
        self,
        sentences: str | Iterable[str],
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
    ) -> torch.Tensor | Any:
        """Compute a vector for each text, in evaluation mode.

        Args:
            sentences: A text or several texts.
            tokenizer: The tokenizer of the model.
            pooling: How to pool the vectors of the tokens. Defaults to the recipe of the folder, or else to `mean`.
            normalize_embeddings: Whether to scale vectors to unit length. Defaults to the recipe, or else to False.
            max_length: Number of tokens to truncate texts to. Defaults to the recipe, or else to the limit of the
                tokenizer and the model.
            prompt: A text to put before each text.
            prompt_name: The name of a prompt of the recipe. Defaults to the default prompt of the recipe, if any.
            truncate_dim: Number of channels to keep. Defaults to the recipe, or else to all.
            max_tokens: Maximum number of tokens in a batch, unless a single text has more.
            dtype: The dtype of the vectors.
            convert_to_tensor: Whether to return a tensor on the device of the model instead of a NumPy array.

        Returns:
            (N, D), in the order of the texts; (D,) for a single text.

        Raises:
            ValueError: If an argument is invalid, or the recipe of the folder is not supported.
        """
        model, texts = cast(Any, self), [sentences] if isinstance(sentences, str) else list(sentences)
        recipe = (self.embedding_recipe or EmbeddingRecipe()).changed(pooling, normalize_embeddings)
        kept, prompt = recipe.kept_channels(model.config.hidden_size, truncate_dim), recipe.prompt(prompt, prompt_name)
        limit = self.longest_text(tokenizer, max_length)
        options = {"truncation": limit is not None, "max_length": limit, "add_special_tokens": not self.is_static}
        lower = str.lower if recipe.lowercase else str
        ids = tokenizer([lower(prompt + text) for text in texts], **options)["input_ids"] if texts else []
        skipped = 0
        if prompt and not recipe.include_prompt:
            skipped = count_leading_tokens(tokenizer([lower(prompt)], **options)["input_ids"][0], tokenizer)
        device, wide = device_of(self), torch.promote_types(model.dtype, torch.float32)
        size = model.config.hidden_size * len(recipe.pooling)
        vectors = torch.zeros(len(ids), size, device=device, dtype=wide)
        with evaluation_mode(model):
            for batch in longest_first([len(text) for text in ids], max_tokens):
                lengths = [len(ids[index]) for index in batch]
                needed = needed_tokens(lengths, recipe.pooling, skipped)
                outputs = run_packed(model, [ids[index] for index in batch], needed)
                found = pooled(outputs.last_hidden_state[0], lengths, recipe.pooling, skipped)
                vectors.index_copy_(0, moved(torch.tensor(batch), device), found.to(device, wide))
        for step in recipe.after:
            vectors = step(vectors)
        vectors = vectors[:, :kept]
        if normalize_embeddings:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        vectors = vectors.to(dtype)
        vectors = vectors[0] if isinstance(sentences, str) else vectors
        return vectors if convert_to_tensor else vectors.cpu().numpy()
