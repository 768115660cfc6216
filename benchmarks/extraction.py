"""Zero-shot extraction of entities beside the package gliner: speed, training steps, and F1 after the same time.

The rows come from `extraction_rows.py`, and the trained GLiNER from `gliner_peer.py`:

    python benchmarks/extraction.py speed GLINER
    python benchmarks/extraction.py training_step ROWS
    python benchmarks/extraction.py f1 ROWS --minutes 15
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from extraction_rows import LABELS, WORD
from gliner import GLiNER, InferencePackingConfig
from gliner_peer import (
    PLAIN,
    SETTINGS,
    Budgeted,
    Rows,
    build_gliner,
    make_trainer,
    read_rows_folder,
    train_gliner,
    train_within,
)
from optimize import ragged_texts
from peers import extra_memory, interleaved, print_machine, short_texts
from transformers import AutoTokenizer, PreTrainedTokenizerBase, TrainingArguments

from sequence_encoder import SequenceEncoderForSpanExtraction, convert, optimize
from sequence_encoder.configuration.span_extraction_field import span_extraction_fields
from sequence_encoder.modeling.extraction.text_windows import Prompt, windows_of_words
from sequence_encoder.training.adaptation.tasks.extraction import Collator
from sequence_encoder.training.extraction_trainer import ExtractionTrainer

MAX_WORDS, BATCH = 300, 8
MANY_LABELS = (*LABELS, "date")
Extract = Callable[[list[str], list[str]], list[list[dict[str, Any]]]]


def extractors(folder: Path, threshold: float) -> dict[str, Extract]:
    """Return what extracts entities with the GLiNER of a folder, by name, with the package gliner as it is first."""
    model = GLiNER.from_pretrained(str(folder)).eval()

    def with_gliner(each: Any, **options: Any) -> Extract:
        return lambda texts, labels: each.inference(texts, labels, threshold=threshold, batch_size=BATCH, **options)

    peers = {"gliner": with_gliner(model)}
    # For other encoders, it calls them without input_ids.
    if model.config.encoder_config.model_type in ("deberta-v2", "modernbert", "t5"):
        packing = InferencePackingConfig(max_length=512)
        peers["gliner, InferencePackingConfig"] = with_gliner(model, packing_config=packing)
    peers["gliner, optimize"] = with_gliner(optimize(copy.deepcopy(model)))
    peers["gliner, optimize(exact=False)"] = with_gliner(optimize(copy.deepcopy(model), exact=False))
    ours, tokenizer = convert(folder), AutoTokenizer.from_pretrained(folder)
    peers["ours"] = with_ours(ours, tokenizer, threshold)
    peers["ours, bfloat16"] = with_ours(copy.deepcopy(ours).to(torch.bfloat16), tokenizer, threshold)
    return peers


def compare(found: list[list[dict[str, Any]]], expected: list[list[dict[str, Any]]]) -> str:
    """Return how many entities are in only one of two results, and the largest difference of a score, as text."""
    first, second = (
        {(i, each["start"], each["end"], each["label"]): each["score"] for i, text in enumerate(side) for each in text}
        for side in (found, expected)
    )
    difference = max((abs(first[key] - second[key]) for key in first.keys() & second.keys()), default=0.0)
    return f"{len(first.keys() ^ second.keys())} of {len(second)} differ, scores by {difference:.1e} at most"


def speed(folder: Path, count: int, threshold: float) -> None:
    """Compare entities and seconds on ragged texts and on sentences, for few and for many labels."""
    ragged = [text[: _end_of_word(text, MAX_WORDS)] for text in ragged_texts(count)]
    peers = extractors(folder, threshold)
    print("\n| texts, labels | who | texts/s | times gliner | entities |\n|---|---|---|---|---|")
    for title, texts in (("ragged", ragged), ("sentences", short_texts(count))):
        for size in (5, len(MANY_LABELS)):
            labels = list(MANY_LABELS[:size])
            expected = peers["gliner"](texts, labels)
            agreement = {name: compare(extract(texts, labels), expected) for name, extract in peers.items()}
            runs = {name: lambda each=each: each(texts, labels) for name, each in peers.items()}  # noqa: B023
            seconds = interleaved(runs)
            for name, value in seconds.items():
                ratio = seconds["gliner"] / value
                print(f"| {title}, {size} | {name} | {count / value:.1f} | {ratio:.2f} | {agreement[name]} |")


def _end_of_word(text: str, number: int) -> int:
    """Return where the word of a number ends, or the last one."""
    ends = [match.end() for match in WORD.finditer(text)]
    return ends[min(number, len(ends)) - 1] if ends else 0


def encoded(rows: Rows, model: SequenceEncoderForSpanExtraction, tokenizer: PreTrainedTokenizerBase) -> Rows:
    """Return the inputs of our model for rows in GLiNER's format, with the labels of each before its words."""
    fields, found = span_extraction_fields(model.config), []
    for row in rows:
        labels = row["ner_labels"]
        prompt = Prompt(tokenizer, labels, fields)
        (window,) = windows_of_words([row["tokenized_text"]], tokenizer, prompt, fields)
        entities = [[first, last, labels.index(label)] for first, last, label in row["ner"]]
        inputs = {"input_ids": window.ids, "word_ids": window.word_ids, "class_ids": window.label_ids}
        found.append({**inputs, "labels": entities})
    return found


