"""The quickstart: train a classifier on the docstrings of the installed libraries, in a few minutes on a CPU.

The quickstart trains a tokenizer, pretrains an encoder on masked tokens and sentence order, and fine-tunes it with
`Trainer` to predict the library of a docstring. To show the gain from pretraining, it also fine-tunes the same encoder
from random weights. Finally, it saves the classifier, reloads it in a fresh process and predicts there. It does not use
the network.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback

from ...command_line.progress import Progress, counted_by
from ...configuration.configuration_sequence_encoder import SequenceEncoderConfig
from ...data.documentation import Docstring, read_documentation, split_by_file
from ...data.packs import EvaluationWindows, PackedWindows
from ...data.windows import Window, segment_windows
from ...inference.bfloat16 import faster_in_bfloat16
from ...modeling.heads.pretraining_heads import SequenceEncoderForPreTraining
from ...saving.whole_folders import atomic_folder, check_replaceable
from ...tokenizer.tokenization_sequence_encoder import SequenceEncoderTokenizer
from ..encoders import save_as_sequence_encoder
from ..hardware import has_accelerator
from ..hub_trainer import training_of
from ..optimizer import MuonWithAdamW
from ..pretraining.objective_metrics import means, sums_of
from ..pretraining.objectives import PretrainingCollator
from .arguments import QuickstartArguments
from .report import RELOAD, Pretraining, Results, print_results, write_card
from .step_bar import StepBar

MAX_LENGTH = 128
# Token budget of a pretraining step.
MAX_TOKENS = 32 * MAX_LENGTH
VOCAB_SIZE = 4096
LABELLED_PER_LIBRARY = 50
TEST_TEXTS = 1500
HELD_OUT_WINDOWS = 512

PREDICT = """
import json, sys
answers = classify(json.load(sys.stdin), batch_size=32, truncation=True)
print(json.dumps([answer["label"] for answer in answers]))
"""


def quickstart(arguments: QuickstartArguments) -> Results:
    """Run the quickstart, print the results and return them.

    Args:
        arguments: The options of the quickstart.

    Raises:
        FileExistsError: If the output folder exists and must not be replaced. This is checked first.
        KeyboardInterrupt: If the user interrupts the run. The message says how to go on.
        OSError: If the output folder cannot be written. This is also checked first.
        UsageError: If there are too few docstrings, or if the checkpoint cannot be used.
    """
    started = time.perf_counter()
    output = Path(arguments.output_dir)
    may_replace = (arguments.overwrite, "--overwrite")
    source = arguments.model
    check_replaceable(output, *may_replace, kept=Path(source) if source else None)
    try:
        with atomic_folder(output, *may_replace) as finished, tempfile.TemporaryDirectory() as scratch:
            results = _run(arguments, Path(scratch), finished)
    except KeyboardInterrupt as interruption:
        raise KeyboardInterrupt(
            "Interrupted; nothing was saved, because the quickstart has no checkpoints. Run the same command to start "
            "over, with fewer --pretraining_steps and --adaptation_steps if it takes too long."
        ) from interruption
    print_results(results, output, time.perf_counter() - started)
    return results


def _run(arguments: QuickstartArguments, pretrained: Path, finished: Path) -> Results:
    """Train, and save the encoder in the folder `pretrained` and the classifier in `finished`."""
    seed, checkpoint = arguments.seed, arguments.model
    # Load the checkpoint first, so that an unusable one is reported at once.
    source_tokenizer = None if checkpoint is None else save_as_sequence_encoder(checkpoint, pretrained, base_model=True)
    if source_tokenizer is not None:
        limit = SequenceEncoderConfig.from_pretrained(pretrained).max_position_embeddings
        source_tokenizer.model_max_length = min(MAX_LENGTH, limit)
    train, test = split_by_file(read_documentation(), seed=arguments.seed)
    libraries = sorted({doc.library for doc in train})
    test = [doc for doc in test if doc.library in libraries]
    print(f"{len(train):,} docstrings for training and {len(test):,} held out, from {', '.join(libraries)}.")
    if source_tokenizer is None:
        with Progress("Training the tokenizer"):
            tokenizer: PreTrainedTokenizerBase = train_tokenizer(train)
        with Progress("Tokenising"):
            windows, held_out = (
                list(segment_windows((doc.text for doc in docs), tokenizer, MAX_LENGTH)) for docs in (train, test)
            )
        steps = arguments.pretraining_steps
        results, optimizer = Results(pretrain(windows, held_out, tokenizer, pretrained, steps, seed)), adamw
    else:
        tokenizer, results, optimizer = source_tokenizer, Results(None, checkpoint), muon
    task = Task(sample_per_library(train, libraries, seed), test[:TEST_TEXTS], libraries, tokenizer)
    results.labelled, results.tested = len(task.train), len(task.test)
    results.random_accuracy, _ = adapt(task, pretrained, arguments.adaptation_steps, optimizer, seed, from_random=True)
    results.accuracy, trainer = adapt(task, pretrained, arguments.adaptation_steps, optimizer, seed)
    results.majority_accuracy = Counter(doc.library for doc in task.test).most_common(1)[0][1] / len(task.test)
    model = cast(PreTrainedModel, trainer.model)
    model.save_pretrained(finished)
    tokenizer.save_pretrained(finished)
    with Progress("Loading the classifier in a fresh process and predicting"):
        predicted = predict_in_fresh_process(finished, [doc.hidden for doc in task.test])
    right = [answer == doc.library for answer, doc in zip(predicted, task.test, strict=True)]
    results.reloaded_accuracy = sum(right) / len(right)
    training = training_of(trainer, "docstrings of installed libraries")
    write_card(finished, model, training, results, libraries, MAX_LENGTH)
    return results


def train_tokenizer(docs: list[Docstring]) -> SequenceEncoderTokenizer:
    """Train a tokenizer on the docstrings."""
    return SequenceEncoderTokenizer.train_from_iterator(
        (doc.text for doc in docs),
        vocab_size=VOCAB_SIZE,
        lowercase=True,
        model_max_length=MAX_LENGTH,
        show_progress=False,
    )


def pretrain(
    windows: list[Window],
    held_out: list[Window],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    steps: int,
    seed: int,
) -> Pretraining:
    """Pretrain an encoder on masked tokens and sentence order, and save it in `folder`."""
    others = random.Random(seed).sample(held_out, min(HELD_OUT_WINDOWS, len(held_out)))
    collate = PretrainingCollator(tokenizer)
    evaluated = EvaluationWindows(others, seed)
    batches = [collate([evaluated[k] for k in range(i, min(i + 32, len(others)))]) for i in range(0, len(others), 32)]

    set_seed(seed)
    model = SequenceEncoderForPreTraining(
        # ModernBERT's architecture learns from the first minute on; post-norm layers do not.
        SequenceEncoderConfig.from_preset(
            "modernbert",
            tokenizer=tokenizer,
            hidden_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=512,
            layer_types=["full_attention"],
            type_vocab_size=2,
            # Sentence order has few labels per batch. With mean pooling, their noise would reach every masked token.
            pooling="cls",
            classifier_head="linear",
            classifier_dropout=0.1,
        )
    )
    before = evaluate_pretraining(model, batches)
    packs = PackedWindows(windows, MAX_TOKENS, seed)
    trainer = trainer_for("Pretraining", model, steps, MuonWithAdamW(model, 5e-3), 1, packs, collate, seed)
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    speed = trainer.state.num_input_tokens_seen / seconds
    after = evaluate_pretraining(model, batches)
    model.save_pretrained(folder)
    return Pretraining((before[0], after[0]), (before[1], after[1]), speed, seconds)


@torch.inference_mode()
def evaluate_pretraining(model: PreTrainedModel, batches: list[dict[str, Any]]) -> tuple[float, float]:
    """Return the mean loss of the masked tokens, and the accuracy of sentence order."""
    model.eval()
    sums = torch.zeros(())
    for batch in counted_by(Progress("Evaluating", len(batches), "batch"), batches):
        batch = {name: x.to(model.device) if isinstance(x, torch.Tensor) else x for name, x in batch.items()}
        sums = sums + sums_of(batch, model(**batch)).cpu()
    found = means(sums)
    return found["mlm_loss"], found.get("sop_accuracy", 0.0)


@dataclass
class Task:
    """The task of naming the library of a docstring, from its text with library names hidden."""

    train: list[Docstring]
    test: list[Docstring]
    libraries: list[str]
    tokenizer: PreTrainedTokenizerBase

    def encode(self, docs: list[Docstring]) -> Any:
        """Encode docstrings as examples for `Trainer`."""
        encoded = self.tokenizer([doc.hidden for doc in docs], truncation=True)
        return [
            {**{name: values[i] for name, values in encoded.items()}, "labels": self.libraries.index(doc.library)}
            for i, doc in enumerate(docs)
        ]


def sample_per_library(docs: list[Docstring], libraries: list[str], seed: int) -> list[Docstring]:
    """Draw the same small number of docstrings from each library, because labels are scarce in practice."""
    rng = random.Random(seed)
    chosen = []
    for library in libraries:
        of_library = [doc for doc in docs if doc.library == library]
        chosen += rng.sample(of_library, min(LABELLED_PER_LIBRARY, len(of_library)))
    return chosen


def adamw(model: PreTrainedModel) -> torch.optim.Optimizer:
    """Return the optimizer for the small encoder that the quickstart pretrains."""
    return torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.01, fused=True)


def muon(model: PreTrainedModel) -> torch.optim.Optimizer:
    """Return the optimizer for checkpoints, which beats AdamW on all-MiniLM-L6-v2 at any learning rate."""
    return MuonWithAdamW(model, 5e-4)


def adapt(
    task: Task,
    pretrained: Path,
    steps: int,
    make_optimizer: Callable[[PreTrainedModel], torch.optim.Optimizer],
    seed: int,
    from_random: bool = False,
) -> tuple[float, Trainer]:
    """Fine-tune an encoder on the task.

    Args:
        task: The task.
        pretrained: The folder of the pretrained encoder.
        steps: The number of training steps.
        make_optimizer: Creates the optimizer for a model.
        seed: The seed of the weights and the data order.
        from_random: Whether to start from random weights instead of the pretrained ones.

    Returns:
        (test accuracy, trainer).
    """
    set_seed(seed)
    labels = dict(enumerate(task.libraries))
    config = SequenceEncoderConfig.from_pretrained(
        pretrained,
        pooling="mean",
        pooler_act=None,
        classifier_dropout=0.1,
        id2label=labels,
        label2id={name: index for index, name in labels.items()},
    )
    if from_random:
        model = AutoModelForSequenceClassification.from_config(config)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(pretrained, config=config)
    description = "Adapting random weights" if from_random else "Adapting the pretrained encoder"
    collate = DataCollatorWithPadding(task.tokenizer)
    optimizer = make_optimizer(model)
    trainer = trainer_for(description, model, steps, optimizer, 16, task.encode(task.train), collate, seed)
    trainer.train()
    with Progress("Evaluating"):
        metrics = trainer.evaluate(task.encode(task.test))
    return metrics["eval_accuracy"], trainer


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Return the share of correct predictions."""
    logits, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    return {"accuracy": float((logits.argmax(-1) == labels).mean())}


def trainer_for(
    description: str,
    model: PreTrainedModel,
    steps: int,
    optimizer: torch.optim.Optimizer,
    batch_size: int,
    dataset: Any,
    collate: Callable[[list[dict[str, Any]]], Any],
    seed: int,
) -> Trainer:
    """Create a plain `Trainer` with a progress bar."""
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=tempfile.gettempdir(),
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=64,
            max_steps=steps,
            lr_scheduler_type="linear",
            warmup_steps=0.1,
            # `Trainer` accepts bfloat16 on a CPU only with use_cpu=True.
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
        optimizers=(optimizer, None),
        compute_metrics=accuracy,
        callbacks=[StepBar(description)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def predict_in_fresh_process(folder: Path, texts: list[str]) -> list[str]:
    """Classify texts with `pipeline` in a new process that loads the saved folder, and return the labels."""
    program = RELOAD.format(folder=str(folder)) + PREDICT
    finished = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(texts), capture_output=True, text=True, check=False
    )
    if finished.returncode:
        raise RuntimeError(f"The saved model failed in a fresh process:\n{finished.stderr}")
    return json.loads(finished.stdout.splitlines()[-1])
