"""Train one peer of `few_labels.py` on the labelled texts in a folder, and predict the test texts.

    python benchmarks/few_label_peers.py frozen FOLDER MODEL

The folder contains `train.jsonl`, `test.jsonl` and `names.txt`, as `labelled_texts.py` writes them. The process adds
`probabilities.npy`, with a row for each test text and a column for each name, and `seconds.json`: the seconds of CPU
until the peer was trained, its start included. Each peer imports only what it needs.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Predict = Callable[[Sequence[str]], Any]
# Learning rates from which the held-out fifth chooses.
RATES = (2e-5, 1e-4, 5e-4)
# SetFit makes pairs of all texts. More steps than this would take hours for some training sets.
SETFIT_STEPS, SETFIT_BATCH = 200, 16
# The scale of cosines before the softmax.
COSINE_SCALE = 20.0


@dataclass
class Labelled:
    """The training texts with the indexes of their classes, the names of the classes, and the settings."""

    folder: Path
    texts: list[str]
    labels: list[int]
    names: list[str]
    model: str
    length: int
    seed: int


def tfidf(data: Labelled) -> Predict:
    """Fit scikit-learn's logistic regression on TF-IDF, with its defaults."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return (
        make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000)).fit(data.texts, data.labels).predict_proba
    )


def frozen(data: Labelled) -> Predict:
    """Fit scikit-learn's logistic regression on the vectors of the untrained encoder, with its defaults."""
    from sklearn.linear_model import LogisticRegression

    encoder = _encoder(data)
    head = LogisticRegression(max_iter=1000).fit(encoder.encode(data.texts), data.labels)
    return lambda texts: head.predict_proba(encoder.encode(texts))


def setfit(data: Labelled) -> Predict:
    """Train SetFit with its defaults, apart from the limit of its steps."""
    import numpy as np
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    model = SetFitModel.from_pretrained(data.model)
    model.model_body.max_seq_length = data.length
    # A text also makes a pair with itself.
    counts = [data.labels.count(label) for label in range(len(data.names))]
    same = sum(count * (count + 1) // 2 for count in counts)
    pairs = 2 * max(same, len(data.labels) * (len(data.labels) + 1) // 2 - same)
    arguments = TrainingArguments(
        output_dir=str(data.folder / "setfit"),
        batch_size=SETFIT_BATCH,
        max_steps=SETFIT_STEPS if pairs > SETFIT_STEPS * SETFIT_BATCH else -1,
        seed=data.seed,
        report_to="none",
        show_progress_bar=False,
    )
    rows = [{"text": text, "label": label} for text, label in zip(data.texts, data.labels, strict=True)]
    Trainer(model=model, args=arguments, train_dataset=Dataset.from_list(rows)).train()
    return lambda texts: np.asarray(model.predict_proba(list(texts)))


def trainer(data: Labelled) -> Predict:
    """Fine-tune with the defaults of transformers' `Trainer`."""
    return _FineTuned(data, data.texts, data.labels).predict


def trainer_rates(data: Labelled) -> Predict:
    """Fine-tune with the learning rate that has the lowest loss on a held-out fifth, and then on all texts."""
    from sklearn.model_selection import train_test_split

    split = train_test_split(data.texts, data.labels, test_size=0.2, stratify=data.labels, random_state=data.seed)
    texts, held_out, labels, held_out_labels = split
    losses = {rate: _FineTuned(data, texts, labels, rate).loss(held_out, held_out_labels) for rate in RATES}
    return _FineTuned(data, data.texts, data.labels, min(losses, key=lambda rate: losses[rate])).predict


def names(data: Labelled) -> Predict:
    """Compare the vectors of texts with those of the names of the classes, without any label."""
    encoder = _encoder(data)
    vectors = encoder.encode(data.names, convert_to_tensor=True)
    return lambda texts: (COSINE_SCALE * encoder.encode(texts, convert_to_tensor=True) @ vectors.T).softmax(1).numpy()


def adapted(data: Labelled) -> Predict:
    """Load a model that `sequence-encoder adapt` has trained."""
    import numpy as np
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    import sequence_encoder  # noqa: F401  (registers the model)

    model: Any = data.model
    if not Path(model, "config.json").exists():
        # Trained prompts cannot be merged into the encoder, which is beside them.
        from peft import PeftModel

        options = {"id2label": dict(enumerate(data.names))}
        encoder = AutoModelForSequenceClassification.from_pretrained(f"{model}/base", **options)
        model = PeftModel.from_pretrained(encoder, f"{model}/adapter")
    tokenizer = AutoTokenizer.from_pretrained(data.model, model_max_length=data.length)
    classify = pipeline("text-classification", model, tokenizer=tokenizer, top_k=None, truncation=True)

    def predict(texts: Sequence[str]) -> Any:
        scores = ({each["label"]: each["score"] for each in found} for found in classify(list(texts), batch_size=32))
        return np.array([[found[name] for name in data.names] for found in scores])

    return predict


class _FineTuned:
    """A classifier that transformers' `Trainer` has trained."""

    def __init__(self, data: Labelled, texts: Sequence[str], labels: Sequence[int], rate: float | None = None) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed

        set_seed(data.seed)
        self.tokenizer = AutoTokenizer.from_pretrained(data.model, model_max_length=data.length)
        model = AutoModelForSequenceClassification.from_pretrained(data.model, num_labels=len(data.names))
        arguments = TrainingArguments(
            output_dir=str(data.folder / "trainer"),
            use_cpu=True,
            seed=data.seed,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            **({} if rate is None else {"learning_rate": rate}),
        )
        self.trainer = Trainer(
            model, arguments, train_dataset=self._items(texts, labels), processing_class=self.tokenizer
        )
        self.trainer.train()

    def _items(self, texts: Sequence[str], labels: Sequence[int]) -> list[dict[str, Any]]:
        encoded = (self.tokenizer(text, truncation=True) for text in texts)
        return [{**each, "labels": label} for each, label in zip(encoded, labels, strict=True)]

    def loss(self, texts: Sequence[str], labels: Sequence[int]) -> float:
        return float(self.trainer.evaluate(self._items(texts, labels))["eval_loss"])

    def predict(self, texts: Sequence[str]) -> Any:
        from scipy.special import softmax

        return softmax(self.trainer.predict(self._items(texts, [0] * len(texts))).predictions, axis=1)


def _encoder(data: Labelled) -> Any:
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(data.model, device="cpu")
    encoder.max_seq_length = data.length
    return encoder


PEERS = {peer.__name__: peer for peer in (tfidf, frozen, setfit, trainer, trainer_rates, names, adapted)}


def main() -> None:
    """Train the peer, and write its probabilities and seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", help="folder of the encoder, or of the adapted model")
    parser.add_argument("--length", type=int, default=128, help="truncate texts to this many tokens")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = options.folder
    rows = {
        name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("train", "test")
    }
    classes = (folder / "names.txt").read_text(encoding="utf-8").splitlines()
    texts, labels = [row["text"] for row in rows["train"]], [classes.index(row["label"]) for row in rows["train"]]
    data = Labelled(folder, texts, labels, classes, options.model, options.length, options.seed)
    predict = PEERS[options.peer](data)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(each.ru_utime + each.ru_stime for each in used)
    import numpy as np

    np.save(folder / "probabilities.npy", predict([row["text"] for row in rows["test"]]))
    (folder / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")


if __name__ == "__main__":
    main()
