"""Bulk encoding returns the vectors of single texts in their order, independent of the batches."""

from __future__ import annotations

import copy
import itertools
import logging
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from accelerate import disk_offload

from sequence_encoder import SequenceEncoderModel, SequenceEncoderTokenizer
from sequence_encoder.data.batching import token_batches
from sequence_encoder.modeling.text_encoding import prepared_encoding
from sequence_encoder.modeling.text_encoding.evaluation_mode import evaluation_mode
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


def test_one_text_gives_one_vector_and_no_texts_give_none(model: SequenceEncoderModel, tokenizer: Any) -> None:
    assert model.encode("Short.", tokenizer).shape == (24,)
    np.testing.assert_allclose(model.encode("Short.", tokenizer), model.encode(["Short."], tokenizer)[0])
    assert model.encode([], tokenizer).shape == (0, 24)
    assert model.encode([], tokenizer, dtype=torch.float16).dtype == np.float16


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


def test_sentences_that_are_not_strings_are_rejected(model: SequenceEncoderModel, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"sentences must be strings, got a tuple: \('a', 'pair'\)"):
        model.encode(["Short.", ("a", "pair")], tokenizer)
    with pytest.raises(ValueError, match="sentences must be strings, got a NoneType"):
        model.encode(["Short.", None], tokenizer)


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


def test_a_column_of_a_table_is_encoded(model: SequenceEncoderModel, tokenizer: Any) -> None:
    texts = ["Short.", "A longer text."]
    column = pandas.DataFrame({"text": texts})["text"]
    assert (model.encode(column, tokenizer) == model.encode(texts, tokenizer)).all()


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


def test_offloaded_weights_give_the_same_vectors(model: SequenceEncoderModel, tokenizer: Any, tmp_path: Path) -> None:
    expected = model.encode(TEXTS, tokenizer, convert_to_tensor=True)
    offloaded = disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
    torch.testing.assert_close(offloaded.encode(TEXTS, tokenizer, convert_to_tensor=True), expected)


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


def test_encoding_does_not_change_the_tokenizer(model: SequenceEncoderModel, tokenizer: Any) -> None:
    own = copy.deepcopy(tokenizer)
    own.backend_tokenizer.enable_truncation(5)
    own.backend_tokenizer.enable_padding(length=9)
    before = own.backend_tokenizer.to_str()
    model.encode(TEXTS, own, max_length=8)
    assert own.backend_tokenizer.to_str() == before


def test_tokens_that_are_added_later_are_used(model: SequenceEncoderModel, tokenizer: Any) -> None:
    grown = copy.deepcopy(tokenizer)
    model.encode("Short.", grown)
    grown.add_tokens(["weights of", " Short"])
    grown.add_special_tokens({"additional_special_tokens": ["<new>"]})
    text = "Return the weights of a model<new> Short"
    expected = model(**grown(text, return_tensors="pt")).last_hidden_state[0].mean(0)
    torch.testing.assert_close(model.encode(text, grown, convert_to_tensor=True), expected.detach())


def test_threads_encode_without_dropout_in_training_mode(tiny_config: Callable[..., Any], tokenizer: Any) -> None:
    model = SequenceEncoderModel(tiny_config("bert", hidden_dropout=0.5))
    expected = model.eval().encode(TEXTS, tokenizer)
    model.train()
    model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: model.encode(TEXTS, tokenizer, max_tokens=20), range(40)):
            np.testing.assert_allclose(found, expected, atol=1e-5)
    assert [module.training for module in model.modules()] == modes


def test_evaluation_mode_contexts_may_overlap() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Dropout(0.5)).train()
    with ExitStack() as first:
        first.enter_context(evaluation_mode(model))
        with ExitStack() as second:
            second.enter_context(evaluation_mode(model))
            first.pop_all().close()
            assert not model.training
            assert not model[1].training
        assert model.training
        assert model[1].training


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


def test_batches_are_full_and_sorted_and_contain_every_text_once() -> None:
    lengths = [5, 0, 3, 9, 3, 12, 1, 7]
    batches = token_batches(lengths, 10)
    assert [[lengths[i] for i in batch] for batch in batches] == [[1, 3, 3], [5], [7], [9], [12]]
    assert sorted(itertools.chain.from_iterable(batches)) == [0, 2, 3, 4, 5, 6, 7]
