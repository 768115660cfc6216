"""Compare fine-tuning of the converted all-MiniLM-L6-v2 and of transformers' BERT, with the same weights and script.

`entities`, `classification` and `retrieval` measure the quality and speed of full tuning over several seeds, in which
both models take turns. `tunings` compares full tuning, LoRA, IA3, TaskAdapter and head only. `frozen` compares later
epochs of a TaskAdapter with its first, and its accuracy with scikit-learn's logistic regression on the same vectors.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from minilm import MINILM
from peers import print_machine
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    BertForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from sequence_encoder import TaskAdapter, convert, train_adapted_model
from sequence_encoder.data.documentation import read_documentation
from sequence_encoder.examples.tweets import read_tweets
from sequence_encoder.inference.bfloat16 import faster_in_bfloat16
from sequence_encoder.training.adaptation.arguments import TaskDataArguments
from sequence_encoder.training.adaptation.tasks import HEAD_TASKS

SEEDS, TRAIN, TEST, LIBRARIES, LENGTH, BATCH, RATE = 5, 1000, 1000, 8, 128, 64, 2e-4
# Epochs over which the time of one is measured, and epochs until the accuracy stops improving.
FROZEN_EPOCHS, ADAPTER_EPOCHS, ADAPTER_RATE = 101, 30, 3e-3
PEERS = ("transformers' BERT", "SequenceEncoder")
CLASSES: dict[str, tuple[Any, Any]] = {
    "ner": (BertForTokenClassification, AutoModelForTokenClassification),
    "classification": (BertForSequenceClassification, AutoModelForSequenceClassification),
}


def documentation(count: int) -> list[Any]:
    """Draw docstrings of the largest libraries at random."""
    docs = read_documentation()
    largest = {name for name, _ in Counter(doc.library for doc in docs).most_common(LIBRARIES)}
    return random.Random(0).sample([doc for doc in docs if doc.library in largest], count)


def examples_of(task: str) -> dict[str, Any]:
    """Return tweets with named entities, or docstrings labelled with their library."""
    from datasets import Dataset

    if task == "ner":
        parts: Any = read_tweets()
    else:
        rows = [{"text": doc.hidden, "label": doc.library} for doc in documentation(TRAIN + TEST)]
        parts = rows[:TRAIN], rows[TRAIN:]
    return {split: Dataset.from_list(part) for split, part in zip(("train", "test"), parts, strict=True)}


def fine_tuning(task: str, epochs: int, seeds: int) -> None:
    """Train both models in turns with the same `Trainer` script."""
    reader = HEAD_TASKS[task](TaskDataArguments(train_file="examples"), LENGTH)
    rows = reader.read(examples_of(task))
    tokenizer = AutoTokenizer.from_pretrained(MINILM)
    inputs = {split: reader.encode(part, tokenizer) for split, part in rows.items()}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in PEERS}
    with tempfile.TemporaryDirectory() as folder:
        convert(MINILM, base_model=True).save_pretrained(folder)
        for seed in range(seeds):
            for number, (name, model_class) in enumerate(zip(PEERS, CLASSES[task], strict=True)):
                set_seed(seed)
                model = model_class.from_pretrained(folder if number else MINILM, **reader.label_fields)
                trainer = Trainer(
                    model,
                    arguments(folder, epochs, seed),
                    train_dataset=inputs["train"],
                    eval_dataset=inputs["test"],
                    data_collator=reader.collator(tokenizer),
                    processing_class=tokenizer,
                    compute_metrics=reader.metrics(rows["test"], inputs["test"]),
                )
                started = time.perf_counter()
                trainer.train()
                seconds = time.perf_counter() - started
                score = trainer.evaluate()[f"eval_{reader.best_metric}"]
                found[name].append((score, seconds))
                print(f"  seed {seed}  {name:<20} {reader.best_metric} {score:.4f}  {seconds:.0f} s", flush=True)
    compare(f"{task}, {epochs} epochs", str(reader.best_metric), found)


def arguments(folder: str, epochs: int, seed: int, **options: Any) -> TrainingArguments:
    """Return the same arguments for all models: those of transformers' examples, with a larger batch size."""
    return TrainingArguments(
        output_dir=f"{folder}/out",
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        seed=seed,
        use_cpu=True,
        bf16=faster_in_bfloat16(),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        **{"learning_rate": RATE, "warmup_steps": 0.1, **options},
    )


