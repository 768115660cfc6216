"""Sparse, late-interaction and dense encoders of sentence-transformers, with padding and with `unpad_inputs`.

python benchmarks/unpadded_inputs.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from minilm import MINILM
from peers import interleaved, print_machine, print_table, short_texts
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sparse_encoder.modules import SpladePooling
from transformers import AutoTokenizer, BertForMaskedLM

from sequence_encoder import convert
from sequence_encoder.inference.optimizing.sentence_transformers_inputs import unpad_inputs

TEXTS, TRAINED, BATCH = 512, 128, 32
# A bias of the vocabulary with which about a hundred of its entries are not zero, as in a trained sparse encoder.
BIAS = -1.0
HIDDEN, CHANNELS = 384, 128
KINDS: dict[str, tuple[type, str, Callable[[], list[Any]]]] = {
    "sparse": (SparseEncoder, "fill-mask", lambda: [SpladePooling("max")]),
    "late interaction": (
        MultiVectorEncoder,
        "feature-extraction",
        lambda: [
            Dense(
                HIDDEN,
                CHANNELS,
                bias=False,
                module_input_name="token_embeddings",
                module_output_name="token_embeddings",
            ),
            MultiVectorMask(),
        ],
    ),
    "dense": (SentenceTransformer, "feature-extraction", lambda: [Pooling(HIDDEN, "mean")]),
}


def save_models(folder: Path) -> None:
    """Save BERT with MiniLM's weights and a random head for masked language modelling, and the converted model."""
    bert, tokenizer = BertForMaskedLM.from_pretrained(MINILM), AutoTokenizer.from_pretrained(MINILM)
    torch.nn.init.constant_(bert.cls.predictions.bias, BIAS)
    for name, model in (("bert", bert), ("ours", convert(bert))):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def train(model: Any, texts: list[str]) -> None:
    """Compute gradients for batches of texts in their order."""
    model.train()
    for first in range(0, TRAINED, BATCH):
        outputs = model(model.preprocess(texts[first : first + BATCH]))
        vectors = outputs.get("sentence_embedding", outputs["token_embeddings"])
        vectors.square().mean().backward()
        model.zero_grad()


def main() -> None:
    """Print the tables."""
    texts, tokenizer = short_texts(TEXTS), AutoTokenizer.from_pretrained(MINILM)
    lengths = [len(ids) for ids in tokenizer(texts)["input_ids"]]
    with tempfile.TemporaryDirectory() as name:
        save_models(Path(name))
        for kind, (wrapper, task, modules) in KINDS.items():
            models = {}
            for label, source in (("BERT", "bert"), ("ours", "ours"), ("ours, unpadded", "ours")):
                first = Transformer(
                    f"{name}/{source}", transformer_task=task, processor_kwargs={"model_max_length": 256}
                )
                models[label] = wrapper(modules=[first, *modules()])
            unpad_inputs(models["ours, unpadded"])
            encode = {label: partial(model.encode, texts, show_progress_bar=False) for label, model in models.items()}
            print_table(f"{kind}, encode", interleaved(encode, 4), sum(lengths), "BERT")
            steps = {label: partial(train, model, texts) for label, model in models.items()}
            print_table(f"{kind}, gradients", interleaved(steps, 3), sum(lengths[:TRAINED]), "BERT")


if __name__ == "__main__":
    print_machine()
    main()
