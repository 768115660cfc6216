"""BGE-M3 is carried over with its heads, and gives the representations that its authors define.

The reference uses transformers' XLM-R and the definitions of the paper (https://arxiv.org/abs/2402.03216) and of
FlagEmbedding (https://github.com/FlagOpen/FlagEmbedding).
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoTokenizer,
    RobertaModel,
    Trainer,
    TrainingArguments,
    XLMRobertaModel,
)

from sequence_encoder import SequenceEncoderForRetrieval, SequenceEncoderModel, convert
from sequence_encoder.__main__ import main
from sequence_encoder.conversion.inspection import inspect
from sequence_encoder.modeling.text_encoding.multi_scores import vocabulary_weights
from sequence_encoder.tests.fixtures import family_folders

HIDDEN, CHANNELS = 24, 10
HEADS = ("sparse_linear", "colbert_linear")
TEXTS = ["a cat of the cat", "the text of the software is about the cat of the text", "dog", "Ω a model", ""]
PAIRS = [(TEXTS[0], TEXTS[3]), (TEXTS[1], TEXTS[3]), (TEXTS[2], TEXTS[0])]
SCORES = ("dense", "sparse", "colbert", "sparse+dense", "colbert+sparse+dense")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny folder with the files of BGE-M3: its heads are in float16, its encoder in float32."""
    torch.manual_seed(0)
    options = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    folder = family_folders.save(tmp_path_factory.mktemp("source") / "bge-m3", "xlm-roberta", **options)
    family_folders.add_modules(folder, "cls")
    (folder / "README.md").write_text("A tiny BGE-M3.")
    return family_folders.add_retrieval_heads(folder, CHANNELS)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def converted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the command makes of it."""
    target = tmp_path_factory.mktemp("target") / "ours"
    main(["convert", str(folder), "--output_dir", str(target)])
    return target


@pytest.fixture(scope="module")
def model(folder: Path) -> SequenceEncoderForRetrieval:
    return convert(folder)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def expected(folder: Path, tokenizer: Any) -> dict[str, Any]:
    """Return the representations of the texts, one at a time."""
    encoder = XLMRobertaModel.from_pretrained(folder).eval()
    heads = {head: torch.load(folder / f"{head}.pt") for head in HEADS}
    found: dict[str, Any] = {"dense_vecs": [], "lexical_weights": [], "colbert_vecs": []}
    unused = {tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            states = encoder(ids).last_hidden_state[0]
        sparse, multi = (states @ heads[head]["weight"].float().T + heads[head]["bias"].float() for head in HEADS)
        weights: dict[str, float] = {}
        for token, weight in zip(ids[0].tolist(), sparse[:, 0].relu().tolist(), strict=True):
            if token not in unused and weight > 0:
                weights[str(token)] = max(weight, weights.get(str(token), 0))
        found["dense_vecs"].append(F.normalize(states[0], dim=0).numpy())
        found["lexical_weights"].append(weights)
        found["colbert_vecs"].append(F.normalize(multi[1:], dim=1).numpy())
    assert sum(map(len, found["lexical_weights"])) > 5
    return found


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    np.testing.assert_allclose(actual["dense_vecs"], expected["dense_vecs"], atol=1e-5)
    for one, other in zip(actual["lexical_weights"], expected["lexical_weights"], strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    for one, other in zip(actual["colbert_vecs"], expected["colbert_vecs"], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("max_tokens", [1, 12, 2048])
def test_one_pass_gives_the_representations_of_the_reference(
    model: SequenceEncoderForRetrieval, tokenizer: Any, expected: dict[str, Any], max_tokens: int
) -> None:
    found = model.encode_multi(TEXTS, tokenizer, max_tokens=max_tokens)
    assert_same(found, expected)
    np.testing.assert_allclose(found["dense_vecs"], model.encode(TEXTS, tokenizer), atol=1e-6)


def test_only_what_is_requested_is_returned(model: SequenceEncoderForRetrieval, tokenizer: Any) -> None:
    found = model.encode_multi(TEXTS[0], tokenizer, return_dense=False, dtype=torch.float16, max_length=4)
    assert found["dense_vecs"] is None
    assert type(found["lexical_weights"]) is dict
    assert (found["colbert_vecs"].shape, found["colbert_vecs"].dtype) == ((3, CHANNELS), np.float16)
    part = model.encode_multi(TEXTS, tokenizer, return_sparse=False, return_colbert_vecs=False, convert_to_tensor=True)
    assert isinstance(part.pop("dense_vecs"), torch.Tensor)
    assert set(part.values()) == {None}
    nothing = model.encode_multi([], tokenizer)
    assert (nothing["dense_vecs"].shape, nothing["lexical_weights"], nothing["colbert_vecs"]) == ((0, HIDDEN), [], [])
    with pytest.raises(ValueError, match="At least one of return_dense"):
        model.encode_multi(TEXTS, tokenizer, return_dense=False, return_sparse=False, return_colbert_vecs=False)
    with pytest.raises(ValueError, match="NumPy has no bfloat16"):
        model.encode_multi(TEXTS, tokenizer, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"sentences\[\d+\] must be a string, got a int"):
        model.encode_multi([1], tokenizer)  # type: ignore[list-item]


def test_scores_are_those_of_the_reference(
    model: SequenceEncoderForRetrieval, tokenizer: Any, expected: dict[str, Any]
) -> None:
    weights = (0.4, 0.2, 0.5)
    found = model.compute_score(PAIRS, tokenizer, weights)
    assert sorted(found) == sorted(SCORES)
    vectors = model.encode_multi(TEXTS, tokenizer)
    every = model.similarity(vectors, vectors, weights)
    assert {scores.shape for scores in every.values()} == {(len(TEXTS), len(TEXTS))}
    for pair, (one, other) in enumerate([TEXTS.index(query), TEXTS.index(text)] for query, text in PAIRS):
        first, second = expected["lexical_weights"][one], expected["lexical_weights"][other]
        products = expected["colbert_vecs"][one] @ expected["colbert_vecs"][other].T
        dense = expected["dense_vecs"][one] @ expected["dense_vecs"][other]
        sparse = sum(weight * second.get(token, 0) for token, weight in first.items())
        multi = products.max(axis=1).mean()
        both = (0.4 * dense + 0.2 * sparse) / 0.6
        means = (dense, sparse, multi, both, (0.4 * dense + 0.2 * sparse + 0.5 * multi) / 1.1)
        for name, score in zip(SCORES, means, strict=True):
            assert found[name][pair] == pytest.approx(score, abs=1e-4), name
            assert every[name][one, other].item() == pytest.approx(score, abs=1e-4), name
    assert found["sparse"][0] > 0
    assert model.compute_score(PAIRS[0], tokenizer)["dense"] == pytest.approx(found["dense"][0])
    with pytest.raises(ValueError, match=r"weights must be three finite numbers .* got \(1, -1, 1\)"):
        model.compute_score(PAIRS, tokenizer, (1, -1, 1))
    with pytest.raises(ValueError, match="queries must have lexical_weights"):
        model.similarity({**vectors, "lexical_weights": None}, vectors)
    with pytest.raises(ValueError, match="documents must be those of a list of texts, got those of a single text"):
        model.similarity(vectors, model.encode_multi(TEXTS[0], tokenizer))
    for pairs, message in (
        ([PAIRS[0], ("a",)], r"\('a',\)"),
        ("ab", "'ab'"),
        ([("a", "b", "c")], r"\('a', 'b', 'c'\)"),
    ):
        with pytest.raises(ValueError, match=f"sentence_pairs must be pairs of a query and a document, got {message}"):
            model.compute_score(pairs, tokenizer)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_has_the_same_outputs(
    model: SequenceEncoderForRetrieval, tokenizer: Any, expected: dict[str, Any], side: str
) -> None:
    batch = tokenizer(TEXTS, padding=True, padding_side=side, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**batch)
    assert outputs.token_weights.min() == 0
    found: dict[str, Any] = {"dense_vecs": outputs.dense_vecs, "lexical_weights": [], "colbert_vecs": []}
    for row, real in enumerate(batch["attention_mask"].bool()):
        words = vocabulary_weights(outputs.token_weights[row, real][None], batch["input_ids"][row, real][None], 60)[0]
        found["lexical_weights"].append({str(token): float(words[token]) for token in words.nonzero()[:, 0].tolist()})
        found["colbert_vecs"].append(outputs.colbert_vecs[row, real][1:])
        assert not outputs.colbert_vecs[row, real][0].any()
        assert not outputs.colbert_vecs[row, ~real].any()
        assert not outputs.token_weights[row, ~real].any()
    assert_same(found, expected)


def loss_of_pairs(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Return the cross entropy of the scores of each query, in the even rows, with the documents in the odd rows."""
    words = vocabulary_weights(outputs.token_weights, labels, 60)
    products = torch.einsum("qic,djc->qdij", outputs.colbert_vecs[::2], outputs.colbert_vecs[1::2])
    dense, sparse = (each[::2] @ each[1::2].T for each in (outputs.dense_vecs, words))
    scores = dense + 0.01 * sparse + products.amax(dim=-1).mean(dim=-1)
    return F.cross_entropy(scores / 0.05, torch.arange(len(scores)))


