"""The table of encoders that give a text something other than one dense vector.

`embed`, `index` and `serve` look here. Another kind of encoder needs a class and a line in the table.
"""

from __future__ import annotations

from pathlib import Path

from .recipes import read_settings
from .sparse_vectors import SparseVectors
from .text_vectors import TextVectors
from .token_vectors import TokenVectors

# By the type that sentence-transformers states in the settings of a folder.
_ENCODERS: dict[str, type[TextVectors]] = {"SparseEncoder": SparseVectors, "MultiVectorEncoder": TokenVectors}


def text_vectors_of(folder: Path) -> type[TextVectors] | None:
    """Return the class for the vectors that a folder yields, or None if it yields one dense vector for a text.

    Args:
        folder: The folder of a model, with the files of sentence-transformers if it has them.

    Raises:
        ValueError: If the folder has modules that are not supported.
    """
    try:
        kind = _ENCODERS.get(str(read_settings(folder).get("model_type")))
        if kind is not None:
            kind.read(folder)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"The modules in {folder} cannot be used: {error}.") from error
    return kind
