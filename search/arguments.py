"""The options of `sequence-encoder index` and `sequence-encoder search`.

Nothing here imports torch, so that the command line reports mistakes at once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from ..bulk.arguments import EmbeddingArguments, ModelArguments, RowArguments, VectorArguments
from ..command_line import UsageError
from ..command_line.extras import require
from ..command_line.options import DEVICE, check_least
from ..command_line.parser import CommandLine
from ..data.corpus import TextArguments

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

    query_prompt: str | None = field(
        default=None,
        metadata={
            "help": "Text to put before each query, such as 'query: '; the default is the model's prompt named query."
        },
    )
    language: str = field(
        default="English",
        metadata={
            "help": "Language of the texts, for stems and stop words in the search for words; any for others, which "
            "searches for words as they are.",
            "choices": [*_LANGUAGES, ANY_LANGUAGE],
        },
    )
    precision: str = field(
        default="auto",
        metadata={
            "help": "dtype to compute in; auto chooses the fastest for the device.",
            "choices": ["auto", "float32", "bfloat16"],
        },
    )

    def for_vectors(self) -> EmbeddingArguments:
        """Return the options of `embed`."""
        options = {name: value for name, value in asdict(self).items() if name not in ("language", "query_prompt")}
        if self.prompt is None and self.prompt_name is None:
            options["prompt_name"] = "document"
        return EmbeddingArguments(**options, format="lance")


@dataclass
class SearchArguments:
    """What to search for, where, and how.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "search"

    index: str = field(metadata={"help": "Folder of the index, also as the first argument."})
    query: str = field(metadata={"help": "What to search for, also as the second argument."})
    limit: int = field(default=10, metadata={"help": "Number of texts to print."})
    mode: str = field(
        default="hybrid",
        metadata={
            "help": "vector compares vectors, text looks for the words of the query, and hybrid merges both.",
            "choices": list(MODES),
        },
    )
    where: str | None = field(
        default=None, metadata={"help": 'Condition on the columns of the index, such as "year > 2020".'}
    )
    rerank: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a cross-encoder, which reads the best texts again."}
    )
    candidates: int = field(default=50, metadata={"help": "Number of texts that the cross-encoder reads."})
    model: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of the encoder, if it is no longer where it was."}
    )
    device: str | None = field(default=None, metadata=DEVICE)
    json: bool = field(default=False, metadata={"help": "Print a JSON object for each text."})

    def __post_init__(self) -> None:
        check_least(self, limit=1, candidates=1)
        if self.rerank is not None:
            check_candidates(self.limit, self.candidates)


INDEX = CommandLine(
    "index",
    "Make an index of the texts of a corpus, to search them by meaning and by words.\n"
    "If the command is interrupted, run it again to continue.",
    'minilm --corpus "texts/*.parquet" --text_column text --output_dir texts-index',
    (ModelArguments, TextArguments, IndexArguments, RowArguments),
    positional=("model",),
)
SEARCH = CommandLine(
    "search",
    "Print the texts of an index that fit a query best.",
    'texts-index "how do I read a file?"',
    (SearchArguments,),
    positional=("index", "query"),
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
