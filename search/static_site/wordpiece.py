"""What the page needs to split texts into the tokens of a WordPiece tokenizer. `page/wordpiece.js` does the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...command_line import UsageError


def wordpiece_fields(tokenizer: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the fields of `WordPiece` in the page.

    Args:
        tokenizer: The content of a `tokenizer.json`.
        name: The name of the model, for errors.

    Raises:
        UsageError: If it is another tokenizer, or one with steps that the page does not know.
    """
    model, normalizer = tokenizer["model"], tokenizer["normalizer"] or {}
    steps = normalizer.get("normalizers", [normalizer])
    bert = steps[-1]
    unlike = {
        f"a {model['type']} model": model["type"] != "WordPiece",
        "other normalizers": bert.get("type") != "BertNormalizer"
        or any(step["type"] != "Lowercase" for step in steps[:-1]),
        "another pre-tokenizer": (tokenizer["pre_tokenizer"] or {}).get("type") != "BertPreTokenizer",
        "added words": any(each["normalized"] or each["single_word"] for each in tokenizer["added_tokens"]),
    }
    if found := [what for what, differs in unlike.items() if differs]:
        raise UsageError(
            f"{name}: a search page splits texts as BERT's WordPiece tokenizer does, but that of this model has "
            f"{' and '.join(found)}."
        )
    ids = {**model["vocab"], **{each["content"]: each["id"] for each in tokenizer["added_tokens"]}}
    tokens = [""] * (max(ids.values()) + 1)
    for token, place in ids.items():
        tokens[place] = token
    accents = bert["strip_accents"]
    return {
        "tokens": tokens,
        "special": [each["id"] for each in tokenizer["added_tokens"]],
        "unknown": ids[model["unk_token"]],
        "prefix": model["continuing_subword_prefix"],
        "longest_word": model["max_input_chars_per_word"],
        "clean": bert["clean_text"],
        "chinese": bert["handle_chinese_chars"],
        # By default, lowercase texts lose them.
        "accents": bert["lowercase"] if accents is None else accents,
        "lowercase": bert["lowercase"] or len(steps) > 1,
    }
