"""Train one peer of `distillation.py` on a corpus, and save it as a folder that sentence-transformers loads.

    python benchmarks/distillation_peers.py layers TEACHER CORPUS FOLDER --layers 3 --seconds 600

`layers` is the example of sentence-transformers for model distillation: evenly spread layers, a mean squared error to
the teacher's vectors, and its learning rate, batch size and warm-up, in bfloat16. `model2vec` distills without texts,
and `tokenlearn` learns from texts, both with their defaults; the teacher's vectors of texts take half of the time.
`featurize` only writes these vectors. Each peer imports only what it needs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Of sentence-transformers' example.
RATE, BATCH, WARMUP = 1e-4, 64, 0.1
TRIAL_STEPS = 30


def layers(options: argparse.Namespace) -> None:
    """Prune layers, and learn the teacher's vectors; the teacher's share of the time counts."""
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MSELoss

    started = time.perf_counter()
    texts = read(options.corpus)
    teacher = SentenceTransformer(options.teacher, device="cpu", model_kwargs={"dtype": torch.bfloat16})
    vectors = teacher.encode(texts, batch_size=BATCH, convert_to_tensor=True).float().numpy()
    student = SentenceTransformer(options.teacher, device="cpu")
    encoder: Any = student[0].auto_model.encoder
    step = len(encoder.layer) // options.layers
    encoder.layer = torch.nn.ModuleList(list(encoder.layer)[step // 2 :: step][: options.layers])
    student[0].auto_model.config.num_hidden_layers = options.layers
    dataset = Dataset.from_dict({"sentence": texts, "label": list(vectors)}).shuffle(seed=0)

    def train(steps: int, output: str) -> float:
        before = time.perf_counter()
        arguments = SentenceTransformerTrainingArguments(
            output_dir=output,
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            warmup_steps=round(WARMUP * steps),
            bf16=True,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        SentenceTransformerTrainer(
            model=student, args=arguments, train_dataset=dataset, loss=MSELoss(model=student)
        ).train()
        return time.perf_counter() - before

    with tempfile.TemporaryDirectory() as output:
        # The trial is a part of the training.
        seconds = train(TRIAL_STEPS, output) / TRIAL_STEPS
        train(max(1, int((options.seconds - (time.perf_counter() - started)) / seconds)), output)
    student.save(str(options.folder))


def model2vec(options: argparse.Namespace) -> None:
    """Make a table of the teacher's vectors of tokens, without texts."""
    from model2vec.distill import distill

    distill(options.teacher, quantize_to="float32").save_pretrained(options.folder)


def tokenlearn(options: argparse.Namespace) -> None:
    """Learn the teacher's mean vectors of texts."""
    import signal

    import torch
    from model2vec.distill import distill
    from sentence_transformers import SentenceTransformer
    from tokenlearn.featurize import featurize
    from tokenlearn.train import train_model
    from tokenlearn.utils import collect_means_and_texts

    started = time.perf_counter()
    torch.manual_seed(0)
    teacher = SentenceTransformer(options.teacher, device="cpu")

    def rows() -> Iterator[dict[str, str]]:
        for text in read(options.corpus):
            if time.perf_counter() - started > options.seconds / 2:
                return
            yield {"text": text}

    with tempfile.TemporaryDirectory() as features:
        featurize(rows(), teacher, features, 10**9, 32, "text")
        texts, vectors = collect_means_and_texts(sorted(Path(features).glob("*.json")))
    print(f"{len(texts):,} texts: {time.perf_counter() - started:.0f} s")
    start = distill(options.teacher, quantize_to="float32", pca_dims=256)
    # It keeps the best weights so far if it is interrupted.
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(max(1, round(options.seconds - (time.perf_counter() - started))))
    train_model(start, texts, vectors, device="cpu", pca_dims=256).save_pretrained(options.folder)


def featurize(options: argparse.Namespace) -> None:
    """Write the vectors that `tokenlearn` learns from."""
    from sentence_transformers import SentenceTransformer
    from tokenlearn.featurize import featurize as write

    rows = ({"text": text} for text in read(options.corpus))
    write(rows, SentenceTransformer(options.teacher, device="cpu"), str(options.folder), 10**9, 32, "text")


def read(corpus: Path) -> list[str]:
    """Return the texts of a file of JSON Lines."""
    return [json.loads(line)["text"] for line in corpus.read_text(encoding="utf-8").splitlines()]


PEERS = {peer.__name__: peer for peer in (layers, model2vec, tokenlearn, featurize)}


def main() -> None:
    """Train the peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("teacher")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=600)
    options = parser.parse_args()
    started = time.perf_counter()
    PEERS[options.peer](options)
    print(f"{options.peer}: {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
