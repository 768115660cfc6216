"""The quickstart: from the documentation on this disk to a classifier of docstrings, in a few minutes on a CPU.

Trains a tokenizer, pretrains an encoder on masked tokens and sentence order, adapts it with `Trainer` to name the
library that a docstring is from, does the same from random weights to show what pretraining bought, saves, reloads the
result in a fresh process and predicts there. No network is used.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import ModelCard, ModelCardData
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback

from ..configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ..modeling.pretraining_heads import SequenceEncoderForPreTraining
from ..tokenizer.tokenization_sequence_encoder import SequenceEncoderTokenizer
from .documentation import Docstring, read_documentation, split_by_file
from .hardware import device_name, faster_in_bfloat16, has_accelerator, peak_memory
from .objectives import PretrainingCollator, segment_windows
from .time_budget import TimeBudget

MAX_LENGTH = 128
VOCAB_SIZE = 4096
LABELLED_PER_LIBRARY = 50
TEST_TEXTS = 1500
HELD_OUT_WINDOWS = 512
# Of the time that is left after reading and tokenising; what remains is for evaluating and reloading.
PRETRAINING_SHARE, ADAPTATION_SHARE = 0.74, 0.07
# Much, since a short pretraining learns more from a harder task (Wettig et al., 2023, find 0.4 and more to pay).
MLM_PROBABILITY = 0.5

CARD_TEMPLATE = Path(__file__).parent.parent / "hub_card.md"

RELOAD = """\
import sequence_encoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

