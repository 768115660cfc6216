"""The options of `sequence-encoder explain`.

Nothing here imports torch, so that the command line reports mistakes at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...command_line import UsageError
from ...command_line.extras import require
from ...command_line.options import (
    DELIMITER,
    DEVICE,
    DTYPE,
    ENCODING,
    LABEL_COLUMN,
    MAX_LENGTH,
    MAX_TOKENS,
    MODEL,
    OVERWRITE,
    SEED,
    TEXT_COLUMN,
    TEXT_PAIR_COLUMN,
    check_least,
    option,
)
from ...command_line.parser import Command
from ...data.text_files import TextFormat

# The first is the default.
METHOD_NAMES = ("occlusion", "shapley", "integrated_gradients", "gradient_x_input", "attention_rollout")
SAMPLED = ("shapley", "integrated_gradients")
REMOVALS = ("mask", "leave_out")


@dataclass
class ExplainedTexts:
    """The model and the texts.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "model and texts"

    model: str = option(**MODEL)
    text: str | None = option("Text or question to explain.", None)
    text_pair: str | None = option("Second text of the pair, or the context of the question.", None, metavar="TEXT")
    text_file: str | None = option("File with texts to explain: text, JSON Lines, CSV or TSV.", None)
    text_column: str = option(default="text", **TEXT_COLUMN)
    text_pair_column: str | None = option(default=None, **TEXT_PAIR_COLUMN)
    encoding: str | None = option(default=None, **ENCODING)
    delimiter: str | None = option(default=None, **DELIMITER)
    max_length: int | None = option(default=None, **MAX_LENGTH)
    max_tokens: int = option(default=2048, **MAX_TOKENS)
    device: str | None = option(default=None, **DEVICE)
    dtype: str = option("dtype to compute in; auto keeps the dtype of the model.", "auto", choices=DTYPE["choices"])

    def __post_init__(self) -> None:
        self.delimiter = TextFormat(self.encoding, self.delimiter).delimiter
        if (self.text is None) == (self.text_file is None):
            raise UsageError(
                f"exactly one of --text and --text_file is needed, got {'neither' if self.text is None else 'both'}."
            )
        if self.text_pair is not None and self.text is None:
            raise UsageError("--text_pair needs --text; a --text_file has its second texts in --text_pair_column.")
        if self.text_pair_column is not None and self.text_file is None:
            raise UsageError("--text_pair_column needs --text_file; the second text of --text is --text_pair.")
        check_least(self, max_length=1, max_tokens=1)


@dataclass
class ExplanationArguments:
    """How to explain, and what to write.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "explanation"

    target: str | None = option(
        "Output to explain: a label, an entity or its label, an answer, or a token for a mask (default: the "
        "model's own output).",
        None,
    )
    method: str = option("Attribution method.", METHOD_NAMES[0], choices=list(METHOD_NAMES))
    removal: str | None = option(
        "Whether a removed word becomes mask tokens or is left out (default: depends on the model).",
        None,
        choices=list(REMOVALS),
    )
    samples: int | None = option(
        "Number of word orders for shapley or steps for integrated_gradients; more are more exact.", None
    )
    top_words: int = option("Number of words to print for each explanation.", 10)
    seed: int = option(default=0, **SEED)
    attention: list[int] = option("Layers, counted from 0, whose attention to draw.", [])
    train_file: str | None = option("Training examples, to show the nearest ones for each text.", None)
    index: str | None = option(
        "Folder of an index from `sequence-encoder index`, to use instead of --train_file.", None, metavar="FOLDER"
    )
    label_column: str = option(default="label", **LABEL_COLUMN)
    nearest: int = option("Number of training examples to show for each text.", 3)
    output_dir: str | None = option("Folder to write explanations.html, explanations.jsonl and pictures to.", None)
    overwrite: bool = option(default=False, **OVERWRITE)

    def __post_init__(self) -> None:
        check_least(self, samples=1, top_words=1, nearest=1, seed=0)
        if self.samples is not None and self.method not in SAMPLED:
            raise UsageError(f"--samples needs --method {' or '.join(SAMPLED)}, got {self.method}.")
        if self.train_file is not None and self.index is not None:
            raise UsageError("--train_file and --index are mutually exclusive; leave one of them out.")
        if self.attention and self.output_dir is None:
            raise UsageError("--attention needs --output_dir, for its pictures.")


EXPLAIN = Command(
    "explain",
    "Show which words of a text a model relies on, and how faithful each explanation is to the model.",
    'classifier --text "A film of rare grace." --output_dir explained',
    (ExplainedTexts, ExplanationArguments),
    check=lambda texts, options: check_libraries(options),
)


def check_libraries(options: ExplanationArguments) -> None:
    """Check that all optional libraries that the command needs are installed.

    Raises:
        MissingLibraryError: If one of them is missing.
    """
    if options.output_dir is not None:
        require("--output_dir", "matplotlib", extra="explain")
    if options.index is not None:
        require("--index", "lancedb", "pyarrow", extra="search")