def compare(title: str, metric: str, found: dict[str, list[tuple[float, float]]]) -> None:
    """Print means, standard deviations, and the median speedup over the seeds."""
    print(f"\n{title}")
    reference = [seconds for _, seconds in found[PEERS[0]]]
    for name, results in found.items():
        scores, times = zip(*results, strict=True)
        deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
        ratio = statistics.median(before / now for before, now in zip(reference, times, strict=True))
        print(f"  {name:<20} {metric} {statistics.mean(scores):.4f} ± {deviation:.4f}  {ratio:.2f} x the speed")


def retrieval(epochs: int, seeds: int) -> None:
    """Train retrieval of a docstring's body from its first paragraph, with sentence-transformers' trainer and loss."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    pairs = []
    for doc in documentation(6 * (TRAIN + TEST)):
        first, _, rest = doc.text.partition("\n\n")
        if len(first.split()) >= 4 and len(rest.split()) >= 12:
            pairs.append({"anchor": " ".join(first.split()), "positive": " ".join(rest.split())})
    pairs = pairs[: TRAIN + TEST]
    train, test = Dataset.from_list(pairs[:TRAIN]), pairs[TRAIN:]
    evaluator = InformationRetrievalEvaluator(
        {str(i): pair["anchor"] for i, pair in enumerate(test)},
        {str(i): pair["positive"] for i, pair in enumerate(test)},
        {str(i): {str(i)} for i in range(len(test))},
        main_score_function="cosine",
        write_csv=False,
    )
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in PEERS}
    with tempfile.TemporaryDirectory() as folder:
        convert(MINILM, base_model=True).save_pretrained(folder)
        AutoTokenizer.from_pretrained(MINILM).save_pretrained(folder)
        for seed in range(seeds):
            for name, checkpoint in zip(PEERS, (str(MINILM), folder), strict=True):
                set_seed(seed)
                transformer: Any = Transformer(checkpoint, max_seq_length=LENGTH)
                model = SentenceTransformer(modules=[transformer, Pooling(384, pooling_mode="mean")])
                if not found[name]:
                    print(f"  {name}, before training: nDCG@10 {evaluator(model)['cosine_ndcg@10']:.4f}")
                plain = arguments(folder, epochs, seed, learning_rate=2e-5)
                given = {key: getattr(plain, key) for key, each in plain.__dataclass_fields__.items() if each.init}
                trainer = SentenceTransformerTrainer(
                    model=model,
                    args=SentenceTransformerTrainingArguments(**given),
                    train_dataset=train,
                    loss=MultipleNegativesRankingLoss(model),
                )
                started = time.perf_counter()
                trainer.train()
                seconds = time.perf_counter() - started
                score = evaluator(model)["cosine_ndcg@10"]
                found[name].append((score, seconds))
                print(f"  seed {seed}  {name:<20} nDCG@10 {score:.4f}  {seconds:.0f} s", flush=True)
    compare(f"retrieval, {epochs} epochs", "nDCG@10", found)


def tunings(seeds: int) -> None:
    """Run `sequence-encoder adapt` with each tuning method in a separate process, which also measures its memory."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for split, part in examples_of("classification").items():
            part.to_json(folder / f"{split}.jsonl")
        print(f"\n{'tuning':<10} {'accuracy':<18} {'trained':>12} {'seconds':>8} {'memory, MiB':>12}")
        for tuning in ("full", "lora", "ia3", "adapter", "head"):
            command = [sys.executable, "-m", "sequence_encoder", "adapt", "--task", "classification"]
            command += ["--model", str(MINILM), "--tuning", tuning, "--max_length", str(LENGTH), "--seeds", str(seeds)]
            command += ["--train_file", str(folder / "train.jsonl"), "--test_file", str(folder / "test.jsonl")]
            command += ["--pooling", "mean", "--output_dir", str(folder / tuning), "--disable_tqdm", "True"]
            if tuning == "full":
                # The learning rate of `arguments`. The defaults of the other methods suit small encoders.
                command += ["--learning_rate", str(RATE)]
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds = (time.perf_counter() - started) / seeds
            results = json.loads((folder / tuning / "results.json").read_text())
            accuracy = results["metrics"]["test"]["accuracy"]
            shown = f"{accuracy['mean']:.4f} ± {accuracy['deviation']:.4f}"
            memory = results["peak_memory"] // 2**20
            print(
                f"{tuning:<10} {shown:<18} {results['trained_parameters']:>12,} {seconds:>8.0f} {memory:>12,}",
                flush=True,
            )