model = AutoModelForSequenceClassification.from_pretrained({folder!r})
tokenizer = AutoTokenizer.from_pretrained({folder!r})
classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
"""
PREDICT = """
import json, sys
answers = classify(json.load(sys.stdin), batch_size=32, truncation=True)
print(json.dumps([answer["label"] for answer in answers]))
"""


@dataclass
class QuickstartArguments:
    """Arguments of `sequence-encoder quickstart`."""

    minutes: float = field(default=5.6, metadata={"help": "How long it takes in all; more is for training."})
    output_dir: str = field(default="quickstart-model", metadata={"help": "The folder for the finished classifier."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the output folder if it exists."})
    seed: int = field(default=0, metadata={"help": "Seed of the split, the weights, the masks and the order."})

    def __post_init__(self) -> None:
        if not self.minutes >= 1:
            raise ValueError(f"--minutes must be at least 1, got {self.minutes}.")


@dataclass
class Results:
    """What the quickstart measured. Losses in nats, accuracies as shares."""

    mlm_loss: tuple[float, float]
    order_accuracy: tuple[float, float]
    tokens_per_second: float
    accuracy: float = 0.0
    random_accuracy: float = 0.0
    majority_accuracy: float = 0.0
    reloaded_accuracy: float = 0.0


def quickstart(arguments: QuickstartArguments) -> Results:
    """Runs it all, prints the results and returns them.

    Raises:
        FileExistsError: if the output folder exists and may not be replaced, before anything is done.
        ValueError: if reading took all the time.
    """
    started = time.perf_counter()
    output = Path(arguments.output_dir)
    if output.exists() and not arguments.overwrite:
        raise FileExistsError(f"--output_dir {output} exists; choose another, or replace it with --overwrite.")

    train, test = split_by_file(read_documentation(), seed=arguments.seed)
    libraries = sorted({doc.library for doc in train})
    print(f"{len(train):,} docstrings to learn from and {len(test):,} held out, of {', '.join(libraries)}.")
    tokenizer = SequenceEncoderTokenizer.train_from_iterator(
        (doc.text for doc in train), vocab_size=VOCAB_SIZE, lowercase=True, model_max_length=MAX_LENGTH
    )
    read = time.perf_counter() - started
    left = 60 * arguments.minutes - read
    if left <= 0:
        raise ValueError(f"--minutes {arguments.minutes} leaves no time to train: reading alone took {read:.0f} s.")
    with tempfile.TemporaryDirectory() as scratch:
        pretrained, finished = Path(scratch, "pretrained"), Path(scratch, "finished")
        results = pretrain(train, test, tokenizer, pretrained, PRETRAINING_SHARE * left, arguments.seed)
        tested = test[:TEST_TEXTS]
        task = Task(few_of_each(train, libraries, arguments.seed), tested, libraries, tokenizer)
        seconds = ADAPTATION_SHARE * left
        results.random_accuracy, _ = adapt(task, pretrained, seconds, arguments.seed, from_random=True)
        results.accuracy, model = adapt(task, pretrained, seconds, arguments.seed)
        results.majority_accuracy = Counter(doc.library for doc in tested).most_common(1)[0][1] / len(tested)
        model.save_pretrained(finished)
        tokenizer.save_pretrained(finished)
        predicted = predict_in_fresh_process(finished, [doc.hidden for doc in tested])
        right = [answer == doc.library for answer, doc in zip(predicted, tested, strict=True)]
        results.reloaded_accuracy = sum(right) / len(right)
        write_card(finished, model, results, libraries)
        # Only what is whole takes the place of what was there.
        if output.exists():
            shutil.rmtree(output)
        shutil.copytree(finished, output)
    print_results(results, output, time.perf_counter() - started)
    return results


def pretrain(
    train: list[Docstring],
    held_out: list[Docstring],
    tokenizer: SequenceEncoderTokenizer,
    folder: Path,
    seconds: float,
    seed: int,
) -> Results:
    """Trains an encoder on masked tokens and sentence order, and saves it in `folder`."""
    windows = list(segment_windows((doc.text for doc in train), tokenizer, MAX_LENGTH))
    others = list(segment_windows((doc.text for doc in held_out), tokenizer, MAX_LENGTH))
    others = random.Random(seed).sample(others, min(HELD_OUT_WINDOWS, len(others)))
    collate = PretrainingCollator(tokenizer, MLM_PROBABILITY, seed)
    batches = [collate(others[i : i + 32]) for i in range(0, len(others), 32)]

    set_seed(seed)
    model = SequenceEncoderForPreTraining(
        # ModernBERT's architecture learns from the first minute on; post-norm layers do not.
        SequenceEncoderConfig.from_preset(
            "modernbert",
            vocab_size=len(tokenizer),
            hidden_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=512,
            layer_types=["full_attention"],
            type_vocab_size=2,
            pooling="mean",
            classifier_head="linear",
            classifier_dropout=0.1,
            pad_token_id=tokenizer.pad_token_id,
            cls_token_id=tokenizer.cls_token_id,
            sep_token_id=tokenizer.sep_token_id,
            mask_token_id=tokenizer.mask_token_id,
        )
    )
    before = evaluate_pretraining(model, batches)
    collate = PretrainingCollator(tokenizer, MLM_PROBABILITY, seed + 1)
    trainer = trainer_for("Pretraining", model, seconds, 1e-3, 16, windows, collate, seed)
    trainer.train()
    after = evaluate_pretraining(model, batches)
    model.save_pretrained(folder)
    speed = trainer.state.num_input_tokens_seen / seconds
    return Results((before[0], after[0]), (before[1], after[1]), speed)


@torch.inference_mode()
def evaluate_pretraining(model: PreTrainedModel, batches: list[dict[str, torch.Tensor]]) -> tuple[float, float]:
    """The mean loss of the masked tokens, and the accuracy of sentence order."""
    model.eval()
    loss, masked, right, ordered = 0.0, 0, 0, 0
    for batch in batches:
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        order = batch.pop("sentence_order_label")
        outputs = model(**batch)
        count = int((batch["labels"] != -100).sum())
        loss, masked = loss + count * float(outputs.loss), masked + count
        right += int((outputs.sop_logits.argmax(-1) == order).sum())
        ordered += int((order >= 0).sum())
    return loss / masked, right / ordered


@dataclass
class Task:
    """Naming the library of a docstring, from its text without the names of libraries."""

    train: list[Docstring]
    test: list[Docstring]
    libraries: list[str]
    tokenizer: SequenceEncoderTokenizer

    def encode(self, docs: list[Docstring]) -> Any:
        """The docstrings as `Trainer` takes them."""
        encoded = self.tokenizer([doc.hidden for doc in docs], truncation=True)
        return [
            {**{name: values[i] for name, values in encoded.items()}, "labels": self.libraries.index(doc.library)}
            for i, doc in enumerate(docs)
        ]


def few_of_each(docs: list[Docstring], libraries: list[str], seed: int) -> list[Docstring]:
    """As many docstrings of each library, drawn at random: labels are what is scarce in practice."""
    rng = random.Random(seed)
    chosen = []
    for library in libraries:
        of_library = [doc for doc in docs if doc.library == library]
        chosen += rng.sample(of_library, min(LABELLED_PER_LIBRARY, len(of_library)))
    return chosen


def adapt(
    task: Task, pretrained: Path, seconds: float, seed: int, from_random: bool = False
) -> tuple[float, PreTrainedModel]:
    """Trains the encoder in `pretrained` on the task, or the same one with random weights: (test accuracy, model)."""
    set_seed(seed)
    labels = dict(enumerate(task.libraries))
    names: dict[str, Any] = {"id2label": labels, "label2id": {name: index for index, name in labels.items()}}
    if from_random:
        config = SequenceEncoderConfig.from_pretrained(pretrained, **names)
        model = AutoModelForSequenceClassification.from_config(config)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(pretrained, **names)
    description = "Adapting random weights" if from_random else "Adapting the pretrained encoder"
    collate = DataCollatorWithPadding(task.tokenizer)
    trainer = trainer_for(description, model, seconds, 3e-4, 16, task.encode(task.train), collate, seed)
    trainer.train()
    metrics = trainer.evaluate(task.encode(task.test))
    return metrics["eval_accuracy"], model


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The share of right answers."""
    logits, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    return {"accuracy": float((logits.argmax(-1) == labels).mean())}


