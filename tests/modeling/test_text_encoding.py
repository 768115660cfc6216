"""Bulk encoding returns the vectors of single texts in their order, independent of the batches."""

from __future__ import annotations

import copy
import itertools
import logging
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from sequence_encoder import SequenceEncoderModel, SequenceEncoderTokenizer
from sequence_encoder.modeling.text_encoding import prepared_encoding
from sequence_encoder.modeling.text_encoding.text_pooling import pooled

TEXTS = [
    "The weights of a model are returned.",
    "Short.",
    "",
    "A text that is rather longer than the others, and then some more of it, until it has to be cut somewhere.",
    "Return the weights.",
    "Short.",
] * 3


@pytest.fixture(scope="module")
def tokenizer() -> SequenceEncoderTokenizer:
    return SequenceEncoderTokenizer.train_from_iterator(TEXTS, vocab_size=90, model_max_length=24, show_progress=False)


@pytest.fixture
def model(tiny_config: Callable[..., Any], randomize: Callable[..., Any]) -> SequenceEncoderModel:
    return randomize(SequenceEncoderModel(tiny_config("bert")))


def encode_one_by_one(model: SequenceEncoderModel, tokenizer: Any, pooling: str) -> torch.Tensor:
    vectors = []
    for text in TEXTS:
        states = model(**tokenizer(text, truncation=True, return_tensors="pt")).last_hidden_state[0].detach()
        vectors.append(states.mean(0) if pooling == "mean" else states[0])
    return torch.stack(vectors)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("max_tokens", [1, 30, 10_000])
@pytest.mark.parametrize("chunk", [4, 1000])
def test_vectors_equal_those_of_single_texts_in_their_order(
    model: SequenceEncoderModel,
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    pooling: str,
    max_tokens: int,
    chunk: int,
) -> None:
    monkeypatch.setattr(prepared_encoding, "CHUNK", chunk)
    found = model.encode(TEXTS, tokenizer, pooling=pooling, max_tokens=max_tokens)
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
    torch.testing.assert_close(torch.tensor(found), encode_one_by_one(model, tokenizer, pooling), rtol=0, atol=1e-5)


def test_vectors_can_be_normalized_and_have_another_dtype(model: SequenceEncoderModel, tokenizer: Any) -> None:
    plain = model.encode(TEXTS, tokenizer, convert_to_tensor=True)
    assert isinstance(plain, torch.Tensor)
    scaled = model.encode(TEXTS, tokenizer, normalize_embeddings=True, convert_to_tensor=True)
    torch.testing.assert_close(scaled, plain / plain.norm(dim=1, keepdim=True))
    assert model.encode(TEXTS, tokenizer, dtype=torch.float16).dtype == np.float16
    assert model.encode(TEXTS, tokenizer, dtype=torch.bfloat16, convert_to_tensor=True).dtype == torch.bfloat16


def test_texts_are_truncated_to_the_limits_of_model_and_caller(
    tiny_config: Callable[..., Any], randomize: Callable[..., Any], tokenizer: Any
) -> None:
    model = randomize(SequenceEncoderModel(tiny_config("bert", max_position_embeddings=10)))
    by_model = model.encode(TEXTS[3], tokenizer)
    by_caller = model.encode(TEXTS[3], tokenizer, max_length=10)
    np.testing.assert_array_equal(by_model, by_caller)
    assert not np.array_equal(by_caller, model.encode(TEXTS[3], tokenizer, max_length=9))
    with pytest.raises(ValueError, match="max_length must be at least 3 and at most 10, got 11"):
        model.encode(TEXTS, tokenizer, max_length=11)


def test_an_endless_stream_is_encoded_lazily(
    model: SequenceEncoderModel, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared_encoding, "CHUNK", 6)
    read = []

    def endless() -> Iterator[str]:
        for text in itertools.cycle(TEXTS):
            read.append(text)
            yield text

    parts = list(itertools.islice(model.iter_encode(endless(), tokenizer), 3))
    assert [part.shape for part in parts] == [(6, 24)] * 3
    assert len(read) == 18
    np.testing.assert_allclose(np.concatenate(parts), model.encode(TEXTS, tokenizer), atol=1e-6)


def test_encoding_keeps_the_training_mode_and_computes_no_gradients(
    model: SequenceEncoderModel, tokenizer: Any
) -> None:
    model.config.hidden_dropout = 0.5
    trained = SequenceEncoderModel(model.config).train()
    first, second = (trained.encode(TEXTS, tokenizer, convert_to_tensor=True) for _ in range(2))
    assert trained.training
    trained.layers[0].eval()
    trained.encode(TEXTS, tokenizer)
    assert (trained.layers[0].mlp.training, trained.layers[1].mlp.training) == (False, True)
    assert torch.equal(first, second)
    assert not first.requires_grad
    torch.nn.Linear(24, 1)(first).sum().backward()  # The vectors can be used in training.


