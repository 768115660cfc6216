"""Reports the results of the quickstart: the table, the code to paste, and the model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from ...cards.card import Training, model_card
from ...saving.card_mark import save_card
from ..encoders import card_fields_of
from ..hardware import device_name, peak_memory

RELOAD = """\
import sequence_encoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

model = AutoModelForSequenceClassification.from_pretrained({folder!r})
tokenizer = AutoTokenizer.from_pretrained({folder!r})
classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
"""


@dataclass
class Pretraining:
    """The results of pretraining.

    Attributes:
        mlm_loss: The loss of masked tokens in nats, before and after.
        order_accuracy: The accuracy of sentence order from 0 to 1, before and after.
        tokens_per_second: The real tokens per second.
        seconds: The duration.
    """

    mlm_loss: tuple[float, float]
    order_accuracy: tuple[float, float]
    tokens_per_second: float
    seconds: float


@dataclass
class Results:
    """The results of the quickstart. Accuracies are from 0 to 1.

    Attributes:
        pretraining: The results of pretraining, or None if the encoder is a checkpoint.
        checkpoint: The checkpoint, or None if the encoder was pretrained.
        labelled: The number of labelled docstrings in the training set.
        tested: The number of docstrings in the test set.
        accuracy: The accuracy of the classifier.
        random_accuracy: The accuracy of the same encoder trained from random weights.
        majority_accuracy: The accuracy of always predicting the most frequent library.
        reloaded_accuracy: The accuracy of the saved classifier in a fresh process.
    """

    pretraining: Pretraining | None
    checkpoint: str | None = None
    labelled: int = 0
    tested: int = 0
    accuracy: float = 0.0
    random_accuracy: float = 0.0
    majority_accuracy: float = 0.0
    reloaded_accuracy: float = 0.0


def write_card(
    folder: Path, model: PreTrainedModel, training: Training, results: Results, libraries: list[str], max_length: int
) -> None:
    """Write the model card of the classifier, `README.md`.

    Args:
        folder: The folder of the classifier.
        model: The classifier.
        training: The summary of its fine-tuning, which this function completes.
        results: The results of the quickstart.
        libraries: The names of the libraries, which are the labels.
        max_length: The maximum number of tokens in a training text.
    """
    checkpoint = results.checkpoint
    local = checkpoint is not None and Path(checkpoint).exists()
    encoder = (
        f"The encoder is {Path(checkpoint).name if local else checkpoint}."
        if checkpoint
        else "The encoder was pretrained on the docstrings of these libraries, as installed, without near-duplicates."
    )
    training.data = (
        f'{encoder} It was fine-tuned on {results.labelled:,} docstrings, in which "library" replaces names of '
        "libraries. The hyperparameters are those of fine-tuning, and the training time includes pretraining, if any."
    )
    training.remarks = (
        f"The accuracy is {results.accuracy:.3f} on {results.tested:,} docstrings from held-out files. The same "
        f"encoder fine-tuned from random weights reaches {results.random_accuracy:.3f}, and always predicting the most "
        f"frequent library {results.majority_accuracy:.3f}."
    )
    if results.pretraining is not None and training.seconds is not None:
        training.seconds += results.pretraining.seconds
    card = model_card(
        model,
        "path/to/this/folder",
        training,
        name="Which library is this docstring from?",
        summary="Names the Python library that a docstring is from: " + ", ".join(libraries) + ".",
        **{**(card_fields_of(checkpoint) if checkpoint else {}), "language": "en"},
        base_model=None if local else checkpoint,
        limits=[
            f"The model was trained on texts of at most {max_length} tokens; pass truncation=True.",
            "It was trained for minutes, as a demonstration of the library sequence-encoder.",
        ],
    )
    save_card(folder / "README.md", card.content)


def print_results(results: Results, output: Path, seconds: float) -> None:
    """Print the table of results, and the code to paste."""
    pretraining, before, speed = results.pretraining, [], []
    if pretraining is not None:
        loss, order = ("{:.2f} -> {:.2f}".format(*pair) for pair in (pretraining.mlm_loss, pretraining.order_accuracy))
        before = [
            ("held-out loss of masked tokens", loss, "before -> after pretraining"),
            ("held-out accuracy of sentence order", order, "chance is 0.50"),
        ]
        speed = [("real tokens a second", f"{pretraining.tokens_per_second:,.0f}", f"pretraining; {device_name()}")]
    rows = [
        *before,
        ("accuracy of naming the library", f"{results.accuracy:.3f}", f"{results.labelled:,} labels"),
        ("  adapted from random weights", f"{results.random_accuracy:.3f}", "same data, same steps"),
        ("  always the most frequent one", f"{results.majority_accuracy:.3f}", ""),
        ("  reloaded in a fresh process", f"{results.reloaded_accuracy:.3f}", "through pipeline, float32"),
        *speed,
        ("peak memory", f"{peak_memory() / 2**30:.2f} GiB", ""),
        ("time", f"{seconds / 60:.1f} min", ""),
        ("saved in", str(output.resolve()), ""),
    ]
    width = max(len(name) for name, _, _ in rows)
    middle = max(len(value) for _, value, _ in rows[:-1])
    print()
    for name, value, remark in rows:
        print(f"{name:<{width}}  {value:<{middle}}  {remark}".rstrip())
    example = 'print(classify("Applies a 2D convolution over an input image."))'
    print(f"\nTo use it:\n\n{RELOAD.format(folder=str(output))}{example}")