def trainer_for(
    description: str,
    model: PreTrainedModel,
    seconds: float,
    learning_rate: float,
    batch_size: int,
    dataset: Any,
    collate: Callable[[list[dict[str, Any]]], Any],
    seed: int,
) -> Trainer:
    """A plain `Trainer` that trains for `seconds`."""
    budget = TimeBudget(seconds, description)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=tempfile.gettempdir(),
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=64,
            # The budget ends the training.
            max_steps=10**7,
            # `Trainer` takes bfloat16 on a CPU only where it is told that the CPU is meant.
            use_cpu=not has_accelerator(),
            bf16=faster_in_bfloat16(),
            remove_unused_columns=False,
            include_num_input_tokens_seen="non_padding",
            logging_steps=20,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=seed,
        ),
        train_dataset=dataset,
        data_collator=collate,
        optimizers=(optimizer, budget.schedule(optimizer)),
        compute_metrics=accuracy,
        callbacks=[budget],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def predict_in_fresh_process(folder: Path, texts: list[str]) -> list[str]:
    """The labels that `pipeline` gives to texts in a new process, which knows nothing but the saved folder."""
    program = RELOAD.format(folder=str(folder)) + PREDICT
    finished = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(texts), capture_output=True, text=True, check=False
    )
    if finished.returncode:
        raise RuntimeError(f"The saved model could not be used in a fresh process:\n{finished.stderr}")
    return json.loads(finished.stdout.splitlines()[-1])


def write_card(folder: Path, model: PreTrainedModel, results: Results, libraries: list[str]) -> None:
    """The model card of the finished classifier, `README.md`."""
    data = ModelCardData(
        library_name="transformers", pipeline_tag="text-classification", language="en", tags=["sequence-encoder"]
    )
    card = ModelCard.from_template(
        data,
        template_path=str(CARD_TEMPLATE),
        task=data.pipeline_tag,
        model_name="Which library is this docstring from?",
        summary="Names the Python library that a docstring is from: " + ", ".join(libraries) + ".",
        parameters=f"{model.num_parameters():,}",
        training_data="The docstrings of the libraries themselves, as installed, without near-duplicates.",
        results=f"Accuracy {results.accuracy:.3f} on {TEST_TEXTS:,} docstrings from files that were held out; always "
        f"naming the most frequent library gives {results.majority_accuracy:.3f}.",
        limits="Trained for minutes as a demonstration of the library sequence-encoder.",
    )
    card.save(folder / "README.md")


def print_results(results: Results, output: Path, seconds: float) -> None:
    """The table at the end, and the lines to paste."""
    rows = [
        ("held-out loss of masked tokens", "{:.2f} → {:.2f}".format(*results.mlm_loss), "before → after pretraining"),
        ("held-out accuracy of sentence order", "{:.2f} → {:.2f}".format(*results.order_accuracy), "chance is 0.50"),
        ("accuracy of naming the library", f"{results.accuracy:.3f}", f"{LABELLED_PER_LIBRARY} labels each"),
        ("  adapted from random weights", f"{results.random_accuracy:.3f}", "same data, same time"),
        ("  always the most frequent one", f"{results.majority_accuracy:.3f}", ""),
        ("  reloaded in a fresh process", f"{results.reloaded_accuracy:.3f}", "through pipeline"),
        ("real tokens a second", f"{results.tokens_per_second:,.0f}", f"pretraining; {device_name()}"),
        ("peak memory", f"{peak_memory() / 2**30:.2f} GiB", ""),
        ("time", f"{seconds / 60:.1f} min", ""),
        ("saved in", str(output.resolve()), ""),
    ]
    width = max(len(name) for name, _, _ in rows)
    middle = max(len(value) for _, value, _ in rows[:-1])
    print()
    for name, value, remark in rows:
        print(f"{name:<{width}}  {value:<{middle}}  {remark}".rstrip())
    print(f'\nTo use it:\n\n{RELOAD.format(folder=str(output))}classify("Return the eigenvalues of a matrix.")')
