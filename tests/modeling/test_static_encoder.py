"""Static encoders: a table of token vectors and a mean, without layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import parquet
from tokenizers import AddedToken
from transformers import AutoModelForSequenceClassification

from sequence_encoder import SequenceEncoderModel, SequenceEncoderTokenizer, static_encoder
from sequence_encoder.inference import preparation
from sequence_encoder.tests.fixtures.corpus_runs import LONGEST, embed, rows_of, shards_in, write_rows

LEARNED = ["New words, cats and dogs: naïve ones, don't they?", "die Straße im Winter 漢字", "a1 b2 new york"] * 3
# What the words of BERT's tokenizer depend on: case, accents, punctuation, control characters and added tokens.
TEXTS = [
    "Cats and DOGS don't.",
    "",
    "Naïve caf\u00e9 Stra\u00dfe",
    "漢字 words",
    "tabs\tand\r\nlines a\x0bb\x7f zz\u200bq",
    "before [MASK]cats[mask] and [UNK]",
    "in New\tYork or new york, new  york",
    "x" * 150 + " cats",
    "$5_000 <b>1/2</b> ~`^",
    "cats " * 40,
]


def trained(algorithm: str = "wordpiece", lowercase: bool = True, **options: Any) -> SequenceEncoderTokenizer:
    tokenizer = SequenceEncoderTokenizer.train_from_iterator(
        LEARNED, vocab_size=400, algorithm=algorithm, lowercase=lowercase, show_progress=False, **options
    )
    tokenizer.add_tokens([AddedToken("new york", normalized=True)])
    return tokenizer


def encoder_for(tokenizer: Any, dtype: torch.dtype = torch.float32, **options: Any) -> SequenceEncoderModel:
    return static_encoder(torch.randn(len(tokenizer), 11).to(dtype), **options)


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("algorithm", ["wordpiece", "byte_level_bpe"])
def test_vectors_are_means_of_the_rows_of_the_tokens(algorithm: str, lowercase: bool) -> None:
    tokenizer = trained(algorithm, lowercase)
    model = encoder_for(tokenizer)
    rows = tokenizer(TEXTS, add_special_tokens=False, truncation=True, max_length=30)["input_ids"]
    table = model.embed_tokens.weight.detach()
    means = torch.stack([table[row].mean(0) if row else torch.zeros(11) for row in rows])
    options: dict[str, Any] = {"max_length": 30, "convert_to_tensor": True}
    found = model.encode(TEXTS, tokenizer, normalize_embeddings=False, **options)
    torch.testing.assert_close(found, means)
    torch.testing.assert_close(model.encode(TEXTS, tokenizer, **options), torch.nn.functional.normalize(means))
    one = model.encode(TEXTS[0], tokenizer, **options)
    torch.testing.assert_close(one, torch.nn.functional.normalize(means)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_means_are_at_least_in_float32(dtype: torch.dtype) -> None:
    tokenizer = trained()
    model = encoder_for(tokenizer, dtype)
    wide = static_encoder(model.embed_tokens.weight.detach().to(torch.float64))
    for texts in (TEXTS, TEXTS * 9):
        found, exact = (each.encode(texts, tokenizer, convert_to_tensor=True) for each in (model, wide))
        torch.testing.assert_close(found, exact)


def test_texts_are_read_whole_unless_a_length_is_given() -> None:
    tokenizer = trained(model_max_length=5)
    long = "cats " * 600 + "dogs"
    (ids,) = tokenizer([long], add_special_tokens=False)["input_ids"]
    for length in (None, 599):
        model = encoder_for(tokenizer, max_length=length)
        found = model.encode(long, tokenizer, normalize_embeddings=False, convert_to_tensor=True)
        torch.testing.assert_close(found, model.embed_tokens.weight.detach()[ids[:length]].mean(0))


def test_other_poolings_and_prompts_leave_special_tokens_out() -> None:
    tokenizer = trained()
    model = encoder_for(tokenizer)
    table = model.embed_tokens.weight.detach()
    first = tokenizer("cats", add_special_tokens=False)["input_ids"][0]
    found = model.encode("cats and dogs", tokenizer, pooling="cls", normalize_embeddings=False, convert_to_tensor=True)
    torch.testing.assert_close(found, table[first])
    prompted = model.encode("dogs", tokenizer, prompt="cats and ", convert_to_tensor=True)
    torch.testing.assert_close(prompted, model.encode("cats and dogs", tokenizer, convert_to_tensor=True))


@pytest.mark.since("pyarrow", "26", "writes null vectors")
def test_the_command_embed_writes_the_same_vectors_and_counts_cut_texts(tmp_path: Path) -> None:
    tokenizer = trained()
    model = encoder_for(tokenizer)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = rows_of()
    counts = embed(tmp_path / "model", write_rows(tmp_path / "rows.parquet", rows), tmp_path / "out", max_length=12)
    good = [row["text"] for row in rows if row["text"] is not None and len(row["text"]) <= LONGEST]
    written = [vector for shard in shards_in(tmp_path / "out") for vector in parquet.read_table(shard)["embedding"]]
    vectors = np.array([vector.as_py() for vector in written if vector.is_valid])
    np.testing.assert_allclose(vectors, model.encode(good, tokenizer, max_length=12), atol=1e-6)
    ids = tokenizer(good, add_special_tokens=False)["input_ids"]
    assert counts.truncated == sum(len(row) > 12 for row in ids)
    assert counts.tokens == sum(min(len(row), 12) for row in ids)


def test_commands_keep_the_dtype_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "faster_in_bfloat16", lambda kind: True)
    model = encoder_for(trained())
    assert "float32" in preparation.optimize_for_inference(model)
    assert model.dtype == torch.float32


def test_heads_start_from_a_static_encoder(tmp_path: Path) -> None:
    tokenizer = trained()
    model = encoder_for(tokenizer)
    model.save_pretrained(tmp_path)
    head = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    torch.testing.assert_close(head.model.embed_tokens.weight, model.embed_tokens.weight)
    logits = head(**tokenizer(TEXTS[:2], padding=True, return_tensors="pt")).logits
    assert logits.shape == (2, 3)


@pytest.mark.parametrize("table", [np.zeros(3), np.zeros((3, 2), int), np.zeros((0, 2))])
def test_a_table_must_be_a_matrix_of_numbers(table: Any) -> None:
    with pytest.raises(ValueError, match="table must be a matrix"):
        static_encoder(table)
