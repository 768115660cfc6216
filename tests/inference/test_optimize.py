"""`optimize` keeps what an object computes, saves and is, and its encoders no longer compute padding."""

from __future__ import annotations

import collections
import copy
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydantic
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from torch import nn
from transformers import AutoModelForSequenceClassification, pipeline

from sequence_encoder import describe, optimize
from sequence_encoder.modeling.cpu.busy_neighbours import _Watch
from sequence_encoder.tests.fixtures.family_folders import FAMILIES, SINCE, add_modules, build, save
from sequence_encoder.tests.fixtures.ragged_batches import assert_same, leaves_out_padding, ragged, states

EVERY_FAMILY = [
    pytest.param(name, marks=pytest.mark.since("transformers", SINCE[name], "has it") if name in SINCE else ())
    for name in FAMILIES
]
TEXTS = ["a text about the red cat", "this model is software.", "x", "the dog lives in berlin, the cat is about red"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_modules(save(tmp_path_factory.mktemp("models") / "bert", "bert"))


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_encoders_of_every_family_compute_the_same_without_padding(family: str, tmp_path: Path) -> None:
    original, _ = build(family)
    model = copy.deepcopy(original)
    assert optimize(model) is model
    batch = ragged(model)
    assert_same(model, original, batch)
    assert leaves_out_padding(model, batch)
    assert not leaves_out_padding(original, batch)
    assert isinstance(model, type(original))
    assert model(**batch).keys() == original(**batch).keys()
    assert [each.shape for each in model(**batch, return_dict=False)] == [
        each.shape for each in original(**batch, return_dict=False)
    ]
    assert "without padding" in describe(model)
    for each, name in ((original, "before"), (model, "after")):
        each.save_pretrained(tmp_path / name)
    before, after = ({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("before", "after"))
    assert before == after


@pytest.mark.parametrize("family", ["bert", "deberta", "modernbert", "albert"])
def test_gradients_reach_the_weights_of_the_original(family: str) -> None:
    original, _ = build(family)
    model = optimize(copy.deepcopy(original), training=True)
    batch = ragged(model)
    for each in (original, model):
        (each(**batch)[0] * batch["attention_mask"][..., None]).square().sum().backward()
    expected = {name: parameter.grad for name, parameter in original.named_parameters() if parameter.grad is not None}
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4 * max(1.0, gradient.abs().max().item()))


def test_sentence_transformers_keeps_its_vectors_and_its_files(folder: Path, tmp_path: Path) -> None:
    original = SentenceTransformer(str(folder), device="cpu")
    model = optimize(SentenceTransformer(str(folder), device="cpu"))
    assert describe(model) == "0.model: BertModel computes without padding, in float32"
    np.testing.assert_allclose(model.encode(TEXTS), original.encode(TEXTS), rtol=0, atol=1e-5)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert "without padding" in describe(again)
        np.testing.assert_allclose(again.encode(TEXTS), original.encode(TEXTS), rtol=0, atol=1e-5)
    model.save(str(tmp_path / "saved"))
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert "as it was" in describe(again)
    np.testing.assert_allclose(again.encode(TEXTS), original.encode(TEXTS), rtol=0, atol=1e-6)


def test_sparse_and_cross_encoders_keep_their_scores(tmp_path: Path) -> None:
    save(tmp_path / "mlm", "bert", "ForMaskedLM")
    sparse = SparseEncoder(str(tmp_path / "mlm"), device="cpu")
    expected = sparse.encode(TEXTS).to_dense()
    torch.testing.assert_close(optimize(sparse).encode(TEXTS).to_dense(), expected, rtol=0, atol=1e-5)
    save(tmp_path / "reranker", "roberta", "ForSequenceClassification", num_labels=1)
    reranker = CrossEncoder(str(tmp_path / "reranker"), device="cpu")
    pairs = [(one, other) for one in TEXTS for other in TEXTS]
    scores = reranker.predict(pairs)
    np.testing.assert_allclose(optimize(reranker).predict(pairs), scores, rtol=0, atol=1e-5)
    assert "without padding" in describe(reranker)


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "fill-mask", "feature-extraction"])
def test_pipelines_keep_their_results(task: str) -> None:
    heads = {"text-classification": "ForSequenceClassification", "token-classification": "ForTokenClassification"}
    model, tokenizer = build("bert", {**heads, "fill-mask": "ForMaskedLM"}.get(task, "Model"))
    texts = [f"{text} [MASK]" for text in TEXTS]
    pipe = pipeline(task, model=model, tokenizer=tokenizer, device="cpu", batch_size=4)
    expected = pipe(texts)
    found = optimize(pipe)(texts)
    assert "without padding" in describe(pipe)
    if task == "feature-extraction":
        for one, other, text in zip(found, expected, texts, strict=True):
            length = len(tokenizer(text)["input_ids"])
            np.testing.assert_allclose(one[0][:length], other[0][:length], rtol=0, atol=1e-5)
        return
    flat = [[each for row in rows for each in (row if isinstance(row, list) else [row])] for rows in (found, expected)]
    names = [[each.get("label", each.get("entity", each.get("token_str"))) for each in rows] for rows in flat]
    assert names[0] == names[1]
    scores = [[each["score"] for each in rows] for rows in flat]
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-5)


