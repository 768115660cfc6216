"""nDCG@10 of a sparse and a late-interaction encoder beside the dense one that they are trained from.

The documents and queries are docstrings, as in `search.py --quality`: the first sentence is a query for the rest. The
training pairs are from the other docstrings. all-MiniLM-L6-v2 was trained on a billion pairs, and these two for
minutes. The table therefore shows that training works, not which kind is best.

    python benchmarks/sparse_search.py [--steps 400] [--documents 4000]
    python benchmarks/sparse_search.py --postings
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from minilm import MINILM
from peers import print_machine
from sentence_transformers import (
    MultiVectorEncoder,
    MultiVectorEncoderTrainer,
    MultiVectorEncoderTrainingArguments,
    SparseEncoder,
    SparseEncoderTrainer,
    SparseEncoderTrainingArguments,
)
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss, SpladeLoss
from sentence_transformers.sparse_encoder.modules import SpladePooling
from transformers import AutoTokenizer

from search import NEIGHBOURS, QUERIES, SHORTEST, gain, write
from sequence_encoder import SearchIndex, SequenceEncoderForMaskedLM, index_corpus
from sequence_encoder.conversion.source import Source
from sequence_encoder.data.documentation import read_documentation
from sequence_encoder.data.windows import sentences
from sequence_encoder.inference.corpora.formats import connect
from sequence_encoder.inference.optimizing.sentence_transformers_inputs import unpad_inputs
from sequence_encoder.search.arguments import MODES
from sequence_encoder.search.postings import Postings, write_postings

HIDDEN, CHANNELS, LENGTH, BATCH, SHIFT = 384, 128, 96, 16, 4.0
ROWS, VOCABULARY, WEIGHTS, QUERY_WEIGHTS = (10_000, 100_000, 1_000_000), 30_522, 100, 30
Pairs = list[tuple[str, str]]


def save_first_module(folder: Path, texts: list[str]) -> None:
    """Save MiniLM with a head for masked language modelling, which it lacks.

    The last layer of the head shares the weights of the embeddings. Least squares fit the layer before it to map the
    state of each token to its embedding, so each text starts with weights for the tokens it contains. The bias keeps
    about a hundred weights per text.
    """
    encoder: Any = Source(str(MINILM)).load(base_model=True)
    tokenizer = AutoTokenizer.from_pretrained(MINILM)
    model: Any = SequenceEncoderForMaskedLM(encoder.config).eval()
    model.model.load_state_dict(encoder.state_dict(), strict=False)
    texts = [text[:500] for text in texts]
    inputs = tokenizer(texts, truncation=True, max_length=LENGTH, padding=True, return_tensors="pt")
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        states = model.model(**inputs).last_hidden_state[real]
        wanted = model.get_input_embeddings()(inputs["input_ids"][real])
        ones = torch.cat([states, torch.ones(len(states), 1)], dim=1)
        found = torch.linalg.lstsq(ones, wanted - wanted.mean(dim=0)).solution
        model.head.dense.weight.copy_(found[:-1].T)
        # GELU changes positive numbers little, and the layer normalisation after it subtracts their mean.
        model.head.dense.bias.copy_(found[-1] + SHIFT)
        largest = [part.amax(dim=0) for part in model.decoder(model.head(states)).split(real.sum(dim=1).tolist())]
        model.decoder.bias.sub_(torch.stack(largest).flatten().sort().values[-WEIGHTS * len(texts)])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(kind: str, source: Path, folder: Path, pairs: Pairs, steps: int) -> None:
    """Train an encoder on pairs of a query and its document, without padding, and save it."""
    lengths = {"model_max_length": LENGTH}
    if kind == "sparse":
        first = Transformer(str(source), transformer_task="fill-mask", processor_kwargs=lengths)
        model: Any = SparseEncoder(modules=[first, SpladePooling("max")])
        loss: Any = SpladeLoss(model, SparseMultipleNegativesRankingLoss(model), 3e-5, 5e-5)
        trainer, arguments = SparseEncoderTrainer, SparseEncoderTrainingArguments
    else:
        tokens = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
        modules = [
            Transformer(str(source), processor_kwargs=lengths),
            Dense(HIDDEN, CHANNELS, bias=False, activation_function=None, **tokens),
            MultiVectorMask(),
            Normalize("token_embeddings"),
        ]
        model = MultiVectorEncoder(modules=modules)
        loss = MultiVectorMultipleNegativesRankingLoss(model, scale=20.0)
        trainer, arguments = MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments
    unpad_inputs(model)
    columns = {"anchor": [query for query, _ in pairs], "positive": [text for _, text in pairs]}
    options = arguments(
        str(folder / "run"),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-4,
        warmup_steps=steps // 10,
        save_strategy="no",
        report_to=[],
        logging_steps=50,
        disable_tqdm=True,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
    )
    started = time.perf_counter()
    trainer(model=model, args=options, train_dataset=Dataset.from_dict(columns), loss=loss).train()
    print(f"{kind}: {steps} steps of {BATCH} pairs in {time.perf_counter() - started:.0f} s", flush=True)
    model.save_pretrained(str(folder))


def measure(index: SearchIndex, held_out: list[tuple[int, str]]) -> None:
    """Print the nDCG@10 of each kind of search, and the seconds of a query."""
    cells = []
    for mode in MODES:
        started = time.perf_counter()
        found = [[hit.id for hit in index.search(query, NEIGHBOURS, mode=mode)] for _, query in held_out]
        seconds = (time.perf_counter() - started) / len(held_out)
        value = statistics.mean(gain(ids, right) for ids, (right, _) in zip(found, held_out, strict=True))
        cells.append(f"{100 * value:.1f} ({1000 * seconds:.0f} ms)")
    print(" | ".join(cells), "|", flush=True)


def measure_postings(folder: Path) -> None:
    """Print the size and the speed of the inverted index, of random weights as frequent as words."""
    rng = np.random.default_rng(0)
    chances = 1 / np.arange(10, 10 + VOCABULARY)
    chances /= chances.sum()
    print("\n| rows | build | size | a query |\n|---|---|---|---|")
    for rows in ROWS:
        indices = np.sort(rng.choice(VOCABULARY, (rows, WEIGHTS), p=chances).astype(np.uint32), axis=1)
        # A text has an entry once.
        is_first = np.ones(indices.shape, bool)
        is_first[:, 1:] = indices[:, 1:] != indices[:, :-1]
        offsets = pa.array(np.concatenate([[0], is_first.sum(axis=1).cumsum()]).astype(np.int32))
        sides = {"indices": indices[is_first], "values": rng.random(int(is_first.sum()), np.float32)}
        lists = [pa.ListArray.from_arrays(offsets, pa.array(side)) for side in sides.values()]
        vectors = pa.StructArray.from_arrays(lists, [*sides])
        columns = {"id": np.arange(rows), "text": ["text"] * rows, "sparse_embedding": vectors}
        table = connect(folder / str(rows)).create_table("embeddings", pa.table(columns))
        started = time.perf_counter()
        write_postings(folder / str(rows), table, "sparse_embedding", VOCABULARY)
        built = time.perf_counter() - started
        size = sum(file.stat().st_size for file in (folder / str(rows) / "postings").iterdir())
        postings = Postings(folder / str(rows), table)
        times = []
        for _ in range(QUERIES // 10):
            entries = np.unique(rng.choice(VOCABULARY, QUERY_WEIGHTS, p=chances))
            started = time.perf_counter()
            postings.nearest((entries, np.ones(len(entries), np.float32)), NEIGHBOURS, None)
            times.append(time.perf_counter() - started)
        cells = f"{built:.1f} s | {size / 2**20:.0f} MiB | {1000 * statistics.median(times):.1f} ms"
        print(f"| {rows:,} | {cells} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--postings", action="store_true")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--documents", type=int, default=4000)
    options = parser.parse_args()
    if options.postings:
        with tempfile.TemporaryDirectory() as name:
            measure_postings(Path(name))
        return
    docs = read_documentation(show_progress=False)
    split = [(found[0], doc.text[len(found[0]) :].strip()) for doc in docs if len(found := sentences(doc.text)) > 2]
    pairs = [(first, rest) for first, rest in split if len(first) > SHORTEST]
    random.Random(0).shuffle(pairs)
    documents, others = pairs[: options.documents], pairs[options.documents :]
    # Docstrings are copied between classes.
    known = {rest for _, rest in documents} | {first for first, _ in documents}
    trained = [(first, rest) for first, rest in others if rest not in known and first not in known]
    held_out = [(number, first) for number, (first, _) in enumerate(documents[:QUERIES])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = write(folder / "documents.jsonl", ({"text": rest} for _, rest in documents))
        save_first_module(folder / "source", [rest for _, rest in trained[:200]])
        for kind in ("sparse", "late interaction"):
            train(kind, folder / "source", folder / kind, trained, options.steps)
        print(f"\n| nDCG@10, {len(documents)} documents | {' | '.join(MODES)} |\n|---|---|---|---|")
        for kind, model in (
            ("dense", str(MINILM)),
            ("sparse", str(folder / "sparse")),
            ("late interaction", str(folder / "late interaction")),
        ):
            started = time.perf_counter()
            index_corpus(model, corpus, folder / f"index of {kind}", max_length=LENGTH)
            print(f"| {kind} (indexed in {time.perf_counter() - started:.0f} s) | ", end="", flush=True)
            index = SearchIndex(folder / f"index of {kind}")
            index.search("a warm-up")
            measure(index, held_out)
            if kind == "sparse":
                indices = index.table.to_arrow()["sparse_embedding"].combine_chunks().field("indices")
                weights = len(indices.flatten()) / len(documents)
        print(f"\nThe sparse encoder gives a text {weights:.0f} weights.")


if __name__ == "__main__":
    print_machine()
    main()
