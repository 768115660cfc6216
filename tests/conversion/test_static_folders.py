"""Folders of static embeddings: other libraries read ours, and we read theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from tokenizers import Tokenizer
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from sequence_encoder import SequenceEncoderForSequenceClassification, SequenceEncoderTokenizer, convert, static_encoder
from sequence_encoder.__main__ import main
from sequence_encoder.conversion.source import Source
from sequence_encoder.tests.fixtures.texts import TEXTS
from sequence_encoder.tokenizer.static_tokenizer import static_tokenizer

SAMPLES = [*TEXTS[:6], "", "\U000103a0\U000103a1", "unknown \U000103a0 word", "word " * 700]
LENGTH = 512


@pytest.fixture(scope="module")
def backend() -> Tokenizer:
    found = SequenceEncoderTokenizer.train_from_iterator(TEXTS, vocab_size=150, lowercase=True, show_progress=False)
    return found.backend_tokenizer


def table_for(backend: Tokenizer) -> torch.Tensor:
    return torch.randn(backend.get_vocab_size(), 11, generator=torch.Generator().manual_seed(0))


def expected(backend: Tokenizer, rows: np.ndarray, unknown: bool, length: int | None, normalize: bool) -> np.ndarray:
    """Return the vectors of the samples by the definition of model2vec, or with unknown tokens of StaticEmbedding."""
    left_out = None if unknown else backend.token_to_id("[UNK]")
    vectors = []
    for text in SAMPLES:
        ids = backend.encode(text, add_special_tokens=False).ids[:length]
        chosen = rows[[token for token in ids if token != left_out]].astype(np.float64)
        vectors.append(chosen.mean(0) if len(chosen) else np.zeros(rows.shape[1]))
    found = np.stack(vectors)
    return found / (np.linalg.norm(found, axis=1, keepdims=True) + 1e-32) if normalize else found


def test_sentence_transformers_and_model2vec_can_read_a_saved_folder(backend: Tokenizer, tmp_path: Path) -> None:
    tokenizer, table = static_tokenizer(backend), table_for(backend)
    table[tokenizer.unk_token_id] = 0
    model = static_encoder(table)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = AutoModel.from_pretrained(tmp_path).encode(SAMPLES, AutoTokenizer.from_pretrained(tmp_path))
    np.testing.assert_allclose(found, expected(backend, table.numpy(), False, None, True), atol=1e-5)
    np.testing.assert_allclose(SentenceTransformer(str(tmp_path), device="cpu").encode(SAMPLES), found, atol=1e-6)
    # What model2vec reads: a table with a row for each token, and two fields.
    assert load_file(tmp_path / "model.safetensors").keys() == {"embeddings"}
    assert len(Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab()) == len(table)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert (fields["normalize"], fields["max_length"]) == (True, None)


def test_a_saved_folder_loads_without_the_package(
    backend: Tokenizer, tmp_path: Path, without_package: Callable[..., Any]
) -> None:
    tokenizer, table = static_tokenizer(backend), table_for(backend)
    model = static_encoder(table, max_length=30)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    code = """
