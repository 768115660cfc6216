"""Finds how many tokens of a text a model reads, and whether its tokenizer fits it."""

from typing import cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from .embedding_recipe import EmbeddingRecipe

logger = logging.get_logger(__name__)

# Vocabularies are often padded to a multiple of this, for speed.
_ROUNDED_TO = 128


class TextLengthMixin:
    """Mixin that gives a model with a configuration the method `longest_text`.

    Attributes:
        embedding_recipe: How texts become vectors by default; None for the mean over all tokens. `from_pretrained`
            reads it from the folder of a sentence-transformers model, and `save_pretrained` writes it.
    """

    embedding_recipe: EmbeddingRecipe | None = None

    def longest_text(self, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None) -> int | None:
        """Return the number of tokens to truncate texts to.

        Args:
            tokenizer: The tokenizer of the model.
            max_length: The number; by default the limit of the recipe, the tokenizer and the model.

        Returns:
            The number of tokens, or None if there is no limit.

        Raises:
            ValueError: If `max_length` exceeds the positions of the model, or the tokenizer has more tokens than the
                model.
        """
        config = cast(PreTrainedModel, self).config
        self._check_tokenizer(tokenizer)
        positions = config.max_position_embeddings if config.position_embedding == "learned" else None
        if max_length is None:
            recipe = self.embedding_recipe
            limits = [positions, recipe.max_length if recipe and recipe.max_length else tokenizer.model_max_length]
            if recipe and not recipe.max_length:
                limits.append(config.max_position_embeddings)  # As SentenceTransformer does.
            # Tokenizers without a limit have an enormous `model_max_length`.
            return min((limit for limit in limits if limit is not None and limit < 10**9), default=None)
        least = tokenizer.num_special_tokens_to_add() + 1
        if max_length < least or (positions is not None and max_length > positions):
            most = "" if positions is None else f" and at most {positions}"
            raise ValueError(f"max_length must be at least {least}{most}, got {max_length}.")
        return max_length

    def _check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse a tokenizer with more tokens than the model has, and warn if it does not seem to fit the model."""
        config = cast(PreTrainedModel, self).config
        size = len(tokenizer)
        if size > config.vocab_size:
            raise ValueError(
                f"tokenizer has {size} tokens, but the model has vocab_size={config.vocab_size}. If it belongs to "
                f"the model, call model.resize_token_embeddings({size})."
            )
        differences = [
            f"its {name} is {theirs}, but {ours} in the model's configuration"
            for name in ("pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
            if name.removesuffix("_id") in tokenizer.special_tokens_map
            and (theirs := getattr(tokenizer, name)) != (ours := getattr(config, name))
            and ours is not None
        ]
        if config.vocab_size - size >= _ROUNDED_TO:
            differences.append(f"it has only {size} tokens, but the model has vocab_size={config.vocab_size}")
        if differences:
            logger.warning_once(
                f"The tokenizer does not seem to belong to the model: {'; '.join(differences)}. With the wrong "
                "tokenizer, vectors are meaningless."
            )
