"""Untrusted checkpoints: errors name damaged files, and nothing outside the folder is read or copied."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModel

from sequence_encoder import (
    SequenceEncoderConfig,
    SequenceEncoderModel,
    SequenceEncoderTokenizer,
    TaskAdapter,
    TaskAdapterConfig,
    convert,
)
from sequence_encoder.__main__ import main
from sequence_encoder.command_line import UsageError
from sequence_encoder.training.adaptation.encoder import encoder_of
from sequence_encoder.training.encoders import save_as_sequence_encoder

Build = Callable[..., Any]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "secret.json").write_text('{"password": "x"}')
    return tmp_path / "private" / "secret.json"


def assert_rejected(folder: Path, message: str) -> None:
    """Check that everything that reads a checkpoint rejects it and writes nothing."""
    target = folder.parent / "target"
    with pytest.raises(SystemExit, match=message):
        main(["convert", str(folder), "--output_dir", str(target)])
    with pytest.raises(ValueError, match=message):
        convert(folder)
    with pytest.raises(UsageError, match=message):
        save_as_sequence_encoder(str(folder), target, base_model=True)
    for any_family in (False, True):
        with pytest.raises(UsageError, match=message):
            encoder_of(str(folder), target, any_family, may_write=True)
    assert not target.exists()


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "README.md", "LICENSE", "vocab.txt", "chat_template.jinja", "1_Pooling/config.json"),
        *("1_Pooling/deep/more.json", "additional_chat_templates/tool.jinja", "sentence_bert_config.json"),
    ],
)
def test_a_link_out_of_the_folder_is_rejected(bert_folder: Path, secret: Path, name: str) -> None:
    path = bert_folder / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(secret)
    assert_rejected(bert_folder, rf"{name} links to .*secret\.json, outside")


def test_a_link_inside_the_folder_is_followed(bert_folder: Path) -> None:
    (bert_folder / "README.md").rename(bert_folder / "card.md")
    (bert_folder / "README.md").symlink_to("card.md")
    main(["convert", str(bert_folder), "--output_dir", str(bert_folder.parent / "target")])
    assert "by someone" in (bert_folder.parent / "target" / "README.md").read_text()
    assert not (bert_folder.parent / "target" / "README.md").is_symlink()


def as_snapshot(folder: Path, cache: Path) -> Path:
    """Copy a folder in the layout of the Hub cache: links to blobs."""
    snapshot, blobs = cache / "snapshots" / "0123", cache / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(path for path in sorted(folder.rglob("*")) if path.is_file()):
        shutil.copyfile(path, blobs / str(number))
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    return snapshot


def test_the_hub_cache_with_its_links_is_read(bert_folder: Path, secret: Path, tmp_path: Path) -> None:
    snapshot = as_snapshot(bert_folder, tmp_path / "models--someone--bert")
    main(["convert", str(snapshot), "--output_dir", str(tmp_path / "ours")])
    assert (tmp_path / "ours" / "1_Pooling" / "config.json").read_text() == '{"pooling_mode_mean_tokens": true}'
    assert not any(path.is_symlink() for path in (tmp_path / "ours").rglob("*"))
    card = snapshot / "README.md"
    card.unlink()
    card.symlink_to(secret)
    assert_rejected(snapshot, r"README\.md links to .*secret\.json, outside")
    # An archive can contain a whole cache.
    blobs = snapshot.parents[1] / "blobs"
    card.unlink()
    card.symlink_to(blobs / "secret.json")
    shutil.rmtree(blobs)
    blobs.symlink_to(secret.parent)
    assert_rejected(snapshot, "links to .*, outside")


@pytest.mark.parametrize("path", ["../private", "/etc", "1_Pooling/../../private", "..\\private", "C:\\private"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_module_outside_the_folder_is_rejected(bert_folder: Path, secret: Path, path: str, place: int) -> None:
    """This includes the first module, whose configuration is read if the folder has none."""
    paths = ["1_Pooling"]
    paths.insert(place, path)
    (bert_folder / "modules.json").write_text(json.dumps([{"path": each} for each in paths]))
    (bert_folder / "config.json").rename(bert_folder / "1_Pooling" / "config.json")
    assert_rejected(bert_folder, r"modules\.json names .*, which is not inside")


def test_a_pipe_is_rejected_without_waiting(bert_folder: Path) -> None:
    (bert_folder / "LICENSE").unlink(missing_ok=True)
    os.mkfifo(bert_folder / "LICENSE")
    assert_rejected(bert_folder, "LICENSE is not a regular file")


def test_a_huge_text_file_is_rejected(bert_folder: Path) -> None:
    with (bert_folder / "README.md").open("wb") as card:
        card.truncate(2**33)
    assert_rejected(bert_folder, r"README\.md .* got 8,589,934,592")


def test_weights_outside_the_folder_are_rejected(bert_folder: Path) -> None:
    (bert_folder / "model.safetensors").rename(bert_folder.parent / "secret.safetensors")
    index = {"metadata": {}, "weight_map": {"bert.embeddings.word_embeddings.weight": "../secret.safetensors"}}
    (bert_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SystemExit, match=r"must name \.safetensors files in its own folder, got '\.\./secret"):
        main(["convert", str(bert_folder), "--output_dir", str(bert_folder.parent / "target")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", r"config\.json must contain a JSON object .*, got \[\]"),
        ("null", r"config\.json must contain a JSON object .*, got null"),
        ('"text"', r'config\.json must contain a JSON object .*, got "text"'),
        ("7", r"config\.json must contain a JSON object .*, got 7"),
        ('{"model_type": "sequence_en', r"config\.json.* is damaged|config\.json' is not a valid JSON file"),
        ("", r"config\.json.* is damaged|config\.json' is not a valid JSON file"),
        ('{"model_type": ["a"]}', "model_type must be a string"),
        ('{"model_type": "sequence_encoder", "id2label": [1]}', "id2label must be a dict"),
        ('{"model_type": "sequence_encoder", "id2label": 3}', "id2label must be a dict"),
    ],
)
def test_an_invalid_configuration_file_is_named(tiny_config: Build, tmp_path: Path, text: str, message: str) -> None:
    SequenceEncoderModel(tiny_config("bert")).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(text)
    kinds = (SequenceEncoderConfig, SequenceEncoderModel, TaskAdapterConfig, TaskAdapter)
    for load in (*(kind.from_pretrained for kind in kinds), convert):
        with pytest.raises((OSError, ValueError), match=message):
            load(tmp_path / "model")
    with pytest.raises(SystemExit, match=message):
        main(["convert", str(tmp_path / "model"), "--output_dir", str(tmp_path / "target")])
    with pytest.raises(UsageError, match=message):
        encoder_of(str(tmp_path / "model"), tmp_path / "base", any_family=False, may_write=True)


@pytest.mark.parametrize("field", [{"hidden_size": "big"}, {"id2label": [1]}, {"layer_types": 3}])
def test_a_field_of_the_wrong_type_is_named_by_the_auto_classes(
    tiny_config: Build, tmp_path: Path, field: dict[str, Any]
) -> None:
    SequenceEncoderModel(tiny_config("bert")).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, **field}))
    for load in (AutoConfig.from_pretrained, AutoModel.from_pretrained, SequenceEncoderModel.from_pretrained):
        with pytest.raises(Exception, match=next(iter(field))) as error:
            load(tmp_path)
        assert isinstance(error.value, ValueError) or "Validation" in type(error.value).__name__


def test_architectures_of_the_wrong_type_are_named(bert_folder: Path) -> None:
    fields = json.loads((bert_folder / "config.json").read_text())
    for value in (3, [3], {"a": "b"}):
        (bert_folder / "config.json").write_text(json.dumps({**fields, "architectures": value}))
        with pytest.raises(SystemExit, match="architectures"):
            main(["convert", str(bert_folder), "--output_dir", str(bert_folder.parent / "target")])


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"model": 3}'])
def test_a_damaged_tokenizer_is_named(bert_folder: Path, text: str) -> None:
    (bert_folder / "tokenizer.json").write_text(text)
    with pytest.raises(SystemExit, match=r"The tokenizer in .*bert cannot be read"):
        main(["convert", str(bert_folder), "--output_dir", str(bert_folder.parent / "target")])
    with pytest.raises(UsageError, match=r"The tokenizer in .*bert cannot be read"):
        save_as_sequence_encoder(str(bert_folder), bert_folder.parent / "target", base_model=True)
    with pytest.raises(OSError, match=r"The tokenizer of .*bert cannot be read"):
        SequenceEncoderTokenizer.from_pretrained(bert_folder)