def test_encoders_are_found_wherever_an_object_holds_them(folder: Path) -> None:
    class Custom(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = build("distilbert")[0]
            self.out = nn.Linear(24, 2)

    inner = SimpleNamespace(model_body=SentenceTransformer(str(folder), device="cpu"), name="x", numbers=[1, 2])
    holder = SimpleNamespace(client=inner, heads={"first": Custom()}, itself=None)
    holder.itself = holder
    optimize(holder)
    assert describe(holder).splitlines() == [
        "client.model_body.0.model: BertModel computes without padding, in float32",
        "heads.first.backbone: DistilBertModel computes without padding, in float32",
    ]


@pytest.mark.parametrize("family", ["albert", "bert"])
def test_encoders_may_have_no_pooler(family: str) -> None:
    model, _ = build(family, "ForTokenClassification")
    assert "without padding" in describe(optimize(model))


class Embedder(pydantic.BaseModel):
    """An embedder that keeps its model in a private attribute, as LangChain's do."""

    _client: Any = pydantic.PrivateAttr(default=None)


class Slotted:
    __slots__ = ("first", "second")


class Closed(collections.UserList[int]):
    """A data set that can no longer be read, with attributes that can no longer be computed."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("closed")

    __getitem__ = __iter__ = __getattr__  # type: ignore[assignment]


def test_private_attributes_and_objects_that_raise_are_looked_at() -> None:
    embedder, slotted = Embedder(), Slotted()
    embedder._client, slotted.first = collections.deque([build("bert")[0]]), Closed()
    slotted.second = SimpleNamespace(embedder=embedder, models={build("distilbert")[0]})
    optimize(slotted)
    assert describe(slotted).splitlines() == [
        "second.embedder.__pydantic_private__._client.0: BertModel computes without padding, in float32",
        "second.models.0: DistilBertModel computes without padding, in float32",
    ]


def test_what_has_no_counterpart_is_left_alone_and_named() -> None:
    model, _ = build("bert", is_decoder=True)
    batch = ragged(model)
    before = states(model, batch)
    optimize(model)
    torch.testing.assert_close(states(model, batch), before, rtol=0, atol=0)
    assert describe(model).startswith("model: BertModel computes as it was: is_decoder=True is not supported")
    for wrong, words in ((SimpleNamespace(x=1), "SimpleNamespace"), ("a name", "str")):
        with pytest.raises(ValueError, match=f"must have an encoder of transformers inside, got a {words}"):
            optimize(wrong)
    with pytest.raises(ValueError, match="exact=False is for inference only"):
        optimize(model, exact=False, training=True)


def test_lower_precision_keeps_the_dtype_and_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    original, _ = build("bert")
    model = copy.deepcopy(original)
    # Which dtype is faster for such a small model is a matter of chance.
    monkeypatch.setattr("sequence_encoder.inference.optimizing.optimize.chosen_dtype", lambda encoder: torch.bfloat16)
    optimize(model, exact=False)
    assert describe(model) == "model: BertModel computes without padding, in bfloat16"
    batch = ragged(model)
    found, expected = states(model, batch), states(original, batch)
    assert model(**batch)[0].dtype == torch.float32
    real = batch["attention_mask"] != 0
    assert (torch.cosine_similarity(found[real], expected[real]) > 0.99).all()
    assert (found[real] - expected[real]).abs().max() > 1e-5
    for one, other in zip(model.state_dict().values(), original.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    # The copies in oneDNN's layout need weights that count their changes.
    again = copy.deepcopy(model)
    with torch.inference_mode():
        again(**batch)
        copied = again.__dict__["_linked_encoder"].encoder.prepare(training=False)
    assert copied.dtype == torch.bfloat16
    assert not any(parameter.is_inference() for parameter in copied.parameters())
    # Training is exact.
    torch.testing.assert_close(model(**batch)[0][real], original(**batch)[0][real], rtol=0, atol=1e-5)


def test_heads_train_with_an_unmodified_optimizer() -> None:
    losses = []
    for optimized in (False, True):
        torch.manual_seed(0)
        model = build("bert", "ForSequenceClassification", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)[0]
        assert isinstance(model, type(AutoModelForSequenceClassification.from_config(model.config)))
        model.train()
        if optimized:
            optimize(model, training=True)
            model.gradient_checkpointing_enable()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batch = ragged(model)
        # Trainer gives the head the number of targets, which the head passes on.
        padding = model.base_model(**batch, num_items_in_batch=torch.tensor(6))[0][batch["attention_mask"] == 0]
        assert optimized is not bool(padding.any())
        steps = []
        for _ in range(3):
            loss = model(**batch, labels=torch.arange(6) % 2).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            steps.append(loss.item())
        losses.append(steps)
    np.testing.assert_allclose(*losses, rtol=0, atol=1e-4)
    assert losses[0][0] > losses[0][-1]


def test_starved_threads_are_told_from_working_ones() -> None:
    watch = _Watch()
    assert [watch.starved(1.0, 1.9, 2) for _ in range(4)] == [False] * 4
    # The last four seconds count, of which the threads got a third.
    assert [watch.starved(1.0, 0.6, 2) for _ in range(4)] == [False, True, False, False]


class SpanMarkerV0(nn.Module):
    """A span representation by GLiNER's formula, with the names of its parts."""

    def __init__(self, size: int = 12, max_width: int = 3) -> None:
        super().__init__()
        self.max_width = max_width
        self.project_start, self.project_end = nn.Linear(size, size), nn.Linear(size, size)
        layers = (nn.Linear(2 * size, 4 * size), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4 * size, size))
        self.out_project = nn.Sequential(*layers)

    def forward(self, h: torch.Tensor, span_idx: torch.Tensor) -> torch.Tensor:
        texts = torch.arange(len(h))[:, None]
        ends = [layer(h)[texts, span_idx[..., i]] for i, layer in enumerate((self.project_start, self.project_end))]
        return self.out_project(torch.cat(ends, dim=-1).relu()).view(len(h), -1, self.max_width, h.shape[-1])


