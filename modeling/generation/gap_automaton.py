"""Deterministic automata over the tokens of a gap, whose text has to match a regular expression."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .byte_automaton import byte_automaton
from .token_texts import TokenTexts

# Texts without white space at the ends, in the sense of `str.strip`.
_STRIPPED = r"(?s:[^\s\x1c-\x1f](?:.*[^\s\x1c-\x1f])?)?"
_MASK = -1


@dataclass(frozen=True, eq=False)
class GapAutomaton:
    """An automaton that reads the tokens of a gap. It starts in state 0; state S stands for no match.

    Attributes:
        table: The next state (S, C) for each state and each class of tokens that are alike in all states.
        final: Whether a gap may end in each state (S,).
        class_of: The class of each token (V,).
    """

    table: npt.NDArray[np.int32]
    final: npt.NDArray[np.bool_]
    class_of: npt.NDArray[np.int64]

    def restricted(self, fill_token: int | None, banned_tokens: Collection[int]) -> GapAutomaton:
        """Return the automaton with a token that fills the gap after the text, and without the banned tokens."""
        states, classes = self.table.shape
        # The new last state is that after the text; the new last classes are those of fill and of banned tokens.
        table = np.full((states + 1, classes + 2), states + 1, dtype=np.int32)
        table[:states, :classes] = np.where(self.table == states, states + 1, self.table)
        class_of = self.class_of.copy()
        class_of[list(banned_tokens)] = classes + 1
        if fill_token is not None:
            table[:states, classes][self.final] = states
            table[states, classes] = states
            class_of[fill_token] = classes
        used, class_of = np.unique(class_of, return_inverse=True)
        return GapAutomaton(table[:, used], np.append(self.final, fill_token is not None), class_of)

    def lengths(self, limit: int) -> list[int]:
        """Return the numbers of tokens from 1 to a limit with which a gap can match."""
        following = self._following()
        reached = np.arange(len(self.final)) == 0
        possible = []
        for length in range(1, limit + 1):
            reached = following[reached].any(0)
            if (reached & self.final).any():
                possible.append(length)
        return possible

    def allowed(self, tokens: Sequence[int | None]) -> dict[int, npt.NDArray[np.bool_]]:
        """Return the allowed tokens (V,) at each mask of a gap: those with which a match stays possible.

        The states that the tokens on the left lead to, and those from which the tokens on the right lead to a match,
        are computed for each place, as DINGO does for the most probable match (Suresh et al., 2025, "DINGO: Constrained
        Inference for Diffusion LLMs").

        Args:
            tokens: The tokens of the gap, with None for masks.

        Raises:
            ValueError: If no match is possible with these tokens.
        """
        following = self._following()
        classes = [_MASK if token is None else int(self.class_of[token]) for token in tokens]
        before = [np.arange(len(self.final)) == 0]
        for number in classes:
            after = np.zeros(len(self.final) + 1, dtype=np.bool_)
            after[self.table[before[-1], number]] = True
            before.append(following[before[-1]].any(0) if number == _MASK else after[:-1])
        allowed = {}
        accepting = np.append(self.final, False)
        if not (before[-1] & self.final).any():
            raise ValueError(f"no match is possible with the written tokens {[t for t in tokens if t is not None]}")
        for place in reversed(range(len(classes))):
            number = classes[place]
            if number == _MASK:
                allowed[place] = accepting[self.table[before[place]]].any(0)[self.class_of]
                accepting = np.append((following & accepting[:-1]).any(1), False)
            else:
                accepting = np.append(accepting[self.table[:, number]], False)
        return allowed

    def _following(self) -> npt.NDArray[np.bool_]:
        """Return whether a token leads from each state to each other (S, S)."""
        states = len(self.final)
        following = np.zeros((states, states + 1), dtype=np.bool_)
        following[np.arange(states)[:, None], self.table] = True
        return following[:, :states]


@lru_cache(maxsize=16)
def gap_automaton(pattern: str, texts: TokenTexts) -> GapAutomaton:
    """Return the automaton of the gaps whose text matches a pattern and has no white space at its ends.

    Args:
        pattern: A regular expression; see `byte_automaton`.
        texts: The texts of the tokens.
    """
    matching, stripped = byte_automaton(pattern), byte_automaton(_STRIPPED)
    everything = np.arange(len(texts.tokens))
    # The state before the first token is a state of its own, since a first token writes another text than the others.
    pairs: dict[tuple[int, int] | None, int] = {None: 0}
    queue: list[tuple[int, int] | None] = [None]
    rows, final = [], []
    while queue:
        pair = queue.pop(0)
        state, edge = pair or (1, 1)
        strings = texts.middle if pair else texts.first
        targets = matching.read(state, strings, everything)
        alive = np.flatnonzero(targets)
        edges = stripped.read(edge, strings, alive)
        alive, edges = alive[edges > 0], edges[edges > 0]
        codes, which = np.unique(targets[alive].astype(np.int64) * len(stripped.final) + edges, return_inverse=True)
        found = [divmod(int(code), len(stripped.final)) for code in codes]
        queue += [new for new in found if new not in pairs]
        pairs |= {new: len(pairs) + i for i, new in enumerate(new for new in found if new not in pairs)}
        row = np.full(texts.vocab_size, -1, dtype=np.int32)
        row[texts.tokens[alive]] = np.array([pairs[new] for new in found], dtype=np.int32)[which]
        rows.append(row)
        final.append(matching.final[state] and stripped.final[edge])
    columns = np.ascontiguousarray(np.stack(rows, axis=1))
    numbers: dict[bytes, int] = {}
    class_of = np.array([numbers.setdefault(column.tobytes(), len(numbers)) for column in columns], dtype=np.int64)
    members = np.unique(class_of, return_index=True)[1]
    table = columns[members].T
    return GapAutomaton(np.where(table < 0, len(rows), table).astype(np.int32), np.array(final), class_of)
