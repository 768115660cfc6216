"""The options of `sequence-encoder index` and `sequence-encoder search`.

Nothing here imports torch, so that the command line reports mistakes at once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ..command_line import UsageError
from ..command_line.extras import require
from ..command_line.options import DEVICE, DTYPE, OVERWRITE, check_least, option
from ..command_line.parser import Command
from ..data.corpus import TextArguments
from ..inference.corpora.arguments import EmbeddingArguments, ModelArguments, RowArguments, VectorArguments

# Those with a stemmer and a list of stop words in LanceDB.
_LANGUAGES = (
    *("Arabic", "Danish", "Dutch", "English", "Finnish", "French", "German", "Greek", "Hungarian", "Italian"),
    *("Norwegian", "Portuguese", "Romanian", "Russian", "Spanish", "Swedish", "Tamil", "Turkish"),
)
ANY_LANGUAGE = "any"
MODES = ("hybrid", "vector", "text")


@dataclass
class IndexArguments(VectorArguments):
    """How texts become vectors, and how their words are indexed."""

    query_prompt: str | None = option(
        "Text to prepend to each query, such as 'query: ' (default: the model's prompt named query).", None
    )
    language: str = option(
        "Language of the texts, which decides how a search stems words and which stop words it skips; any does "
        "neither.",
        "English",
        choices=[*_LANGUAGES, ANY_LANGUAGE],
        metavar="LANGUAGE",
    )
    dtype: str = option(default="auto", **DTYPE)

    def for_vectors(self) -> EmbeddingArguments:
        """Return the options of `embed`."""
        options = {name: value for name, value in asdict(self).items() if name not in ("language", "query_prompt")}
        if self.prompt is None and self.prompt_name is None:
            options["prompt_name"] = "document"
        return EmbeddingArguments(**options, format="lance")


@dataclass
class SiteArguments:
    """Whether to write a search page as well.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "search page"

    static_site: str | None = option(
        "Folder to write a search page to, which any web server sends and a browser searches in.",
        None,
        metavar="FOLDER",
    )
    node_modules: str | None = option(
        "Folder of npm with @huggingface/transformers, whose libraries the page of a model with layers needs.",
        None,
        metavar="FOLDER",
    )
    overwrite: bool = option(f"{OVERWRITE['help']} It applies to --static_site alone: an index is continued.", False)

    def __post_init__(self) -> None:
        for name in ("node_modules", "overwrite"):
            if self.static_site is None and (value := getattr(self, name)):
                raise UsageError(f"--{name} needs --static_site, got --{name} {value}.")


@dataclass
class SearchArguments:
    """What to search for, where, and how.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "search"

    query: str = option("What to search for.")
    index: str = option("Folder of an index from `sequence-encoder index`.", metavar="FOLDER")
    limit: int = option("Number of texts to print.", 10)
    mode: str = option(
        "How to search: vector by meaning, text by words, hybrid by both.", "hybrid", choices=list(MODES)
    )
    where: str | None = option(
        'SQL condition on the columns of the index, such as "year > 2020".', None, metavar="CONDITION"
    )
    reranker: str | None = option(
        "Folder or Hub id of a cross-encoder or a larger sentence encoder that reranks the best texts.",
        None,
        metavar="MODEL",
    )
    candidates: int = option("Number of texts to rerank.", 50)
    encoder: str | None = option(
        "Folder or Hub id of the encoder of the index, if it has moved since the index was made.", None, metavar="MODEL"
    )
    device: str | None = option(default=None, **DEVICE)
    json: bool = option("Print JSON, for scripts: an object for each text.", False)

    def __post_init__(self) -> None:
        check_least(self, limit=1, candidates=1)
        if self.reranker is not None:
            check_candidates(self.limit, self.candidates)


INDEX = Command(
    "index",
    "Build a LanceDB index of the texts of a corpus, to search them by meaning and by words.\n"
    "If the command is interrupted, run it again to continue.",
    'minilm --corpus "texts/*.parquet" --text_column text --output_dir texts-index',
    (ModelArguments, TextArguments, IndexArguments, RowArguments, SiteArguments),
    check=lambda *parsed: check_libraries("index"),
)
SEARCH = Command(
    "search",
    "Print the texts of an index that best match a query.",
    '"how do I read a file?" --index texts-index',
    (SearchArguments,),
    positional=("query",),
    check=lambda options: check_libraries("search"),
    needs_models=lambda options: options.mode != "text" or options.reranker is not None,
)


def check_candidates(limit: int, candidates: int) -> None:
    """Check that a reranker reads all texts that a search returns.

    Raises:
        UsageError: If it does not.
    """
    if limit > candidates:
        raise UsageError(
            f"limit must be at most {candidates}, the number of candidates for the reranker, got {limit}; pass more "
            "candidates."
        )


def check_libraries(purpose: str) -> None:
    """Check that all optional libraries that an index needs are installed.

    Args:
        purpose: What needs them.

    Raises:
        MissingLibraryError: If one of them is missing.
    """
    require(purpose, "datasets", "filelock", "lancedb", "pyarrow", extra="search")
