"""Constraints of unmasking allow exactly the tokens with which a valid text stays possible.

Vocabularies are so small that all texts can be listed.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterable

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sequence_encoder.modeling.generation.constraints import AllowedTokens, BannedTokens, BannedWords, Constraint
from sequence_encoder.modeling.generation.gap_pattern import GapPattern, possible_gap_lengths
from sequence_encoder.tests.fixtures.texts import tokenizer_of

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
PAD, MASK = 0, 2
# The decoder, and the tokens after the special ones. "Ã©" is "é" in two tokens, "Âł" another character, and "Ā" byte 0.
VOCABULARIES = {
    "wordpiece": (decoders.WordPiece(), ["a", "##a", "b", "##b", ".", "é", "7", "##7", "n't"]),
    "byte-level": (decoders.ByteLevel(), ["a", "Ġa", "b", "Ġ", "Ã", "©", "ab", "Â", "ł", "aĀ"]),
    "metaspace": (decoders.Metaspace(), ["a", "▁a", "b", "▁", "é", "ab", "▁b▁", "."]),
    "byte-fallback": (
        decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
        ["a", "▁a", "b", "▁", "<0xC3>", "<0xA9>", "ab"],
    ),
}
PATTERNS = ["a|ab", r"[ab]+( [ab]+)?", ".*", r"\w*é\w*", r"(?i)A(B|é)?", r"[a ]{2,3}"]


def build_tokenizer(kind: str) -> PreTrainedTokenizerBase:
    decoder, tokens = VOCABULARIES[kind]
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate([*SPECIAL.values(), *tokens])}, "[UNK]"))
    backend.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)


@pytest.fixture(scope="module", params=VOCABULARIES)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return build_tokenizer(request.param)


@pytest.fixture(scope="module")
def texts_of(tokenizer: PreTrainedTokenizerBase) -> Callable[[int], dict[tuple[int, ...], str]]:
    """Return `texts_of(length)`: the text of each sequence of this many tokens, without a space of the first one."""
    decode = tokenizer.backend_tokenizer.decode_batch
    tokens = range(len(SPECIAL), len(tokenizer))
    alone = decode([[token] for token in tokens])
    known: dict[int, dict[tuple[int, ...], str]] = {0: {(): ""}}
    spaces = {token: " " if text.startswith(" ") else "" for token, text in zip(tokens, alone, strict=True)}

    def list_all(length: int) -> dict[tuple[int, ...], str]:
        if length not in known:
            # Tokens that continue a word start no gap.
            starting = [token for token, text in zip(tokens, alone, strict=True) if not text.startswith("##")]
            rows = list(itertools.product(starting, *[tokens] * (length - 1)))
            texts = decode([list(row) for row in rows])
            known[length] = {row: text.removeprefix(spaces[row[0]]) for row, text in zip(rows, texts, strict=True)}
        return known[length]

    return list_all


def matches(pattern: str, text: str) -> bool:
    return bool(re.fullmatch(pattern, text)) and text == text.strip() and not {"\ufffd", "\0"} & set(text)


def allowed(constraint: Constraint, row: list[int], size: int, mask: int = MASK) -> dict[int, set[int]]:
    """Return the tokens that a constraint allows at each mask."""
    positions = torch.tensor(row).eq(mask).nonzero()[:, 0]
    scores = torch.zeros(len(positions), size)
    constraint.forbid(torch.tensor(row), positions, scores)
    return {
        place: set(line.isfinite().nonzero()[:, 0].tolist())
        for place, line in zip(positions.tolist(), scores, strict=True)
    }


def write(constraints: Iterable[Constraint], row: list[int], size: int, mask: int = MASK) -> list[int]:
    """Fill all masks in a random order with the tokens of the highest random scores."""
    text = torch.tensor(row)
    while len(positions := text.eq(mask).nonzero()[:, 0]):
        scores = torch.randn(len(positions), size)
        for constraint in constraints:
            constraint.forbid(text, positions, scores)
        chosen = torch.randint(len(positions), ())
        assert scores[chosen].max() > -torch.inf
        text[positions[chosen]] = scores[chosen].argmax()
    return text.tolist()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_gap_allows_exactly_the_tokens_that_a_match_needs(
    tokenizer: PreTrainedTokenizerBase, texts_of: Callable[[int], dict[tuple[int, ...], str]], pattern: str
) -> None:
    lengths = [n for n in (1, 2, 3) if any(matches(pattern, text) for text in texts_of(n).values())]
    assert [n for n in possible_gap_lengths(pattern, tokenizer, 3) if n <= 3] == lengths
    for length in lengths:
        gap = GapPattern(pattern, tokenizer, 1, 1 + length)
        matching = [row for row, text in texts_of(length).items() if matches(pattern, text)]
        for row in matching[:: max(1, len(matching) // 6)]:
            for masked in itertools.product([False, True], repeat=length):
                written = [MASK if hidden else token for token, hidden in zip(row, masked, strict=True)]
                fitting = [r for r in matching if all(w in (MASK, t) for w, t in zip(written, r, strict=True))]
                expected = {1 + i: {r[i] for r in fitting} for i in range(length) if masked[i]}
                # The surroundings of the gap are free.
                found = allowed(gap, [MASK, *written, 4], len(tokenizer) + 2)
                assert len(found.pop(0)) == len(tokenizer) + 2
                assert found == expected


@pytest.mark.parametrize("pattern", ["b?", "a|ab"])
def test_fill_tokens_take_up_the_rest_of_a_gap(
    tokenizer: PreTrainedTokenizerBase, texts_of: Callable[[int], dict[tuple[int, ...], str]], pattern: str
) -> None:
    gap = GapPattern(pattern, tokenizer, 0, 3, fill_token=PAD)
    matching = {
        (*row, *[PAD] * (3 - length))
        for length in range(4)
        for row, text in texts_of(length).items()
        if matches(pattern, text)
    }
    assert allowed(gap, [MASK] * 3, len(tokenizer)) == {i: {row[i] for row in matching} for i in range(3)}
    after = {row[0] for row in matching if row[1] == PAD}
    assert allowed(gap, [MASK, PAD, MASK], len(tokenizer)) == {0: after, 2: {PAD}}


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_added_tokens_write_their_text(kind: str) -> None:
    tokenizer = build_tokenizer(kind)
    assert possible_gap_lengths("→b", tokenizer, 4) == []
    tokenizer.add_tokens(["→b"])
    tokenizer.add_tokens(["→"], special_tokens=True)
    assert 1 in possible_gap_lengths("→b", tokenizer, 4)
    assert possible_gap_lengths("→", tokenizer, 4) == []


def test_parts_of_characters_are_left_out_where_they_need_too_many_states() -> None:
    tokenizer = build_tokenizer("byte-level")
    part = tokenizer.convert_tokens_to_ids("Ã")
    few, many = (GapPattern(f".{{1,{limit}}}", tokenizer, 0, 2) for limit in (9, 200))
    assert part in allowed(few, [MASK, MASK], len(tokenizer))[0]
    found = allowed(many, [MASK, MASK], len(tokenizer))
    assert {tokenizer.decode([token]) for token in found[1]} == {"a", " a", "b", "ab"}
    with pytest.raises(ValueError, match=r"'a\{2500\}' needs more than 2000 states"):
        GapPattern("a{2500}", tokenizer, 0, 2)


@pytest.mark.parametrize("algorithm", ["wordpiece", "byte_level_bpe"])
@pytest.mark.parametrize(
    ("pattern", "length"),
    [(r"[a-z]+( [a-z]+){0,3}", 9), (r"(yes|no), \d+", 6), (r"The .{3,}\.", 12), ("[aé]{2,}", 4)],
)
def test_a_gap_that_is_filled_in_any_order_matches(algorithm: str, pattern: str, length: int) -> None:
    tokenizer = tokenizer_of(algorithm)
    spelled = pattern if algorithm == "byte_level_bpe" else pattern.replace("é", "e")
    gap = GapPattern(spelled, tokenizer, 2, 2 + length)
    for _ in range(3):
        mask = tokenizer.mask_token_id
        row = write([gap], [5, 6, *[mask] * length, 7], len(tokenizer), mask)
        text = tokenizer.decode(row[2:-1], clean_up_tokenization_spaces=False).strip()
        assert re.fullmatch(spelled, text), text
    assert gap.joint


def test_patterns_that_no_gap_can_match_are_refused() -> None:
    tokenizer = tokenizer_of()
    with pytest.raises(ValueError, match=r"No text of 2 tokens.*'a \{5,6\}b'.*no number of tokens does"):
        GapPattern("a {5,6}b", tokenizer, 0, 2)
    with pytest.raises(ValueError, match=r"No text of 3 tokens.*up to 64: 1, 4\.$"):
        GapPattern("a|a b a b", tokenizer, 0, 3)
    with pytest.raises(ValueError, match=r"No text of 1 tokens matches the pattern ' a' without white space"):
        GapPattern(" a", tokenizer, 0, 1)
    for pattern in ("(", r"(?=a)b", r"(a)\1", "^a$"):
        with pytest.raises(ValueError, match=r"cannot be compiled: .*without look-around"):
            GapPattern(pattern, tokenizer, 0, 1)
    with pytest.raises(ValueError, match="start=3, stop=3"):
        GapPattern("a", tokenizer, 3, 3)
    with pytest.raises(ValueError, match=r"fill_token must be from 0 to \d+, got -1"):
        GapPattern("a", tokenizer, 0, 1, fill_token=-1)


def test_a_gap_names_the_written_tokens_that_rule_out_a_match() -> None:
    tokenizer = tokenizer_of()
    one, other, mask = tokenizer.convert_tokens_to_ids(["a", "##b", "[MASK]"])
    gap = GapPattern("[a-c]{2}", tokenizer, 1, 3)
    with pytest.raises(ValueError, match=rf"from 1 to 3 cannot match the pattern '\[a-c\]\{{2\}}'.*\[{one}\]"):
        allowed(gap, [5, mask, one], len(tokenizer), mask)
    assert one in allowed(gap, [5, mask, other], len(tokenizer), mask)[1]


def test_a_gap_without_outlines_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "outlines_core", None)
    with pytest.raises(ImportError, match=r"sequence-encoder\[constraints\]"):
        GapPattern("not seen before", tokenizer_of(), 0, 3)


def test_banned_words_are_exactly_what_a_token_would_complete() -> None:
    words = [[3], [4, 5], [5, 5], [6, 4, 6], [7, 8, 9, 7], [5] * 20]
    constraint = BannedWords(words, 10)
    assert constraint.joint
    for _ in range(30):
        row = torch.where(torch.rand(9) < 0.4, MASK, torch.randint(4, 10, (9,))).tolist()
        found = allowed(constraint, row, 10)
        for place, tokens in found.items():
            for token in range(10):
                written = [*row[:place], token, *row[place + 1 :]]
                completed = any(
                    written[start : start + len(word)] == word
                    for word in words
                    for start in range(max(0, place - len(word) + 1), place + 1)
                )
                assert (token not in tokens) == completed


def test_allowed_tokens_hold_everywhere_or_at_their_positions() -> None:
    assert allowed(AllowedTokens([3, 4], 6), [MASK, 3, MASK], 6) == {0: {3, 4}, 2: {3, 4}}
    at = AllowedTokens({2: [5], 1: [4], 7: [3, 4]}, 6)
    assert allowed(at, [MASK, 3, MASK], 6) == {0: set(range(6)), 2: {5}}
    assert allowed(BannedTokens((0, 5), 6), [MASK, 3], 6) == {0: {1, 2, 3, 4}}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AllowedTokens([], 6), r"allowed_tokens must be a list of token ids from 0 to 5, got \[\]"),
        (lambda: AllowedTokens({1: [6]}, 6), r"allowed_tokens\[1\] must be .* from 0 to 5, got \[6\]"),
        (lambda: AllowedTokens({-1: [2]}, 6), "keys of allowed_tokens must be positions in the row, from 0; got -1"),
        (lambda: BannedTokens([True], 6), "banned_tokens must be .*True"),
        (lambda: BannedWords([], 6), r"bad_words_ids must be a list of lists of token ids, got \[\]"),
        (lambda: BannedWords("ab", 6), "bad_words_ids must be a list of lists"),
        (lambda: BannedWords([[1], []], 6), r"bad_words_ids\[1\] must be a list of token ids"),
        (lambda: BannedWords([3], 6), r"bad_words_ids\[0\] must be a list of token ids from 0 to 5, got 3"),
    ],
)
def test_tokens_and_positions_out_of_range_are_refused(build: Callable[[], Constraint], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
