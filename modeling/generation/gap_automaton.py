"""Deterministic automata over the tokens of a gap, whose text has to match a regular expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from .byte_automaton import byte_automaton
from .token_texts import TokenizerTexts, TokenTexts

# Texts without white space at the ends, in the sense of `str.strip`.
_STRIPPED_TEXT = r"(?s:[^\s\x1c-\x1f](?:.*[^\s\x1c-\x1f])?)?"
_UNWRITTEN = -1
# More states take too much time at each step of the sampler.
_MAX_GAP_STATES = 2000
_MAX_SPLIT_STATES = 500


@dataclass(frozen=True, eq=False)
class GapAutomaton:
    """An automaton that reads the tokens of a gap. It starts in state 0; state S stands for no match.

    Attributes:
        table: The next state (S, C) for each state and each class of tokens that are alike in all states.
        final: Whether a gap may end in each state (S,).
        class_of: The class of each token (V,).
        fill: The class of the token that fills the gap after the text, if there is one.
    """

    table: npt.NDArray[np.int32]
    final: npt.NDArray[np.bool_]
    class_of: npt.NDArray[np.int64]
    fill: int | None = None

    def lengths(self, limit: int, least: int = 0) -> list[int]:
        """Return the numbers of tokens from 1 to a limit with which a gap can match.

        Args:
            limit: The largest number.
            least: The number of tokens at the start that do not fill.
        """
        reached = np.arange(len(self.final)) == 0
        possible = []
        for length in range(1, limit + 1):
            _, following = self._steps[length > least]
            reached = following[reached].any(0)
            if (reached & self.final).any():
                possible.append(length)
        return possible

    def allowed(self, tokens: Sequence[int | None], least: int = 0) -> dict[int, npt.NDArray[np.bool_]]:
        """Return the allowed tokens (V,) at each mask of a gap: those with which a match stays possible.

        The states that the tokens on the left lead to, and those from which the tokens on the right lead to a match,
        are computed for each place, as DINGO does for the most probable match (Suresh et al., 2025, "DINGO: Constrained
        Inference for Diffusion LLMs").

        Args:
            tokens: The tokens of the gap, with None for masks.
            least: The number of tokens at the start that do not fill.

        Raises:
            ValueError: If no match is possible with these tokens.
        """
        classes = [_UNWRITTEN if token is None else int(self.class_of[token]) for token in tokens]
        before = [np.arange(len(self.final)) == 0]
        for place, number in enumerate(classes):
            table, following = self._steps[place >= least]
            after = np.zeros(len(self.final) + 1, dtype=np.bool_)
            after[table[before[-1], number]] = True
            before.append(following[before[-1]].any(0) if number == _UNWRITTEN else after[:-1])
        allowed = {}
        accepting = np.append(self.final, False)
        if not (before[-1] & self.final).any():
            raise ValueError(f"no match is possible with the written tokens {[t for t in tokens if t is not None]}")
        for place in reversed(range(len(classes))):
            number, (table, following) = classes[place], self._steps[place >= least]
            if number == _UNWRITTEN:
                allowed[place] = accepting[table[before[place]]].any(0)[self.class_of]
                accepting = np.append((following & accepting[:-1]).any(1), False)
            else:
                accepting = np.append(accepting[table[:, number]], False)
        return allowed

    @cached_property
    def _steps(self) -> tuple[tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]], ...]:
        """The table in which the token that fills the gap leads nowhere, and `table`, each with `_following`.

        The sampler needs them at each of its steps.
        """
        anywhere = (self.table, _following(self.table))
        if self.fill is None:
            return anywhere, anywhere
        table = self.table.copy()
        table[:, self.fill] = len(table)
        return (table, _following(table)), anywhere


def _following(table: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Return whether a token leads from each state to each other (S, S), by the table (S, C)."""
    states = len(table)
    following = np.zeros((states, states + 1), dtype=np.bool_)
    following[np.arange(states)[:, None], table] = True
    return following[:, :states]


def filled_automaton(automaton: GapAutomaton, fill_token: int) -> GapAutomaton:
    """Return the automaton with a token that fills the gap after the text."""
    states, classes = automaton.table.shape
    # The new last state is that after the text, and the new last class that of the token.
    table = np.full((states + 1, classes + 1), states + 1, dtype=np.int32)
    table[:states, :classes] = np.where(automaton.table == states, states + 1, automaton.table)
    table[:states, classes][automaton.final] = states
    table[states, classes] = states
    class_of = automaton.class_of.copy()
    class_of[fill_token] = classes
    used, class_of = np.unique(class_of, return_inverse=True)
    return GapAutomaton(table[:, used], np.append(automaton.final, True), class_of, int(class_of[fill_token]))


@lru_cache(maxsize=16)
def gap_automaton(pattern: str, texts: TokenizerTexts) -> GapAutomaton:
    r"""Return the automaton of the gaps whose text matches a pattern and has no white space at its ends.

    Characters that are split over several tokens multiply the states of a pattern such as `\w{1,40}`. If there would be
    too many, only tokens of whole characters are allowed.

    Args:
        pattern: A regular expression; see `byte_automaton`.
        texts: The texts of the tokens.

    Raises:
        ValueError: If the pattern needs too many states.
    """
    if texts.split is not None and (automaton := _built_automaton(pattern, texts.split, _MAX_SPLIT_STATES)):
        return automaton
    if automaton := _built_automaton(pattern, texts.whole, _MAX_GAP_STATES):
        return automaton
    raise ValueError(
        f"The pattern {pattern!r} needs more than {_MAX_GAP_STATES} states; use fewer or smaller repetitions."
    )


def _built_automaton(pattern: str, texts: TokenTexts, limit: int) -> GapAutomaton | None:
    """Build the automaton, or return None if it has too many states."""
    matching, stripped = byte_automaton(pattern), byte_automaton(_STRIPPED_TEXT)
    # Each state is a pair of states, one of each automaton. No token leads back to the initial state: the text of a
    # token differs there, where it is the first.
    pairs = [(1, 1)]
    number_of = np.zeros((len(matching.final), len(stripped.final)), dtype=np.int32)
    # WordPiece marks tokens that continue a word, but a gap never contains the mark.
    starting = np.array(
        [
            one == other or other.startswith(b" ")
            for one, other in zip(texts.first.strings, texts.middle.strings, strict=True)
        ]
    )
    # The classes of tokens are divided by the state that each token leads to.
    class_of = np.zeros(len(texts.tokens), dtype=np.int64)
    steps: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]] = []
    while len(steps) < len(pairs):
        if len(pairs) > limit:
            return None
        state, edge = pairs[len(steps)]
        strings = texts.middle if steps else texts.first
        states, edges = matching.read(state, strings), stripped.read(edge, strings)
        can_read = (states > 0) & (edges > 0)
        if not steps:
            can_read &= starting
        tokens = np.flatnonzero(can_read)
        states, edges = states[tokens], edges[tokens]
        new = number_of[states, edges] == 0
        for pair in sorted(set(zip(states[new].tolist(), edges[new].tolist(), strict=True))):
            number_of[pair] = len(pairs)
            pairs.append(pair)
        targets = number_of[states, edges]
        steps.append((tokens, targets))
        parts = class_of[tokens] * len(pairs) + targets
        class_of[tokens] = np.unique(parts, return_inverse=True)[1] + class_of.max() + 1
    members, class_of = np.unique(class_of, return_inverse=True)
    table = np.full((len(pairs), len(members) + 1), len(pairs), dtype=np.int32)
    for row, (tokens, targets) in zip(table, steps, strict=True):
        row[class_of[tokens]] = targets
    classes = np.full(texts.vocab_size, len(members), dtype=np.int64)
    classes[texts.tokens] = class_of
    final = np.array([matching.final[state] and stripped.final[edge] for state, edge in pairs])
    return GapAutomaton(table, final, classes)