def frozen(seeds: int) -> None:
    """Time the epochs of a TaskAdapter, and compare it with logistic regression on random halves of the texts."""
    from sklearn.linear_model import LogisticRegression

    tokenizer, encoder = AutoTokenizer.from_pretrained(MINILM), convert(MINILM, base_model=True)
    rows = [(doc.hidden, doc.library) for doc in documentation(TRAIN + TEST)]
    labels = sorted({label for _, label in rows})
    items = [
        {**tokenizer(text, truncation=True, max_length=LENGTH), "labels": labels.index(label)} for text, label in rows
    ]
    targets, collate = torch.tensor([item["labels"] for item in items]), DataCollatorWithPadding(tokenizer)

    def train(part: list[int], epochs: int) -> TaskAdapter:
        adapter = TaskAdapter(encoder, len(labels), "mean")
        chosen: Any = [items[index] for index in part]
        loader: Any = torch.utils.data.DataLoader(chosen, batch_size=32, shuffle=True, collate_fn=collate)
        train_adapted_model(adapter, loader, epochs, ADAPTER_RATE)
        return adapter

    times = []
    for epochs in (1, FROZEN_EPOCHS):
        started = time.perf_counter()
        train(list(range(TRAIN)), epochs)
        times.append(time.perf_counter() - started)
    further = (times[1] - times[0]) / (FROZEN_EPOCHS - 1)
    print(f"\nfirst epoch {times[0]:.2f} s, later epochs {further:.3f} s: {times[0] / further:.0f} x faster")

    adapter = TaskAdapter(encoder, len(labels), "mean")
    batches = [collate(items[first : first + 64]) for first in range(0, len(items), 64)]
    vectors = torch.cat([adapter.features(batch["input_ids"], batch["attention_mask"]) for batch in batches])
    scores = []
    for seed in range(seeds):
        set_seed(seed)
        order = torch.randperm(len(items)).tolist()
        part, others = order[:TRAIN], order[TRAIN:]
        found = train(part, ADAPTER_EPOCHS)(features=vectors[others]).logits.argmax(-1)
        ours = float((found == targets[others]).float().mean())
        regression = LogisticRegression(max_iter=5000).fit(vectors[part].numpy(), targets[part].numpy())
        scores.append((ours, regression.score(vectors[others].numpy(), targets[others].numpy())))
        print(f"  half {seed}: TaskAdapter {scores[-1][0]:.4f}, logistic regression {scores[-1][1]:.4f}", flush=True)
    means = [statistics.mean(each) for each in zip(*scores, strict=True)]
    print(f"accuracy: TaskAdapter {means[0]:.4f}, logistic regression {means[1]:.4f}")


def main() -> None:
    """Parse the command line, and run the chosen benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["entities", "classification", "retrieval", "tunings", "frozen"], nargs="+")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    print_machine()
    for what in options.what:
        if what == "retrieval":
            retrieval(options.epochs, options.seeds)
        elif what == "tunings":
            tunings(options.seeds)
        elif what == "frozen":
            frozen(options.seeds)
        else:
            fine_tuning({"entities": "ner"}.get(what, what), options.epochs, options.seeds)


if __name__ == "__main__":
    main()
