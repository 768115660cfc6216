"""What the page needs to split texts into the tokens of a WordPiece tokenizer. `page/wordpiece.js` does the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def differences(tokenizer: Mapping[str, Any]) -> list[str]:
    """Return what a tokenizer has that BERT's do not have, and that the page does not know.

    Args:
        tokenizer: The content of a `tokenizer.json`.
    """
    model, steps = tokenizer["model"], _steps(tokenizer)
    unlike = {
        f"a {model['type']} model": model["type"] != "WordPiece",
        "other normalizers": steps[-1].get("type") != "BertNormalizer"
        or any(step["type"] != "Lowercase" for step in steps[:-1]),
        "another pre-tokenizer": (tokenizer["pre_tokenizer"] or {}).get("type") != "BertPreTokenizer",
        "added words": any(each["normalized"] or each["single_word"] for each in tokenizer["added_tokens"]),
    }
    return [what for what, differs in unlike.items() if differs]


def wordpiece_fields(tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `WordPiece` in the page.

    Args:
        tokenizer: The content of a `tokenizer.json` without differences.
    """
    model, steps = tokenizer["model"], _steps(tokenizer)
    bert = steps[-1]
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


def _steps(tokenizer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    normalizer = tokenizer["normalizer"] or {}
    return list(normalizer.get("normalizers", [normalizer]))