def test_span_markers_compute_the_same_spans() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"encoder": build("deberta")[0], "marker": SpanMarkerV0()}).eval()
    original = copy.deepcopy(model["marker"])
    words, lengths = torch.randn(3, 7, 12), torch.tensor([7, 4, 1])
    starts = torch.arange(7).repeat_interleave(3)
    spans = torch.stack([starts, starts + torch.arange(3).repeat(7)], dim=-1).expand(3, -1, 2)
    spans = spans * (spans[..., 1] < lengths[:, None])[..., None]
    optimize(model)
    assert describe(model).splitlines()[1] == "marker: SpanMarkerV0 computes words once"
    labels = torch.randn(3, 2, 12)
    expected = original(words, spans)
    for each in (model["marker"], copy.deepcopy(model["marker"]), pickle.loads(pickle.dumps(model["marker"]))):
        found = each(words, spans)
        assert found.shape == expected.shape
        scores = torch.einsum("BLKD,BCD->BLKC", found, labels)
        torch.testing.assert_close(scores, torch.einsum("BLKD,BCD->BLKC", expected, labels), rtol=0, atol=1e-5)
        # GLiNER's decoders and its models for relations also use the vectors.
        torch.testing.assert_close(found + 0, expected, rtol=0, atol=1e-6)
    compiled = torch.compile(model["marker"], backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(words, spans), expected, rtol=0, atol=1e-6)
    # Spans that a user names are no windows of words.
    named = torch.tensor([[[0, 2], [3, 3], [1, 1]]]).expand(3, -1, -1)
    scores = torch.einsum("BLKD,BCD->BLKC", model["marker"](words, named), labels)
    torch.testing.assert_close(
        scores, torch.einsum("BLKD,BCD->BLKC", original(words, named), labels), rtol=0, atol=1e-5
    )
    for each in (model["marker"], original):
        each.train()
        torch.manual_seed(0)
        each(words, spans).square().sum().backward()
    for one, other in zip(model["marker"].parameters(), original.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)
