"""The models that a search page can compute the vectors of queries with, and their files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ...command_line import UsageError
from ...inference.runtimes.exporting import export
from ...inference.runtimes.requirements import DTYPES, check_format
from ...inference.runtimes.transformers_js import is_in_eight_bits
from ...modeling.text_encoding.embedding_recipe import Normalize
from ...modeling.text_encoding.prepared_encoding import PreparedEncoding
from ...saving.model_files import GRAPHS
from .site_folder import SiteFiles, in_eight_bits
from .wordpiece import differences, wordpiece_fields

_DTYPE = "q8"
# The number of texts to calibrate eight bits on.
_CALIBRATED = 300
# The files of npm packages that a page imports, by the names that it imports them by.
_TOKENIZERS = {"tokenizers.mjs": "@huggingface/tokenizers/dist/tokenizers.min.mjs"}
_RUNTIME = {**_TOKENIZERS, "onnxruntime.mjs": "onnxruntime-web/dist/ort.wasm.bundle.min.mjs"}
# What the last of them runs.
_WASM = {"runtime": "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm"}


class PageModel(Protocol):
    """A model for the vectors of queries."""

    def write(self, files: SiteFiles, texts: Sequence[str]) -> dict[str, Any]:
        """Write the files of the model, and return what the page has to know.

        Args:
            files: The files of the page.
            texts: Its texts.
        """


class StaticPageModel:
    """A table of token vectors, which the page adds up, with a library for tokenizers other than BERT's alone.

    Args:
        prepared: How a static encoder reads queries.
        name: The name of the model, for errors.
        packages: The folder `node_modules` of npm with that library.

    Raises:
        UsageError: If the vector of a text is not the mean of rows of the table, or the library is missing.
    """

    def __init__(self, prepared: PreparedEncoding, name: str, packages: str | None) -> None:
        recipe = prepared.recipe
        if recipe.pooling != ("mean",) or not all(isinstance(step, Normalize) for step in recipe.after):
            raise UsageError(f"{name}: for a search page, the vectors of a static model must be means of its table.")
        self._prepared = prepared
        backend: Any = prepared.tokenizer
        self._tokenizer = json.loads(backend.backend_tokenizer.to_str())
        self._libraries: dict[str, Path] = {}
        if unlike := differences(self._tokenizer):
            why = f"its tokenizer has {' and '.join(unlike)}, unlike that of BERT"
            self._libraries = find_libraries(packages, name, why, _TOKENIZERS)

    def write(self, files: SiteFiles, texts: Sequence[str]) -> dict[str, Any]:
        """See `PageModel.write`."""
        table = self._table()
        for name, source in self._libraries.items():
            files.copy_script(source, name)
        fields = self._tokenizer if self._libraries else wordpiece_fields(self._tokenizer)
        return {
            "kind": "static",
            "table": {"file": files.add("table", in_eight_bits([table])), "rows": len(table)},
            "tokenizer": files.add_json("tokenizer", fields),
            "is_wordpiece": not self._libraries,
            "prompt": self._prepared.prompt,
            "skipped": self._prepared.skipped,
            "max_length": self._prepared.max_length,
        }

    @torch.no_grad()
    def _table(self) -> np.ndarray[Any, Any]:
        """Return the rows of the tokens, of as many channels as vectors keep."""
        encoder = self._prepared.encoder
        table = encoder.embed_tokens(torch.arange(encoder.config.vocab_size)).float()
        # The direction of a sum does not depend on how many tokens are 0.
        table[list(encoder.config.unweighted_token_ids or [])] = 0
        return table[:, : self._prepared.kept_channels].numpy()


class GraphPageModel:
    """A model with layers in eight bits, which ONNX Runtime computes in the page.

    Args:
        prepared: How an encoder reads queries.
        name: The name of the model, for errors.
        packages: The folder `node_modules` of npm with the libraries of the page.

    Raises:
        UsageError: If a package is missing, or the page cannot pool as the model.
        MissingLibraryError: If a library for exports is missing or too old.
    """

    def __init__(self, prepared: PreparedEncoding, name: str, packages: str | None) -> None:
        self._libraries = find_libraries(packages, name, "it has layers", {**_RUNTIME, **_WASM})
        check_format("transformers.js")
        if prepared.skipped:
            raise UsageError(f"{name} does not pool the tokens of prompts, which a search page cannot leave out.")
        self._prepared = prepared
        self._is_quantized = is_in_eight_bits(prepared.encoder)

    def write(self, files: SiteFiles, texts: Sequence[str]) -> dict[str, Any]:
        """See `PageModel.write`."""
        # Fewer texts say less about the ranges of numbers than those that are used by default.
        known = [] if self._is_quantized else [text for text in texts if text]
        sample = known[:: len(known) // _CALIBRATED][:_CALIBRATED] if len(known) >= _CALIBRATED else None
        encoder = self._prepared.encoder
        encoder.embedding_recipe = self._prepared.recipe
        for name in _RUNTIME:
            files.copy_script(self._libraries[name], name)
        files.runs_wasm = True
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary, "graph")
            export(encoder, self._prepared.tokenizer, folder, "transformers.js", dtypes=[_DTYPE], texts=sample)
            settings = (folder / name for name in ("tokenizer.json", "tokenizer_config.json"))
            tokenizer = [json.loads(file.read_text(encoding="utf-8")) for file in settings]
            graph = (folder / GRAPHS / f"model{DTYPES[_DTYPE].suffix}.onnx").read_bytes()
        return {
            "kind": "graph",
            "graph": files.add_packed("model", graph),
            "runtime": files.add_packed("runtime", self._libraries["runtime"].read_bytes()),
            "tokenizer": files.add_json("tokenizer", tokenizer),
            "prompt": self._prepared.prompt,
            "max_length": self._prepared.max_length,
            "channels": self._prepared.kept_channels,
        }


def find_libraries(packages: str | None, name: str, why: str, wanted: Mapping[str, str]) -> dict[str, Path]:
    """Return the files of npm packages that a page needs, by their names in it.

    Args:
        packages: The folder `node_modules`.
        name: The name of the model, for errors.
        why: Why it needs them, for errors.
        wanted: The files in the folder, by their names in the page.

    Raises:
        UsageError: If they are missing.
    """
    if packages is None:
        raise UsageError(
            f"a search page with {name} needs libraries from npm, because {why}; run `npm install "
            "@huggingface/transformers` and pass --node_modules node_modules."
        )
    files = {each: Path(packages, file) for each, file in wanted.items()}
    if missing := [file for file in files.values() if not file.is_file()]:
        raise UsageError(
            f"--node_modules {packages} must have {missing[0]}; run `npm install @huggingface/transformers` beside it."
        )
    return files
