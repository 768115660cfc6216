"""Deterministic automata over the bytes of a text, compiled from regular expressions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .token_texts import ByteStrings

_END_OF_TEXT = 0


@dataclass(frozen=True, eq=False)
class ByteAutomaton:
    """An automaton that reads UTF-8. It starts in state 1, and nothing leaves state 0, from which no text matches.

    Attributes:
        table: The next state (S, 256) for each state and byte.
        final: Whether a text may end in each state (S,).
    """

    table: npt.NDArray[np.int32]
    final: npt.NDArray[np.bool_]

    def read(self, state: int, strings: ByteStrings) -> npt.NDArray[np.int32]:
        """Return the state after each string that is read from the same state."""
        after = np.full(strings.count, state, dtype=np.int32)
        states = np.array([state], dtype=np.int32)
        table = self.table.reshape(-1)
        for parents, last, ending, node in strings.levels:
            states = table[states[parents] * 256 + last]
            after[ending] = states[node]
        return after


@lru_cache(maxsize=16)
def byte_automaton(pattern: str) -> ByteAutomaton:
    r"""Compile a regular expression that has to match a text in full.

    Args:
        pattern: An expression in the syntax of Rust's regex crate: that of `re`, without look-around, back-references
            and `\b`. `^` and `$` are refused, since a match is always of the full text.

    Raises:
        ImportError: If outlines-core is not installed.
        ValueError: If the pattern does not compile, or no text matches it.
    """
    try:
        from outlines_core import Index, Vocabulary
    except ImportError as error:
        raise ImportError(
            "A regular expression for a gap needs outlines-core: `pip install outlines-core`, or the extra "
            "`sequence-encoder[constraints]`."
        ) from error
    # Outlines prefers the first alternative, so that `a|ab` does not match "ab". With a byte that ends the text, all
    # alternatives are followed up to the end. No text contains this byte.
    vocabulary = Vocabulary(256, {bytes([value]): [value] for value in range(256)})
    try:
        index = Index(f"(?:{pattern})\\x00", vocabulary)
    except ValueError as error:
        raise ValueError(
            f"The pattern {pattern!r} cannot be compiled: {error}. Use the syntax of `re` without look-around, "
            r"back-references, \b, ^ and $; a match is always of the full text."
        ) from error
    transitions, ends = index.get_transitions(), set(index.get_final_states())
    number_of = {index.get_initial_state(): 1}
    for state in transitions:
        number_of.setdefault(state, len(number_of) + 1)
    table = np.zeros((len(number_of) + 1, 256), dtype=np.int32)
    final = np.zeros(len(table), dtype=np.bool_)
    for state, following in transitions.items():
        for value, target in following.items():
            if value == _END_OF_TEXT:
                final[number_of[state]] = target in ends
            elif value < 256:
                table[number_of[state], value] = number_of[target]
    return ByteAutomaton(table, final)