import json
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
folder, texts = sys.argv[1], json.loads(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
head = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
model.save_pretrained(folder + "/again")
print(json.dumps([model.encode(texts, tokenizer).tolist(), head.model.embed_tokens.weight.tolist()]))
"""
    vectors, rows = without_package(code, tmp_path, json.dumps(SAMPLES))
    np.testing.assert_allclose(vectors, model.encode(SAMPLES, tokenizer), atol=1e-6)
    np.testing.assert_allclose(rows, table)
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == {"embeddings"}


def test_a_head_keeps_the_name_of_its_table(backend: Tokenizer, tmp_path: Path) -> None:
    model = static_encoder(table_for(backend))
    model.save_pretrained(tmp_path / "static")
    head = AutoModelForSequenceClassification.from_pretrained(tmp_path / "static", num_labels=3)
    head.save_pretrained(tmp_path / "head")
    assert "model.embed_tokens.weight" in load_file(tmp_path / "head" / "model.safetensors")
    again = AutoModel.from_pretrained(tmp_path / "head")
    torch.testing.assert_close(again.embed_tokens.weight, model.embed_tokens.weight)
    # As a Trainer does that continues from a checkpoint.
    again.load_state_dict(load_file(tmp_path / "static" / "model.safetensors"))


def save_model2vec(folder: Path, backend: Tokenizer, tensors: dict[str, torch.Tensor], **fields: Any) -> None:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    own = Tokenizer.from_str(backend.to_str())
    own.enable_truncation(LENGTH)
    own.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", **fields}))
    (folder / "README.md").write_text("---\nlicense: mit\n---\nA card.\n")
    modules = [{"idx": 0, "name": "0", "path": ".", "type": "sentence_transformers.models.StaticEmbedding"}]
    (folder / "modules.json").write_text(json.dumps(modules))


@pytest.mark.parametrize("kind", ["normalized", "plain", "float16", "int8", "quantized vocabulary", "longer"])
def test_folders_of_model2vec_have_the_same_vectors(kind: str, backend: Tokenizer, tmp_path: Path) -> None:
    table = table_for(backend)
    tensors, fields = {"embeddings": table}, {} if kind == "plain" else {"normalize": True}
    if kind == "float16":
        tensors = {"embeddings": table.half()}
        table = table.half().float()
    elif kind == "int8":
        tensors = {"embeddings": (table * 30).round().to(torch.int8)}
        table = tensors["embeddings"].float()
    elif kind == "quantized vocabulary":
        weights, mapping = torch.rand(len(table), dtype=torch.float64), torch.randint(7, (len(table),))
        tensors = {"embeddings": table[:7].clone(), "weights": weights, "mapping": mapping}
        table = table[mapping] * weights[:, None]
    elif kind == "longer":
        fields["max_length"] = None
    save_model2vec(tmp_path / "theirs", backend, tensors, **fields)
    main(["convert", str(tmp_path / "theirs"), "--output_dir", str(tmp_path / "ours")])
    length = None if kind == "longer" else LENGTH
    wanted = expected(backend, table.numpy(), False, length, kind != "plain")
    model, tokenizer = AutoModel.from_pretrained(tmp_path / "ours"), AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert model.dtype == (torch.float16 if kind == "float16" else torch.float32)
    np.testing.assert_allclose(model.encode(SAMPLES, tokenizer), wanted, atol=1e-5)
    source = Source(tmp_path / "theirs")
    loaded: Any = source.load()
    np.testing.assert_allclose(loaded.encode(SAMPLES, source.tokenizer_for(loaded)), wanted, atol=1e-5)
    assert "A card." in (tmp_path / "ours" / "README.md").read_text()


@pytest.mark.parametrize("subfolder", ["", "0_StaticEmbedding"])
def test_folders_of_sentence_transformers_have_the_same_vectors(
    subfolder: str, backend: Tokenizer, tmp_path: Path
) -> None:
    own = Tokenizer.from_str(backend.to_str())
    own.enable_truncation(LENGTH)
    modules = [StaticEmbedding(own, embedding_weights=table_for(backend)), Normalize()]
    theirs = SentenceTransformer(modules=modules, prompts={"query": "find: "}, device="cpu")
    folder = tmp_path / "theirs"
    theirs.save(str(folder))
    listed = json.loads((folder / "modules.json").read_text())
    before, listed[0]["path"] = listed[0]["path"], subfolder
    (folder / subfolder).mkdir(exist_ok=True)
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / before / name).rename(folder / subfolder / name)
    (folder / "modules.json").write_text(json.dumps(listed))
    main(["convert", str(folder), "--output_dir", str(tmp_path / "ours")])
    model, tokenizer = AutoModel.from_pretrained(tmp_path / "ours"), AutoTokenizer.from_pretrained(tmp_path / "ours")
    for options in ({}, {"prompt_name": "query"}):
        wanted = theirs.encode(SAMPLES, **options)
        np.testing.assert_allclose(model.encode(SAMPLES, tokenizer, **options), wanted, atol=1e-5)
    assert main(["inspect", str(folder), "--json"]) in (None, 0)


def test_a_table_with_too_few_rows_is_refused(backend: Tokenizer, tmp_path: Path) -> None:
    save_model2vec(tmp_path / "few", backend, {"embeddings": table_for(backend)[:5].clone()})
    with pytest.raises(ValueError, match="5 vectors"):
        convert(tmp_path / "few")
    save_model2vec(tmp_path / "other", backend, {"vectors": table_for(backend)})
    with pytest.raises(ValueError, match="no table of vectors"):
        convert(tmp_path / "other")


def test_a_static_encoder_needs_no_conversion(backend: Tokenizer) -> None:
    model = static_encoder(table_for(backend))
    with pytest.raises(
        ValueError, match=r"no layers\. Use its folder with model2vec or sentence-transformers as it is"
    ):
        convert(model, "bert")
    # Their folder has no head.
    with pytest.raises(ValueError, match=r"to modernbert: it has no layers\.$"):
        convert(SequenceEncoderForSequenceClassification(model.config), "modernbert")
