"""Finds how many tokens of a text a model reads."""

from typing import cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .embedding_recipe import EmbeddingRecipe
from .tokenizer_checks import check_tokenizer, longest_positions


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
        check_tokenizer(config, tokenizer)
        positions = longest_positions(config)
        if max_length is None:
            recipe = self.embedding_recipe
            if config.is_static:
                return recipe.max_length if recipe else None  # It has no positions.
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
