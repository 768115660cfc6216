"""A training step of zero-shot extraction beside that of the package gliner: the same texts, labels and encoder.

The rows are those that `extraction_rows.py` wrote, some of them joined to longer texts. Both models are GLiNERs over
all-MiniLM-L6-v2. Each is measured in a process of its own, for its memory, with all steps of one batch size in turn:

    OMP_NUM_THREADS=1 python benchmarks/extraction_training.py ROWS
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

STEPS, BATCH, LABELS = 8, 8, 12


def batches(rows: list[dict[str, Any]], ragged: bool) -> list[list[dict[str, Any]]]:
    """Return batches of rows with labels; if `ragged`, of one row up to 16 joined ones."""
    rng = random.Random(0)
    names = sorted({label for row in rows for *_, label in row["ner"]})
    found = []
    for _ in range(STEPS):
        batch = []
        for _ in range(BATCH):
            words: list[str] = []
            ner: list[list[Any]] = []
            for row in rng.sample(rows, rng.choice([1, 1, 2, 4, 8, 16]) if ragged else 1):
                ner += [[a + len(words), b + len(words), label] for a, b, label in row["ner"]]
                words += row["tokenized_text"]
            own = list(dict.fromkeys(label for *_, label in ner))[:LABELS]
            others = [name for name in names if name not in own]
            labels = [*own, *rng.sample(others, LABELS - len(own))]
            kept = [entity for entity in ner if entity[2] in own]
            batch.append({"tokenized_text": words[:300], "ner": [e for e in kept if e[1] < 300], "ner_labels": labels})
        found.append(batch)
    return found


def gliner_step(found: list[list[dict[str, Any]]]) -> Callable[[int], float]:
    """Return a function that takes a step of gliner's trainer."""
    from gliner_peer import build_gliner, make_trainer

    model = build_gliner()
    trainer = make_trainer(model, found[0], "/tmp/unused", max_steps=100)
    trainer.create_optimizer()
    inputs = [trainer.data_collator(batch) for batch in found]

    def step(number: int) -> float:
        model.train()
        loss = trainer.training_step(model, dict(inputs[number]))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        trainer.optimizer.step()
        model.zero_grad()
        return float(loss)

    return step


def our_step(found: list[list[dict[str, Any]]]) -> Callable[[int], float]:
    """Return a function that takes a step of our trainer."""
    from minilm import MINILM
    from transformers import AutoTokenizer, TrainingArguments

    from sequence_encoder import SequenceEncoderForSpanExtraction, convert
    from sequence_encoder.configuration.span_extraction_field import span_extraction_fields
    from sequence_encoder.modeling.extraction.text_windows import Prompt, windows_of_words
    from sequence_encoder.training.adaptation.tasks.extraction import Collator
    from sequence_encoder.training.extraction_trainer import ExtractionTrainer

    tokenizer = AutoTokenizer.from_pretrained(MINILM)
    tokenizer.add_tokens(["<<ENT>>", "<<SEP>>"], special_tokens=True)
    trunk = convert(MINILM)
    config = trunk.config
    config.span_extraction = {"dropout": 0.1}
    model: Any = SequenceEncoderForSpanExtraction(config)
    model.model.load_state_dict(trunk.state_dict(), strict=False)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    ids = map(tokenizer.convert_tokens_to_ids, ("<<ENT>>", "<<SEP>>"))
    config.span_extraction |= dict(zip(("label_token_id", "separator_token_id"), ids, strict=True))
    fields, inputs = span_extraction_fields(config), []
    for batch in found:
        examples = []
        for row in batch:
            prompt = Prompt(tokenizer, row["ner_labels"], fields)
            (window,) = windows_of_words([row["tokenized_text"]], tokenizer, prompt, fields)
            labels = [[a, b, row["ner_labels"].index(label)] for a, b, label in row["ner"]]
            each = {"input_ids": window.ids, "word_ids": window.word_ids, "label_ids": window.label_ids}
            examples.append({**each, "labels": labels})
        inputs.append(Collator(0)(examples))
    args = TrainingArguments(output_dir="/tmp/unused", report_to="none", use_cpu=True, max_steps=100)
    trainer = ExtractionTrainer(model=model, args=args, train_dataset=examples, data_collator=Collator(0))
    optimizer = trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1

    def step(number: int) -> float:
        model.train()
        loss = trainer.training_step(model, dict(inputs[number]))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.zero_grad()
        return float(loss)

    return step


def measure(name: str, rows: list[dict[str, Any]], ragged: bool) -> dict[str, float]:
    """Return the median CPU seconds of a step, and how much memory steps need beyond the model and its optimizer."""
    from peers import peak_since_last

    torch.set_num_threads(1)
    found = batches(rows, ragged)
    step = {"gliner": gliner_step, "ours": our_step}[name](found)
    short = min(range(STEPS), key=lambda number: sum(len(row["tokenized_text"]) for row in found[number]))
    step(short)
    peak_since_last()
    before = resident()
    seconds = []
    for number in range(STEPS):
        started = time.process_time()
        step(number)
        seconds.append(time.process_time() - started)
    return {"seconds": float(np.sum(seconds)), "activations": peak_since_last() - before, "model": before}


def resident() -> float:
    """Return the memory of this process in MiB."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096 / 2**20


def main() -> None:
    """Measure both, in processes of their own."""
    if len(sys.argv) > 2:
        rows = json.loads((Path(sys.argv[1]) / "train.json").read_text("utf-8"))
        print(json.dumps(measure(sys.argv[2], rows, sys.argv[3] == "ragged")))
        return
    for kind in ("sentences", "ragged"):
        found = {}
        for name in ("gliner", "ours"):
            output = subprocess.run([sys.executable, *sys.argv, name, kind], check=True, capture_output=True, text=True)
            found[name] = json.loads(output.stdout.splitlines()[-1])
            line = ", ".join(f"{key} {value:.2f}" for key, value in found[name].items())
            print(f"{kind}, {name}: {line}", flush=True)
        ratios = {key: found["gliner"][key] / found["ours"][key] for key in found["ours"]}
        print(kind, "gliner / ours:", ", ".join(f"{key} {value:.2f}" for key, value in ratios.items()), flush=True)


if __name__ == "__main__":
    main()
