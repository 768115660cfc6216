"""Static students: what a teacher says about the tokens of its vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sequence_encoder import SequenceEncoderModel, SequenceEncoderTokenizer, static_encoder
from sequence_encoder.modeling.text_encoding.embedding_recipe import EmbeddingRecipe, Normalize
from sequence_encoder.tests.fixtures.texts import TEXTS
from sequence_encoder.training.distillation.static_student import distill_static, static_from_vocabulary


@pytest.fixture(scope="module")
def tokenizer() -> SequenceEncoderTokenizer:
    return SequenceEncoderTokenizer.train_from_iterator(TEXTS, vocab_size=97, show_progress=False)


def teacher_with(tiny_config: Any, randomize: Any, pooling: str) -> SequenceEncoderModel:
    teacher: SequenceEncoderModel = randomize(SequenceEncoderModel(tiny_config("bert")))
    teacher.embedding_recipe = EmbeddingRecipe(pooling=(pooling,), after=(Normalize(),))
    return teacher


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_token_has_the_vector_of_the_teacher_weighted_by_rank(
    pooling: str, tiny_config: Callable[..., Any], randomize: Callable[..., Any], tokenizer: SequenceEncoderTokenizer
) -> None:
    teacher = teacher_with(tiny_config, randomize, pooling)
    model, own = static_from_vocabulary(teacher, tokenizer, dim=24)
    table = model.embed_tokens.weight.detach()
    special = sorted(tokenizer.all_special_ids)
    assert not table[special].any()
    kept = [token for token in range(len(tokenizer)) if token not in special]
    frames = torch.tensor([[tokenizer.cls_token_id, token, tokenizer.sep_token_id] for token in kept])
    states = teacher(frames, torch.ones_like(frames)).last_hidden_state.detach()
    vectors = states[:, 0] if pooling == "cls" else states[:, :2].mean(1)
    # All directions are kept, so that distances are.
    ranks = 1 / torch.arange(2, len(kept) + 2, dtype=torch.float64)
    weights = 1e-4 / (1e-4 + ranks / ranks.sum())
    rows, exact = table[kept].double() / weights[:, None], vectors.double()
    torch.testing.assert_close(torch.pdist(rows), torch.pdist(exact), rtol=0, atol=1e-4)
    lengths = table[kept].norm(dim=1) / vectors.sub(vectors.mean(0)).norm(dim=1)
    assert (lengths.diff() > 0).all()
    found = model.encode("the string", own, convert_to_tensor=True)
    ids = tokenizer("the string", add_special_tokens=False)["input_ids"]
    torch.testing.assert_close(found, torch.nn.functional.normalize(table[ids].mean(0), dim=0))


def test_fewer_channels_keep_the_most_important_directions(
    tiny_config: Callable[..., Any], randomize: Callable[..., Any], tokenizer: SequenceEncoderTokenizer
) -> None:
    teacher = teacher_with(tiny_config, randomize, "mean")
    full, few = (static_from_vocabulary(teacher, tokenizer, dim=dim)[0].embed_tokens.weight for dim in (24, 5))
    torch.testing.assert_close(full[:, :5].abs(), few.abs(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dim", [0, 25])
def test_the_number_of_channels_is_at_most_that_of_the_teacher(
    dim: int, tiny_config: Callable[..., Any], randomize: Callable[..., Any], tokenizer: SequenceEncoderTokenizer
) -> None:
    teacher = teacher_with(tiny_config, randomize, "mean")
    with pytest.raises(ValueError, match=f"dim must be from 1 to 24, got {dim}"):
        static_from_vocabulary(teacher, tokenizer, dim=dim)


def test_a_student_learns_the_vectors_of_texts(
    tiny_config: Callable[..., Any], randomize: Callable[..., Any], tokenizer: SequenceEncoderTokenizer
) -> None:
    teacher = teacher_with(tiny_config, randomize, "mean")
    sentences = [*dict.fromkeys(line.strip() for text in TEXTS for line in text.splitlines()), ""]
    learned, held_out = sentences[20:], sentences[:20]
    # Vectors that depend on the tokens alone, so that a student can learn them.
    wanted = static_encoder(torch.randn(len(tokenizer), 24))
    vectors = wanted.encode(learned, tokenizer)
    student, own = distill_static(teacher, tokenizer, learned, vectors, dim=24, num_train_epochs=150)
    before, _ = distill_static(teacher, tokenizer, dim=24)

    def similarities(model: SequenceEncoderModel, centre: Any = 0.0) -> torch.Tensor:
        found = model.encode(held_out, own, convert_to_tensor=True) - torch.as_tensor(centre)
        return torch.nn.functional.cosine_similarity(found[:, None], found[None], dim=-1).flatten()

    target = similarities(wanted, vectors.mean(0))
    agreements = [torch.corrcoef(torch.stack([target, similarities(each)]))[0, 1] for each in (before, student)]
    assert agreements[1] > agreements[0] + 0.03, agreements
    assert not student.embed_tokens.weight[own.all_special_ids].any()


def test_without_vectors_the_teacher_computes_them(
    tiny_config: Callable[..., Any], randomize: Callable[..., Any], tokenizer: SequenceEncoderTokenizer
) -> None:
    teacher = teacher_with(tiny_config, randomize, "mean")
    options: dict[str, Any] = {"dim": 4, "num_train_epochs": 2, "max_length": 16}
    given = teacher.encode(TEXTS, tokenizer, max_length=16)
    one, other = (distill_static(teacher, tokenizer, TEXTS, each, **options)[0] for each in (None, given))
    torch.testing.assert_close(one.embed_tokens.weight, other.embed_tokens.weight)


def test_vectors_must_be_those_of_the_texts(
    tiny_config: Callable[..., Any], randomize: Callable[..., Any], tokenizer: SequenceEncoderTokenizer
) -> None:
    teacher = teacher_with(tiny_config, randomize, "mean")
    with pytest.raises(ValueError, match=r"vectors must be \(2, 24\), got \(1, 24\)"):
        distill_static(teacher, tokenizer, ["a", "b"], torch.ones(1, 24), dim=4)
    with pytest.raises(ValueError, match="at least two texts with tokens, got 1"):
        distill_static(teacher, tokenizer, ["a", ""], dim=4)
