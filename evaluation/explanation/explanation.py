"""The result of an explanation, and how it is shown and saved."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .display import fragment, page, save_picture
from .scored_words import ScoredWords


@dataclass(frozen=True)
class Explanation(ScoredWords):
    """Why a model gives a number for a text: a score for each word. See `ScoredWords` for the attributes.

    A notebook shows it as the texts with coloured words.
    """

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON has."""
        words = [{**asdict(word), "score": score} for word, score in zip(self.words, self.scores, strict=True)]
        faithfulness = None
        if self.faithfulness is not None:
            better = self.faithfulness.better_than_random
            faithfulness = {**asdict(self.faithfulness), "better_than_random": better}
        target = {name: value for name, value in asdict(self.target).items() if name not in ("indices", "places")}
        return {
            "texts": list(self.texts),
            "target": target,
            "value": self.value,
            "method": self.method,
            "removal": self.removal,
            "words": words,
            "faithfulness": faithfulness,
            "warning": self.warning,
            "neighbours": [asdict(neighbour) for neighbour in self.neighbours],
        }

    def to_json(self) -> str:
        """Return everything as a line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    def __str__(self) -> str:
        return self.table(10)

    def table(self, top_words: int | None = None) -> str:
        """Return the words with the largest scores as a table for the console.

        Args:
            top_words: The number of words; by default all.
        """
        lines = [f"{self.target.name}: {self.target.number} {self.value:.3f} ({self.method})"]
        best = self.top(top_words)
        width = max((len(word.text) for word, _ in best), default=0)
        largest = max((abs(score) for score in self.scores), default=0) or 1
        several = len(self.texts) > 1
        for word, score in best:
            bar = ("+" if score > 0 else "-") * math.ceil(10 * abs(score) / largest)
            source = f"  {word.source + 1}" if several else ""
            lines.append(f"{source}  {word.text.ljust(width)}  {score:+.3f}  {bar}".rstrip())
        if self.faithfulness is not None:
            found = self.faithfulness
            lines.append(
                f"comprehensiveness {found.comprehensiveness:.3f} (random {found.random_comprehensiveness:.3f}), "
                f"sufficiency {found.sufficiency:.3f} (random {found.random_sufficiency:.3f})"
            )
        if self.warning:
            lines.append(f"Warning: {self.warning}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return fragment([self])

    def save(self, file: str | Path) -> None:
        """Save as a page (.html), a picture (.png) or data (.json), by the ending of the file.

        Args:
            file: The file to write.

        Raises:
            ValueError: If it has another ending.
        """
        save_explanations([self], file)


def save_explanations(explanations: Sequence[Explanation], file: str | Path) -> None:
    """Save explanations as a page (.html), a picture (.png) or data (.json or .jsonl), by the ending of the file.

    Args:
        explanations: The explanations.
        file: The file to write.

    Raises:
        ValueError: If it has another ending.
        MissingLibraryError: If a picture is asked for, and matplotlib is missing.
    """
    path = Path(file)
    if path.suffix == ".html":
        path.write_text(page(explanations), encoding="utf-8")
    elif path.suffix == ".png":
        save_picture(explanations, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(f"{each.to_json()}\n" for each in explanations), encoding="utf-8")
    elif path.suffix == ".json":
        whole = [each.to_dict() for each in explanations]
        path.write_text(json.dumps(whole, ensure_ascii=False, allow_nan=False, indent=2) + "\n", encoding="utf-8")
    else:
        raise ValueError(f"file must end in .html, .png, .json or .jsonl, got {str(file)!r}.")
