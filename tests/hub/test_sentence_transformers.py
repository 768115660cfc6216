"""`save_sentence_transformer` writes folders that sentence-transformers reads, with or without the package."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sequence_encoder import SequenceEncoderForMaskedLM, SequenceEncoderModel, SequenceEncoderTokenizer
from sequence_encoder.hub.sentence_transformers import save_sentence_transformer


@pytest.fixture(scope="module")
def tokenizer() -> SequenceEncoderTokenizer:
    texts = ["a model of a text", "the text is short"]
    return SequenceEncoderTokenizer.train_from_iterator(texts, vocab_size=90, model_max_length=24, show_progress=False)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_folder_stores_the_pooling_and_the_maximum_length(
    tiny_config: Callable[..., Any], tokenizer: Any, tmp_path: Path, pooling: str, normalize: bool
) -> None:
    model = SequenceEncoderModel(tiny_config("bert")).eval()
    folder = tmp_path / "model"
    save_sentence_transformer(folder, model, tokenizer, pooling=pooling, normalize_embeddings=normalize)
    modules = json.loads((folder / "modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in modules] == [
        "Transformer",
        "Pooling",
        *(["Normalize"] if normalize else []),
    ]
    assert modules[0]["path"] == ""
    config = json.loads((folder / modules[1]["path"] / "config.json").read_text())
    assert config["word_embedding_dimension"] == 24
    assert [name for name, value in config.items() if value is True] == [
        {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}[pooling]
    ]
    assert json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"] == 24
    again = SequenceEncoderModel.from_pretrained(folder)
    ids = torch.randint(5, 97, (1, 7))
    assert torch.equal(again(ids).last_hidden_state, model(ids).last_hidden_state)


def test_existing_folders_and_wrong_arguments_are_rejected(
    tiny_config: Callable[..., Any], tokenizer: Any, tmp_path: Path
) -> None:
    model, folder = SequenceEncoderModel(tiny_config()), tmp_path / "model"
    save_sentence_transformer(folder, model, tokenizer)
    with pytest.raises(FileExistsError, match="replace=True"):
        save_sentence_transformer(folder, model, tokenizer)
    save_sentence_transformer(folder, model, tokenizer, replace=True)
    with pytest.raises(ValueError, match=r"pooling must be one of 'mean', 'cls', .*, got 'first'"):
        save_sentence_transformer(tmp_path / "other", model, tokenizer, pooling="first")
    with pytest.raises(ValueError, match=r"SequenceEncoderForMaskedLM; pass its base_model"):
        save_sentence_transformer(tmp_path / "other", SequenceEncoderForMaskedLM(tiny_config()), tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
