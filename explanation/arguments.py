"""The options of `sequence-encoder explain`.

Nothing here imports torch, so that the command line reports mistakes at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..command_line import UsageError
from ..command_line.extras import require
from ..command_line.options import DEVICE, MODEL, check_least
from ..command_line.parser import CommandLine
from ..data.text_files import TextFormat

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

    model: str = field(metadata=MODEL)
    text: str | None = field(default=None, metadata={"help": "Text to explain, or the question."})
    text_pair: str | None = field(
        default=None, metadata={"help": "Second text: of a pair, to compare with, or to find the answer in."}
    )
    file: str | None = field(default=None, metadata={"help": "File of texts to explain: JSON Lines, CSV or TSV."})
    text_column: str = field(default="text", metadata={"help": "Column with the texts."})
    text_pair_column: str | None = field(default=None, metadata={"help": "Column with the second texts."})
    encoding: str | None = field(
        default=None, metadata={"help": "Encoding of the files, such as latin-1; the default is UTF-8."}
    )
    delimiter: str | None = field(default=None, metadata={"help": "Column separator of CSV files, such as ';'."})
    max_length: int | None = field(
        default=None, metadata={"help": "Number of tokens to truncate texts to; the default is that of the model."}
    )
    max_tokens: int = field(default=2048, metadata={"help": "Maximum number of tokens in a batch."})
    device: str | None = field(default=None, metadata=DEVICE)
    precision: str = field(
        default="auto",
        metadata={
            "help": "dtype to compute in; auto is that of the checkpoint.",
            "choices": ["auto", "float32", "bfloat16"],
        },
    )

    def __post_init__(self) -> None:
        self.delimiter = TextFormat(self.encoding, self.delimiter).delimiter
        if (self.text is None) == (self.file is None):
            raise UsageError(
                f"exactly one of --text and --file is needed, got {'neither' if self.text is None else 'both'}."
            )
        if self.text_pair is not None and self.text is None:
            raise UsageError("--text_pair needs --text; the second texts of a --file are in its --text_pair_column.")
        if self.text_pair_column is not None and self.file is None:
            raise UsageError("--text_pair_column needs --file; the second text of --text is --text_pair.")
        check_least(self, max_length=1, max_tokens=1)


@dataclass
class ExplanationArguments:
    """How to explain, and what to write.

    Raises:
        UsageError: If a value is not allowed.
    """

    _argument_group_name = "explanation"

    target: str | None = field(
        default=None,
        metadata={
            "help": "What to explain: a label, an entity or its label, an answer, or a token for a mask; the default "
            "is what the model says."
        },
    )
    method: str = field(
        default=METHOD_NAMES[0], metadata={"help": "How to compute scores.", "choices": list(METHOD_NAMES)}
    )
    removal: str | None = field(
        default=None,
        metadata={
            "help": "What takes the place of removed words: mask tokens or nothing; the default depends on the model.",
            "choices": list(REMOVALS),
        },
    )
    samples: int | None = field(
        default=None,
        metadata={"help": "Orders of words for shapley, or points for integrated_gradients; more are more exact."},
    )
    top_words: int = field(default=10, metadata={"help": "Number of words to print for each explanation."})
    seed: int = field(default=0, metadata={"help": "Seed of random orders."})
    attention: list[int] = field(
        default_factory=list,
        metadata={"help": "Layers, counted from 0, whose attention to draw in the output folder."},
    )
    examples: str | None = field(
        default=None, metadata={"help": "File of training examples, of which the nearest are shown for each text."}
    )
    index: str | None = field(
        default=None,
        metadata={"help": "Index of training examples that `sequence-encoder index` has made with the model, instead."},
    )
    label_column: str = field(default="label", metadata={"help": "Column with the labels of the training examples."})
    nearest: int = field(default=3, metadata={"help": "Number of training examples to show for each text."})
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder to write: explanations.html, explanations.jsonl, and pictures."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace the files of earlier explanations."})

    def __post_init__(self) -> None:
        check_least(self, samples=1, top_words=1, nearest=1, seed=0)
        if self.samples is not None and self.method not in SAMPLED:
            raise UsageError(f"--samples needs --method {' or '.join(SAMPLED)}, got {self.method}.")
        if self.examples is not None and self.index is not None:
            raise UsageError("--examples and --index are mutually exclusive.")
        if self.attention and self.output_dir is None:
            raise UsageError("--attention needs --output_dir, for its pictures.")


EXPLAIN = CommandLine(
    "explain",
    "Show which words of a text a model relies on, and how faithful that explanation is to the model.",
    'classifier --text "A film of rare grace." --output_dir explained',
    (ExplainedTexts, ExplanationArguments),
    positional=("model",),
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