def test_the_trainer_trains_the_encoder_and_both_heads(folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    model: Any = convert(folder)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    batch = dict(tokenizer(TEXTS[:4], padding=True, return_tensors="pt"))
    arguments = TrainingArguments(
        tmp_path,
        per_device_train_batch_size=4,
        max_steps=6,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        # The loss reads the ids of the tokens as labels, which the model does not take.
        remove_unused_columns=False,
    )
    trainer = Trainer(
        model,
        arguments,
        lambda rows: {**batch, "labels": batch["input_ids"]},
        train_dataset=[0] * 4,  # type: ignore[arg-type]
        compute_loss_func=loss_of_pairs,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    unchanged = {name for name, weight in model.named_parameters() if torch.equal(weight, before[name])}
    assert {name.partition(".")[0] for name in unchanged} <= {"pooler"}


def test_converted_back_the_files_are_those_that_flag_embedding_reads(
    folder: Path, converted: Path, tmp_path: Path
) -> None:
    assert "roberta" in inspect(converted).back
    main(["convert", str(converted), "--output_dir", str(tmp_path / "back"), "--to", "roberta"])
    original = XLMRobertaModel.from_pretrained(folder).state_dict()
    back = AutoModel.from_pretrained(tmp_path / "back")
    assert type(back) is RobertaModel
    assert all(torch.equal(weight, original[name]) for name, weight in back.state_dict().items())
    for head, outputs in zip(HEADS, (1, CHANNELS), strict=True):
        layer = torch.nn.Linear(HIDDEN, outputs)
        layer.load_state_dict(torch.load(tmp_path / "back" / f"{head}.pt", weights_only=True))
        given = torch.load(folder / f"{head}.pt")
        assert torch.equal(layer.weight, given["weight"].float())
        assert torch.equal(layer.bias, given["bias"].float())
    assert (tmp_path / "back" / "modules.json").read_text() == (folder / "modules.json").read_text()


def test_only_the_command_converts_the_heads_back(model: SequenceEncoderForRetrieval, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no class for SequenceEncoderForRetrieval.*base_model=True"):
        convert(model, to="roberta")
    assert type(convert(model, to="roberta", base_model=True)) is RobertaModel
    assert type(convert(folder, base_model=True)) is SequenceEncoderModel


class Bomb:
    """Runs a program when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def with_compression(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)


def state(weight: Any, bias: Any) -> dict[str, Any]:
    return {"weight": weight, "bias": bias}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: torch.save(Bomb(path.with_name("trace")), path), "cannot be read as the weights"),
        (lambda path: path.write_bytes(pickle.dumps(Bomb(path.with_name("trace")))), "cannot be read as the weights"),
        (with_compression, "it is compressed"),
        (lambda path: path.write_bytes(path.read_bytes()[:99]), "cannot be read as the weights"),
        (lambda path: torch.save([torch.ones(2)], path), "must contain a weight and a bias, got a list"),
        (lambda path: torch.save({"weight": torch.ones(3, HIDDEN)}, path), "must contain a weight and a bias"),
        (lambda path: torch.save(state(torch.ones(3, HIDDEN), 3.0), path), "bias in .* must be a floating tensor"),
        (
            lambda path: torch.save(state(torch.ones(1, HIDDEN).expand(9000, -1), torch.ones(9000)), path),
            "weight in .* must be a floating tensor",
        ),
        (lambda path: torch.save(state(torch.ones(3, 7), torch.ones(3)), path), "does not fit .*hidden_size=24"),
        (lambda path: path.unlink(), r"lacks colbert_linear\.pt"),
    ],
    ids=["bomb", "pickle", "compressed", "cut", "list", "keys", "number", "repeated", "shape", "missing"],
)
def test_a_file_with_anything_but_the_weights_of_a_head_is_refused(
    folder: Path, tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in folder.iterdir():
        if path.is_file() and path.name not in ("modules.json",):
            (source / path.name).write_bytes(path.read_bytes())
    damage(source / "colbert_linear.pt")
    with pytest.raises(ValueError, match=message):
        convert(source)
    assert not (source / "trace").exists()
    assert type(convert(source, base_model=True)) is SequenceEncoderModel
