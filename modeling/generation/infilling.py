"""Gives the masked language model the method `infill`, which fills the gaps of texts."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from .constraints import BannedTokens, BannedWords, Constraint
from .draft import Draft
from .gap_pattern import GapPattern, possible_gap_lengths
from .gap_texts import gap_texts
from .templates import Gap, Template, joins_words
from .token_texts import token_texts
from .unmasking_options import UnmaskingOptions


@dataclass(frozen=True)
class Infilling:
    """A text with filled gaps.

    Attributes:
        text: The text. Only its gaps differ from the given one.
        fills: The text of each gap.
        score: From 0 to 1, the geometric mean of the probabilities of the written tokens when they were written.
    """

    text: str
    fills: list[str]
    score: float


# The most tokens of a gap without a limit, if the model was not trained with another number.
_LONGEST_GAP = 16
# Options of `generate` that `infill` lacks.
_OF_CONTINUATION = ("max_new_tokens", "min_new_tokens", "block_length", "eos_token_id")


@dataclass
class _Prepared:
    """A text to write: its template, its tokens, and the places [start, stop) of its gaps."""

    template: Template
    ids: torch.Tensor
    spans: list[tuple[int, int]]


class InfillingMixin:
    """Mixin that fills the gaps of texts."""

    @torch.no_grad()
    def infill(
        self,
        texts: str | Iterable[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        gap_regex: str | Sequence[str | None] | None = None,
        bad_words: Sequence[str] = (),
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        streamer: BaseStreamer | None = None,
        **options: Any,
    ) -> Any:
        """Fill the gaps of texts.

        A mask token is a gap of one token, `[MASK]{5}` one of five tokens, and `[MASK]{1,8}` one of up to eight tokens,
        whose length the model chooses: after `adapt --task infilling`, it leaves masks empty; otherwise each length is
        tried, and the one with the highest score is taken, for several gaps one after another. A gap after a space
        starts with a new word; after a letter, it continues the word or starts with a space. Before letters that the
        tokenizer reads as a new word, it ends with a space. `[MASK]{1,}` has as many tokens as the longest gaps of the
        training, or 16.

        Args:
            texts: A text or several texts with gaps.
            tokenizer: The tokenizer of the model.
            gap_regex: A regular expression that the text of each gap must match, or one or None for each gap of every
                text. Needs the extra `constraints`.
            bad_words: Words that must not be written.
            generation_config: See `generate`.
            logits_processor: See `generate`.
            streamer: A streamer for a single text, see `generate`.
            **options: Options of `generate`, except `max_new_tokens`, `min_new_tokens`, `block_length` and
                `eos_token_id`.

        Returns:
            An `Infilling` for a text, and a list of them for several texts; `num_return_sequences` for each text.

        Raises:
            ValueError: If an argument is not allowed, a text has no gap, or it is too long for the model.
        """
        given = [texts] if isinstance(texts, str) else list(texts) if isinstance(texts, Iterable) else [texts]
        if wrong := [text for text in given if not isinstance(text, str)]:
            raise ValueError(f"texts must be a text or several texts, got {wrong[0]!r}.")
        if isinstance(bad_words, str) or any(not isinstance(word, str) for word in bad_words):
            raise ValueError(f"bad_words must be a list of words, got {bad_words!r}.")
        if tokenizer.mask_token is None:
            raise ValueError("tokenizer has no mask token, which marks gaps.")
        defaults = cast(Any, self).generation_config
        # Configurations of converted checkpoints do not know it.
        options = {**options, "mask_token_id": tokenizer.mask_token_id}
        chosen, unknown = UnmaskingOptions.read(options, generation_config or defaults, defaults, _OF_CONTINUATION)
        if unknown:
            raise ValueError(f"infill has no argument {', '.join(unknown)}.")
        limit = cast(Any, self).config.max_position_embeddings
        longest = min(getattr(defaults, "max_gap_tokens", None) or _LONGEST_GAP, limit)
        templates = [Template.parse(text, tokenizer.mask_token, longest, limit) for text in given]
        configured = (getattr(source, "bad_words_ids", None) for source in (generation_config, defaults))
        banned: list[list[int]] = next(filter(None, configured), [])
        filler = _Filler(self, tokenizer, chosen, gap_regex, bad_words, banned, logits_processor)
        found = filler.fill(templates, streamer)
        return found[0] if isinstance(texts, str) and len(found) == 1 else found


class _Filler:
    """Fills templates with a model; see `InfillingMixin.infill` for the arguments."""

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        options: UnmaskingOptions,
        gap_regex: str | Sequence[str | None] | None,
        bad_words: Sequence[str],
        bad_words_ids: Sequence[Sequence[int]],
        processors: LogitsProcessorList | None,
    ) -> None:
        self.model, self.tokenizer, self.options, self.processors = model, tokenizer, options, processors
        self.gap_regex = gap_regex
        texts = token_texts(tokenizer)
        writing = texts.split or texts.whole
        # What the model writes at masks that it leaves empty, if it has learned to.
        self.empty = options.fill_token_id
        size = model.config.vocab_size
        if texts.vocab_size > size:
            raise ValueError(f"tokenizer has {texts.vocab_size} tokens, but the model only {size} (vocab_size).")
        banned = sorted(set(range(size)) - set(writing.tokens.tolist()) - {self.empty})
        self.always: list[Constraint] = [BannedTokens(banned, size)] if banned else []
        if words := [*bad_words_ids, *(ids for word in bad_words for ids in self._spellings(word))]:
            self.always.append(BannedWords(words, size, self.empty))
        self.gap_texts = gap_texts(writing)

    def _spellings(self, word: str) -> list[list[int]]:
        """Return the tokens of a word at the start of a text and after a space."""
        both: Any = self.tokenizer([word, f" {word}"], add_special_tokens=False)["input_ids"]
        return [ids for ids in both if ids]

    def fill(self, templates: list[Template], streamer: BaseStreamer | None) -> list[Infilling]:
        """Fill templates."""
        lengths = [[gap.most for gap in template.gaps] for template in templates]
        if self.empty is None:
            lengths = self._choose_lengths(templates)
        prepared = [self._prepare(*pair) for pair in zip(templates, lengths, strict=True)]
        drafts = self._write(prepared, self.options, streamer)
        copies = self.options.num_return_sequences
        return [self._result(prepared[index // copies], draft) for index, draft in enumerate(drafts)]

    def _choose_lengths(self, templates: list[Template]) -> list[list[int]]:
        """Choose the length of each gap, while later gaps have their smallest length."""
        lengths = [
            [self._possible(gap, number, len(template.gaps))[0] for number, gap in enumerate(template.gaps)]
            for template in templates
        ]
        options = replace(self.options, num_return_sequences=1)
        for number in range(max((len(template.gaps) for template in templates), default=0)):
            tried: list[tuple[int, list[int]]] = []
            for row, template in enumerate(templates):
                if number < len(template.gaps) and template.gaps[number].least < template.gaps[number].most:
                    for length in self._possible(template.gaps[number], number, len(template.gaps)):
                        tried.append((row, [*lengths[row][:number], length, *lengths[row][number + 1 :]]))
            drafts = self._write([self._prepare(templates[row], candidate) for row, candidate in tried], options)
            best: dict[int, float] = {}
            for (row, candidate), draft in zip(tried, drafts, strict=True):
                if (score := _score(draft)) > best.get(row, -1.0):
                    best[row], lengths[row] = score, candidate
        return lengths

    def _pattern(self, number: int, count: int) -> str | None:
        """Return the pattern of one of so many gaps."""
        if self.gap_regex is None or isinstance(self.gap_regex, str):
            return self.gap_regex
        if len(self.gap_regex) != count:
            raise ValueError(f"gap_regex must have one pattern for each of {count} gaps, got {len(self.gap_regex)}.")
        return self.gap_regex[number]

    def _possible(self, gap: Gap, number: int, count: int) -> list[int]:
        """Return the lengths that a gap, one of so many of its text, can have."""
        pattern = self._pattern(number, count)
        lengths = list(range(gap.least, gap.most + 1))
        if pattern is None or gap.least == gap.most:
            return lengths
        possible = possible_gap_lengths(pattern, self.tokenizer, gap.most)
        if not (both := [length for length in lengths if length in possible]):
            raise ValueError(f"No text of {gap.least} to {gap.most} tokens matches the pattern {pattern!r}.")
        return both

    def _prepare(self, template: Template, lengths: Sequence[int]) -> _Prepared:
        text = template.with_lengths(lengths, cast(str, self.tokenizer.mask_token))
        encoded: Any = self.tokenizer(text, truncation=False, verbose=False)
        ids = torch.tensor(encoded["input_ids"])
        places = (ids == self.tokenizer.mask_token_id).nonzero()[:, 0].tolist()
        if len(places) != sum(lengths):
            raise ValueError(f"The tokenizer reads {len(places)} masks in {text!r}, which has {sum(lengths)}.")
        ends = list(itertools.accumulate(lengths))
        spans = [(places[end - length], places[end - 1] + 1) for length, end in zip(lengths, ends, strict=True)]
        return _Prepared(template, ids, spans)

    def _write(
        self, prepared: list[_Prepared], options: UnmaskingOptions, streamer: BaseStreamer | None = None
    ) -> list[Draft]:
        """Write texts with their constraints."""
        constraints = [self._constraints(item) for item in prepared]
        empty = [self._empty_places(item) for item in prepared]
        drafts: list[Draft] = self.model.write_drafts(
            [item.ids for item in prepared], options, constraints, self.processors, streamer, empty
        )
        return drafts

    def _constraints(self, item: _Prepared) -> list[Constraint]:
        found = list(self.always)
        for number, (gap, (start, stop)) in enumerate(zip(item.template.gaps, item.spans, strict=True)):
            pattern = self._pattern(number, len(item.spans))
            if pattern is not None:
                empty = self.empty if gap.least < gap.most else None
                found.append(GapPattern(pattern, self.tokenizer, start, stop, empty, least=gap.least))
                continue
            found += self.gap_texts.whole_text(start, stop - 1 if self.empty is None else start + gap.least - 1, stop)
            if gap.first or gap.after_space:
                found.append(self.gap_texts.word_start(start, gap.first))
        return found

    def _empty_places(self, item: _Prepared) -> list[int]:
        """Return the places that may stay empty: those of a gap of variable length after the smallest length."""
        if self.empty is None:
            return []
        gaps = zip(item.template.gaps, item.spans, strict=True)
        return [place for gap, (start, stop) in gaps for place in range(start + gap.least, stop)]

    def _result(self, item: _Prepared, draft: Draft) -> Infilling:
        text, *pieces = item.template.pieces
        fills = []
        for number, ((start, stop), piece) in enumerate(zip(item.spans, pieces, strict=True)):
            written = self.gap_texts.text_of([token for token in draft.ids[start:stop].tolist() if token != self.empty])
            fill = written.removeprefix(" ")
            # A new word after another one; a pattern describes the text of its gap without this space.
            if joins_words(text, fill) and not self._pattern(number, len(pieces)):
                fill = written
            # WordPiece and SentencePiece read letters after a mask as a new word.
            following = draft.ids[stop:][:1].tolist()
            if joins_words(fill, piece) and not self._pattern(number, len(pieces)):
                fill += " " * any(map(self.gap_texts.starts_word, following))
            fills.append(fill)
            text += fill + piece
        return Infilling(text, fills, _score(draft))


def _score(draft: Draft) -> float:
    """Return the geometric mean of the probabilities of the written tokens."""
    return float(draft.confidence[draft.writable].log().mean().exp())
