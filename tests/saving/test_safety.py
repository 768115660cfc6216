"""No code in a downloaded folder runs unless the user allows it, and errors name damaged files."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel

import sequence_encoder
from sequence_encoder import SequenceEncoderConfig, SequenceEncoderModel, SequenceEncoderTokenizer, convert
from sequence_encoder.hub.sentence_transformers import save_sentence_transformer

Build = Callable[..., Any]
PACKAGE = Path(sequence_encoder.__file__).parent


@pytest.fixture
def model(tiny_config: Build, randomize: Build) -> SequenceEncoderModel:
    return randomize(SequenceEncoderModel(tiny_config("bert")))


@pytest.fixture
def saved(model: SequenceEncoderModel, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def split(model: SequenceEncoderModel, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "split", max_shard_size="20KB")
    return tmp_path / "split"


@pytest.mark.parametrize("load", [SequenceEncoderModel.from_pretrained, AutoModel.from_pretrained], ids=["own", "auto"])
@pytest.mark.parametrize("kept", [0, 5, 99, 20_000])
def test_truncated_weights_are_rejected_by_name(saved: Path, load: Build, kept: int) -> None:
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(OSError, match=rf"The weights of .*{saved.name} are damaged or incomplete"):
        load(saved)


def test_a_damaged_header_is_rejected(saved: Path) -> None:
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:8] + b"{" * 200 + weights.read_bytes()[208:])
    with pytest.raises(OSError, match="damaged or incomplete"):
        SequenceEncoderModel.from_pretrained(saved)


def test_a_missing_shard_is_rejected_by_name(split: Path) -> None:
    part = sorted(split.glob("*.safetensors"))[1]
    part.unlink()
    with pytest.raises(OSError, match=part.name):
        SequenceEncoderModel.from_pretrained(split)


class Bomb:
    """Runs a program when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("harmless", [True, False])
def test_pickled_weights_are_not_read(saved: Path, tmp_path: Path, harmless: bool, model: SequenceEncoderModel) -> None:
    trace = tmp_path / "trace"
    (saved / "model.safetensors").unlink()
    if harmless:
        torch.save(model.state_dict(), saved / "pytorch_model.bin")
    else:
        (saved / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(trace)))
    for load in (SequenceEncoderModel.from_pretrained, AutoModel.from_pretrained):
        with pytest.raises(OSError, match=r"pytorch_model\.bin is a pickled file"):
            load(saved)
    assert not trace.exists()


@pytest.mark.parametrize("value", [False, None, 0])
def test_pickled_weights_cannot_be_requested(saved: Path, value: Any) -> None:
    with pytest.raises(ValueError, match=f"use_safetensors must be True, got {value}"):
        SequenceEncoderModel.from_pretrained(saved, use_safetensors=value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.replace("model-00001-of", "../model-00001-of"), r"got '\.\./model-00001"),
        (
            lambda index: index.replace(".safetensors", ".bin"),
            r"must name \.safetensors files in its own folder, got .*\.bin",
        ),
        (lambda index: "{", "is damaged and has no weight_map"),
        (lambda index: "{}", "is damaged and has no weight_map"),
        (lambda index: '{"weight_map": []}', "is damaged and has no weight_map"),
    ],
)
def test_an_index_with_files_outside_the_folder_is_rejected(split: Path, change: Any, message: str) -> None:
    index = split / "model.safetensors.index.json"
    index.write_text(change(index.read_text()))
    with pytest.raises(OSError, match=message):
        SequenceEncoderModel.from_pretrained(split)


def test_pickled_weights_are_not_converted(tmp_path: Path) -> None:
    model = BertModel(BertConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=3, intermediate_size=40))
    model.save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "bert" / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"pytorch_model\.bin is a pickled file"):
        convert(tmp_path / "bert")
    assert type(convert(BertModel.from_pretrained(tmp_path / "bert"))) is SequenceEncoderModel


@pytest.mark.parametrize("load", [SequenceEncoderModel.from_pretrained, SequenceEncoderConfig.from_pretrained])
def test_the_configuration_of_another_model_type_is_rejected(tmp_path: Path, load: Build) -> None:
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model_type must be 'sequence_encoder', got 'bert'"):
        load(tmp_path)


def test_a_tokenizer_larger_than_the_model_is_rejected(model: SequenceEncoderModel, tmp_path: Path) -> None:
    words = " ".join(f"word{number}" for number in range(200))
    tokenizer = SequenceEncoderTokenizer.train_from_iterator([words] * 2, vocab_size=150, show_progress=False)
    size = len(tokenizer)
    assert size > model.config.vocab_size
    expected = (
        rf"tokenizer has {size} tokens, .*vocab_size={model.config.vocab_size}.*resize_token_embeddings\({size}\)"
    )
    with pytest.raises(ValueError, match=expected):
        model.encode(["word1"], tokenizer)
    with pytest.raises(ValueError, match=expected):
        next(iter(model.iter_encode(["word1"], tokenizer)))
    with pytest.raises(ValueError, match=expected):
        save_sentence_transformer(tmp_path / "model", model, tokenizer)
    assert not (tmp_path / "model").exists()
    ids = torch.tensor([[size - 1]])
    with pytest.raises(ValueError, match=rf"input_ids .*vocab_size.*{size - 1}"):
        model(ids)
    model.resize_token_embeddings(size)
    assert model.encode(["word1"], tokenizer).shape == (1, model.config.hidden_size)


def test_converting_a_folder_does_not_run_its_code(tmp_path: Path) -> None:
    folder, trace = tmp_path / "custom", tmp_path / "trace"
    folder.mkdir()
    (folder / "code.py").write_text(f"import pathlib\npathlib.Path({str(trace)!r}).touch()")
    custom = {"model_type": "custom", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(custom))
    with pytest.raises(ValueError, match="This package does not run such code"):
        convert(folder)
    shutil.rmtree(folder)
    BertModel(BertConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=3)).save_pretrained(folder)
    (folder / "code.py").write_text(f"import pathlib\npathlib.Path({str(trace)!r}).touch()")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": custom["auto_map"]}))
    assert type(convert(folder)) is SequenceEncoderModel
    assert not trace.exists()


def test_the_package_only_trusts_code_if_its_user_does_and_never_unpickles() -> None:
    sources = [path for room in PACKAGE.iterdir() if (room / "__init__.py").exists() for path in room.glob("*.py")]
    sources += PACKAGE.glob("*.py")
    assert len(sources) > 30
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert ast.unparse(node.value) in ("False", "trust_remote_code"), path
            assert not (isinstance(node, ast.Name | ast.Attribute) and "pickle" in ast.unparse(node)), path
