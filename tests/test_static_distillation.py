"""Static students: what a teacher says about the tokens of its vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sequence_encoder import SequenceEncoderModel, SequenceEncoderTokenizer
from sequence_encoder.modeling.text_encoding.embedding_recipe import EmbeddingRecipe, Normalize
from sequence_encoder.tests.texts import TEXTS
from sequence_encoder.training.distillation.static_table import static_from_vocabulary


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
