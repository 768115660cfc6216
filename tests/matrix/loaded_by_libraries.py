"""Loads models as transformers and sentence-transformers do. As a script, it does so without the package.

The argument of the script is the name and the arguments of a function in JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

WITHOUT_PACKAGE = __name__ == "__main__"
if WITHOUT_PACKAGE:
    sys.modules["sequence_encoder"] = None  # type: ignore[assignment]
TRUST: dict[str, Any] = {"trust_remote_code": True} if WITHOUT_PACKAGE else {}


def answers(task: str, folder: str, inputs: Any, arguments: dict[str, Any]) -> Any:
    """Return the answer of a pipeline."""
    from transformers import pipeline

    options = TRUST if WITHOUT_PACKAGE or task != "question-answering" else {"trust_remote_code": True}
    run: Any = pipeline(task, model=folder, **options)  # type: ignore[call-overload]
    return run(**inputs) if task == "question-answering" else run(inputs, **arguments)


def vectors(folder: str, texts: list[str]) -> list[list[float]]:
    """Return the vectors of a `SentenceTransformer`."""
    from sentence_transformers import SentenceTransformer

    found: Any = SentenceTransformer(folder, device="cpu", **TRUST).encode(texts)
    return found.tolist()  # type: ignore[no-any-return]


def scores(folder: str, pairs: list[list[str]]) -> list[Any]:
    """Return the scores of a `CrossEncoder`."""
    from sentence_transformers import CrossEncoder

    found: Any = CrossEncoder(folder, device="cpu", **TRUST).predict([*map(tuple, pairs)])
    return found.tolist()  # type: ignore[no-any-return]


if __name__ == "__main__":
    name, *arguments = json.loads(sys.argv[1])
    # Scores of entities are numbers of NumPy.
    print(json.dumps(globals()[name](*arguments), default=float))
