"""`optimize`: models of sentence-transformers give the same vectors and gradients with concatenated texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sequence_encoder
from sequence_encoder import SequenceEncoderTokenizer, optimize

pytest.importorskip("sentence_transformers.multi_vector_encoder", reason="needs sentence-transformers 6")

from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sparse_encoder.modules import SpladePooling

Build = Callable[..., Any]
TEXTS = ["model", "the model reads a text and returns one vector", "a short text", "whole tokens of the text"]
KINDS: dict[str, tuple[type, str, str, Callable[[], list[Any]]]] = {
    "sparse": (SparseEncoder, "ForMaskedLM", "fill-mask", lambda: [SpladePooling("max")]),
    "sparse, sum": (SparseEncoder, "ForMaskedLM", "fill-mask", lambda: [SpladePooling("sum", "log1p_relu")]),
    "several vectors": (MultiVectorEncoder, "Model", "feature-extraction", lambda: [MultiVectorMask()]),
    "one vector": (SentenceTransformer, "Model", "feature-extraction", lambda: [Pooling(24, "mean")]),
}


@pytest.fixture(scope="module")
def build(tiny_config: Build, randomize: Build, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return `build(kind, preset)`, which makes a model of sentence-transformers."""
    tokenizer = SequenceEncoderTokenizer.train_from_iterator(TEXTS * 3, vocab_size=90, show_progress=False)

    def make(kind: str, preset: str) -> Any:
        wrapper, head, task, modules = KINDS[kind]
        folder = tmp_path_factory.mktemp("model")
        config = tiny_config(preset, **dict.fromkeys(("embedding_dropout", "hidden_dropout", "attention_dropout"), 0.0))
        network = randomize(getattr(sequence_encoder, f"SequenceEncoder{head}")(config))
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return wrapper(modules=[Transformer(str(folder), transformer_task=task), *modules()])

    return make


def tensors(vectors: Any) -> list[torch.Tensor]:
    return [torch.as_tensor(vector) for vector in vectors]


@pytest.mark.parametrize("preset", ["bert", "mpnet", "modernbert"])
@pytest.mark.parametrize("kind", KINDS)
def test_vectors_and_gradients_stay_the_same(build: Build, kind: str, preset: str) -> None:
    model = build(kind, preset)
    options = {"convert_to_sparse_tensor": False} if kind.startswith("sparse") else {}
    expected = tensors(model.encode(TEXTS, **options))
    gradients = []
    model.train()
    for unpadded in (False, True):
        if unpadded:
            optimize(model, training=True)
        features = model.preprocess(TEXTS)
        assert ("attention_mask" in features) != unpadded
        assert features["input_ids"].shape[0] == (1 if unpadded else len(TEXTS))
        outputs = model(features)
        if kind == "several vectors":
            kept = outputs["token_embeddings"][outputs["attention_mask"].bool()]
        else:
            kept = outputs["sentence_embedding"]
        (kept * torch.linspace(-1, 1, kept.numel()).view_as(kept)).sum().backward()
        gradients.append(model[0].auto_model.get_input_embeddings().weight.grad.clone())
        model.zero_grad()
    for found, other in zip(tensors(model.encode(TEXTS, **options)), expected, strict=True):
        torch.testing.assert_close(found, other, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


def test_a_saved_folder_is_an_ordinary_one(build: Build, tmp_path: Path) -> None:
    model = build("sparse", "bert")
    optimize(model, training=True)
    model.save_pretrained(str(tmp_path))
    again = SparseEncoder(str(tmp_path))
    assert not again[0].can_flatten_inputs
    torch.testing.assert_close(again.encode(TEXTS).to_dense(), model.encode(TEXTS).to_dense(), atol=1e-5, rtol=1e-4)