def test_texts_without_tokens_have_zero_vectors(model: SequenceEncoderModel, tokenizer: Any) -> None:
    bare = SequenceEncoderTokenizer.train_from_iterator(TEXTS, vocab_size=90, show_progress=False)
    bare.backend_tokenizer.post_processor = None
    found = model.encode(["Short.", "", "Return."], bare)
    assert not found[1].any()
    np.testing.assert_allclose(found[[0, 2]], model.encode(["Short.", "Return."], bare), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "first"}, "pooling must be one of 'mean', 'cls', 'max', .*, got 'first'"),
        ({"prompt_name": "passage"}, "prompt_name must be one of 'query', 'document', got 'passage'"),
        ({"prompt": "query: ", "prompt_name": "query"}, "prompt and prompt_name are mutually exclusive"),
        ({"truncate_dim": 25}, "truncate_dim must be from 1 to 24, got 25"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"max_length": 2}, "max_length must be at least 3"),
        ({"dtype": torch.bfloat16}, "convert_to_tensor=True"),
    ],
)
def test_invalid_options_are_rejected(
    model: SequenceEncoderModel, tokenizer: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.encode(TEXTS, tokenizer, **options)
    with pytest.raises(ValueError, match=message):
        model.iter_encode(TEXTS, tokenizer, **options)  # The error comes at once, not with the first text.
    with pytest.raises(ValueError, match="put it in a list"):
        model.iter_encode("Short.", tokenizer)


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ({"text": ["Short."]}, "got a dict; pass one of its columns"),
        (pandas.DataFrame({"text": ["Short."]}), "got a DataFrame; pass one of its columns"),
        (None, "got None"),
    ],
)
def test_tables_and_none_are_rejected(
    model: SequenceEncoderModel, tokenizer: Any, sentences: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=f"sentences must be an iterable of strings, {message}"):
        model.encode(sentences, tokenizer)


@pytest.mark.parametrize("wrong", ["\ud83d", "caf\udce9"])
def test_half_of_a_character_is_named(model: SequenceEncoderModel, tokenizer: Any, wrong: str) -> None:
    with pytest.raises(ValueError, match=rf"sentences\[1\] has '\\{ascii(wrong[-1])[2:-1]}', half of a character"):
        model.encode(["Größe 😀", wrong], tokenizer)


def test_encoding_works_in_float64_and_without_return_dict(tiny_config: Callable[..., Any], tokenizer: Any) -> None:
    model = SequenceEncoderModel(tiny_config("bert", return_dict=False)).double()
    exact = model.encode(TEXTS, tokenizer, dtype=torch.float64)
    expected = model(**tokenizer(TEXTS[0], return_tensors="pt"), return_dict=True).last_hidden_state.mean(1)
    torch.testing.assert_close(torch.tensor(exact[:1]), expected.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("pooling", ["mean", "max", "mean_sqrt_len_tokens", "weightedmean"])
def test_pooling_long_texts_in_float16_equals_float32(pooling: str) -> None:
    tokens = torch.randn(2 * 500, 8, generator=torch.Generator().manual_seed(0)) * 10 + 300
    expected = pooled(tokens.half().float(), [500, 500], [pooling], 0)
    torch.testing.assert_close(pooled(tokens.half(), [500, 500], [pooling], 0), expected)


def test_threads_do_not_affect_each_other(model: SequenceEncoderModel, tokenizer: Any) -> None:
    """Other threads pad and truncate with the same tokenizer at the same time, as in web servers."""
    lengths = range(4, 24)
    expected = {length: model.encode(TEXTS[:4], tokenizer, max_length=length) for length in lengths}
    done = threading.Event()

    def pad() -> None:
        while not done.is_set():
            tokenizer(TEXTS[:4], padding="max_length", truncation=True, max_length=7)

    def encode(seed: int) -> int:
        chosen = random.Random(seed).choices(lengths, k=40)
        found = [(length, model.encode(TEXTS[:4], tokenizer, max_length=length)) for length in chosen]
        return sum(not np.allclose(vectors, expected[length], atol=1e-5) for length, vectors in found)

    with ThreadPoolExecutor(6) as pool:
        others = [pool.submit(pad) for _ in range(2)]
        wrong = sum(pool.map(encode, range(4)))
        done.set()
        for other in others:
            other.result()
    assert wrong == 0


def test_non_finite_vectors_raise_an_error_with_the_cause(model: SequenceEncoderModel, tokenizer: Any) -> None:
    scaled = copy.deepcopy(model)
    scaled.layers[-1].mlp_norm.weight.data *= 1e6
    with pytest.raises(ValueError, match=r"sentences\[0\] is not finite.*too large for torch\.float16"):
        scaled.encode(TEXTS, tokenizer, dtype=torch.float16)
    model.layers[1].mlp.up_proj.weight.data[3, 5] = torch.nan
    with pytest.raises(ValueError, match=r"weights such as layers\.1\.mlp\.up_proj\.weight are not finite"):
        model.encode(TEXTS, tokenizer)


def test_a_tokenizer_of_another_model_logs_a_warning(
    tiny_config: Callable[..., Any], tokenizer: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    rounded = tiny_config("bert", vocab_size=len(tokenizer) + 127, mask_token_id=tokenizer.mask_token_id)
    SequenceEncoderModel(rounded).encode("Short.", tokenizer)
    assert "does not seem" not in caplog.text
    SequenceEncoderModel(tiny_config("bert", vocab_size=1000)).encode("Short.", tokenizer)
    assert f"it has only {len(tokenizer)} tokens, but the model has vocab_size=1000" in caplog.text
    SequenceEncoderModel(tiny_config("bert", cls_token_id=55)).encode("Short.", tokenizer)
    assert f"its cls_token_id is {tokenizer.cls_token_id}, but 55 in the model's configuration" in caplog.text
