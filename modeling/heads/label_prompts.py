"""Puts labels before or after texts, as models that read all labels at once need them."""

from collections.abc import Sequence
from typing import cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...configuration.zero_shot_classification_field import (
    ZeroShotClassificationFields,
    zero_shot_classification_fields,
)

_SEPARATOR = "<<SEP>>"
# For trying a model, on any texts.
SAMPLE_LABELS = ("sport", "politics", "science", "art")
Ids = list[list[int]]


class LabelPromptMixin:
    """Mixin that gives a model the method `label_prompts`."""

    def label_prompts(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None = None,
    ) -> dict[str, Ids]:
        """Return the inputs of texts that are compared with the same labels.

        Args:
            texts: The texts.
            labels: The labels.
            tokenizer: The tokenizer of the model.
            max_length: Number of tokens of a text with its labels. Longer texts are truncated, and labels are not.

        Returns:
            Lists of integers for each text, by the names of the inputs, without padding. `tokenizer.pad` makes a batch.

        Raises:
            ValueError: If there are no labels, one is empty or there twice, they leave no room for a text, or the
                tokenizer has not the tokens that the configuration names.
        """
        return prompts_for(self, texts, labels, tokenizer, max_length)[0]


def prompts_for(
    model: object,
    texts: Sequence[str],
    labels: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
) -> tuple[dict[str, Ids], int]:
    """Return what `label_prompts` returns, and the number of texts that were truncated."""
    fields = zero_shot_classification_fields(cast(PreTrainedModel, model).config)
    prompt, token = _prompt(labels, tokenizer, fields)
    if max_length is not None:
        needed = len(tokenizer(prompt, verbose=False)["input_ids"])
        if needed >= max_length:
            raise ValueError(
                f"labels take {needed} tokens, which leaves no room for a text in {max_length} tokens. Use fewer or "
                "shorter ones."
            )
    # In a text, the token would start a label.
    plain = [text.replace(token, " ") for text in texts]
    whole = [prompt + text if fields.labels_first else text + prompt for text in plain]
    encoded = tokenizer(whole, return_attention_mask=False, return_special_tokens_mask=True, verbose=False)
    special = encoded.pop("special_tokens_mask")
    inputs: dict[str, Ids] = {name: encoded[name] for name in encoded}
    truncated = 0
    for row, ids in enumerate(inputs["input_ids"]):
        if max_length is None or len(ids) <= max_length:
            continue
        truncated += 1
        # The last token of the text: before the labels, or before the special tokens at the end.
        end = len(ids) - [*reversed(special[row]), 0].index(0)
        if not fields.labels_first:
            end = ids.index(cast(int, fields.label_token_id))
        first = end - (len(ids) - max_length)
        for lists in inputs.values():
            lists[row] = lists[row][:first] + lists[row][end:]
    return inputs, truncated


def _prompt(
    labels: Sequence[str], tokenizer: PreTrainedTokenizerBase, fields: ZeroShotClassificationFields
) -> tuple[str, str]:
    """Return the text of the labels, and that of the token before each."""
    if isinstance(labels, str) or not labels or len({*labels}) < len(labels) or not all(map(str.strip, labels)):
        raise ValueError(f"labels must be a list of different texts, none of which is empty, got {labels!r}.")
    if fields.label_token_id is None:
        raise ValueError("The model has no label_token_id in its zero_shot_classification, so it has no prompts.")
    tokens = []
    for name in ("label_token_id", "text_token_id"):
        index = getattr(fields, name)
        token = _SEPARATOR if index is None else cast(str | None, tokenizer.convert_ids_to_tokens(index))
        if token is None or (index is not None and tokenizer(token, add_special_tokens=False)["input_ids"] != [index]):
            raise ValueError(f"The tokenizer must have one token with the id {index}, {name} of the model.")
        tokens.append(token)
    if wrong := [label for label in labels if tokens[0] in label]:
        raise ValueError(f"labels must not contain {tokens[0]}, got {wrong[0]!r}.")
    return "".join(f"{tokens[0]}{label}" for label in labels) + tokens[1], tokens[0]