class OurTrainer(Budgeted, ExtractionTrainer):
    """The trainer of `adapt --task extraction`."""


def our_trainer(rows: Rows, folder: str, **changes: Any) -> tuple[OurTrainer, PreTrainedTokenizerBase]:
    """Return a trainer of our model that starts from the same weights as gliner's, and the tokenizer."""
    build_gliner().save_pretrained(folder)
    model, tokenizer = convert(folder), AutoTokenizer.from_pretrained(folder)
    keys = ("learning_rate", "weight_decay", "per_device_train_batch_size", "max_steps", "max_grad_norm")
    args = TrainingArguments(output_dir=folder, **PLAIN, **{**{key: SETTINGS[key] for key in keys}, **changes})
    collator = Collator(tokenizer.pad_token_id)
    return OurTrainer(model, args, collator, encoded(rows, model, tokenizer)), tokenizer


def timed_steps(who: str, rows: Path, steps: int) -> Callable[[], float]:
    """Return a function that trains some steps, and returns CPU seconds a step."""
    train = read_rows_folder(rows)[0][: 8 * steps]
    folder, options = tempfile.mkdtemp(), {"max_steps": steps, "lr_scheduler_type": "constant"}
    trainer: Any = (
        make_trainer(build_gliner(), train, folder, **options)
        if who == "gliner"
        else our_trainer(train, folder, **options)[0]
    )

    def run() -> float:
        started = time.process_time()
        trainer.train()
        return (time.process_time() - started) / steps

    return run


def training_step(rows: Path, steps: int) -> None:
    """Compare the CPU seconds and the peak memory of training steps on the same batches."""
    print("\n| who | CPU seconds a step | MiB beyond the model |\n|---|---|---|")
    for who in ("gliner", "ours"):
        memory = extra_memory(
            f"import extraction, pathlib; run = extraction.timed_steps({who!r}, pathlib.Path({str(rows)!r}), {steps})",
            "run()",
        )
        run = timed_steps(who, rows, steps)
        run()
        print(f"| {who} | {run():.3f} | {memory} |")


def f1(rows: Path, minutes: float) -> None:
    """Compare the F1 on labels of training and on labels never seen, after the same CPU time with the same rows."""
    train, tests = read_rows_folder(rows)
    train_gliner(train, tests, minutes)
    with tempfile.TemporaryDirectory() as folder:
        trainer, tokenizer = our_trainer(train, folder)
        train_within("ours", trainer, with_ours(trainer.model, tokenizer), tests, minutes)


def with_ours(
    model: SequenceEncoderForSpanExtraction, tokenizer: PreTrainedTokenizerBase, threshold: float = 0.5
) -> Any:
    """Return a function that extracts entities with our model."""
    return lambda texts, labels, threshold=threshold: model.extract(texts, labels, tokenizer, threshold=threshold)


def main() -> None:
    """Run a part of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("speed", "training_step", "f1"))
    parser.add_argument("folder", type=Path, help="Folder of a GLiNER for speed, and of rows for the other parts.")
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--threshold", type=float, default=0.5, help="Lower it for a GLiNER with new weights.")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=15)
    args = parser.parse_args()
    print_machine()
    if args.part == "speed":
        speed(args.folder, args.texts, args.threshold)
    elif args.part == "training_step":
        training_step(args.folder, args.steps)
    else:
        f1(args.folder, args.minutes)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
