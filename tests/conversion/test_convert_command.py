"""`sequence-encoder convert`: the files that it writes and copies, and that it loses nothing."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertForMaskedLM,
    RobertaConfig,
    RobertaModel,
)

from sequence_encoder import SequenceEncoderForMaskedLM, convert
from sequence_encoder.__main__ import main
from sequence_encoder.conversion.command import check_same_outputs, outputs_of
from sequence_encoder.conversion.converting import convert_and_release
from sequence_encoder.tests.fixtures.forked_python import forked_python

POOLING = "1_Pooling/config.json"


def test_a_folder_is_converted_with_all_its_files(bert_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = bert_folder.parent / "new" / "ours"
    main(["convert", str(bert_folder), "--output_dir", str(target)])
    printed = capsys.readouterr().out
    assert "BertForMaskedLM to SequenceEncoderForMaskedLM" in printed
    assert "are unchanged" not in printed
    assert float(printed.split("at most ")[1].split(".\n")[0]) < 1e-4
    model = AutoModelForMaskedLM.from_pretrained(target)
    assert isinstance(model, SequenceEncoderForMaskedLM)
    names = ("cls_token_id", "sep_token_id", "mask_token_id")
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert [getattr(model.config, name) for name in names] == [getattr(tokenizer, name) for name in names]
    ids = AutoTokenizer.from_pretrained(target)("the model", return_tensors="pt")["input_ids"]
    expected = AutoModelForMaskedLM.from_pretrained(bert_folder)(ids).logits
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-5, atol=1e-5)
    assert (target / "modules.json").read_text() == (bert_folder / "modules.json").read_text()
    assert (target / POOLING).read_text() == (bert_folder / POOLING).read_text()
    card = (target / "README.md").read_text()
    assert "by someone" in card
    assert 'SentenceTransformer("ours", trust_remote_code=True)' in card
    assert not (target / "pytorch_model.bin").exists()
    assert [path.name for path in target.parent.iterdir()] == ["ours"]

    back = bert_folder.parent / "back"
    main(["convert", str(target), "--output_dir", str(back), "--to", "bert"])
    assert json.loads((back / "config.json").read_text())["model_type"] == "bert"
    assert (back / "README.md").read_text().startswith("by someone\n\n<!-- Written by")
    assert (back / "model.safetensors").read_bytes() != b""
    for key, tensor in BertForMaskedLM.from_pretrained(bert_folder).state_dict().items():
        assert torch.equal(BertForMaskedLM.from_pretrained(back).state_dict()[key], tensor), key


def test_the_card_keeps_its_text_and_shows_how_to_load_the_new_model(
    bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = "---\nlicense: apache-2.0\nlanguage: en\n---\n"
    (bert_folder / "README.md").write_text(f"{metadata}\n# Tiny\n\nWritten by someone, naïvely.\n")
    (bert_folder / "modules.json").unlink()
    target = bert_folder.parent / "ours"
    for _ in range(2):
        main(["convert", str(bert_folder), "--output_dir", str(target), "--overwrite"])
    card = (target / "README.md").read_text()
    assert card.startswith(metadata)
    assert "# Tiny\n\nWritten by someone, naïvely.\n" in card
    assert card.count("## Load this converted model") == 1
    assert not (target / "README.new.md").exists()
    assert str(target.parent) not in card
    (lines,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(target.parent)
    names: dict[str, Any] = {}
    exec(lines, names)
    assert isinstance(names["model"], SequenceEncoderForMaskedLM)
    assert names["tokenizer"].mask_token == "[MASK]"


def test_only_saved_models_are_overwritten_and_only_with_force(bert_folder: Path) -> None:
    target = bert_folder.parent / "ours"
    target.mkdir()
    (target / "notes.txt").write_text("of long work")
    with pytest.raises(SystemExit, match="does not contain a saved model"):
        main(["convert", str(bert_folder), "--output_dir", str(target), "--overwrite"])
    assert [path.name for path in target.iterdir()] == ["notes.txt"]
    (target / "notes.txt").rename(target / "training_args.bin")
    (target / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(SystemExit, match=r"ours exists; .*--overwrite"):
        main(["convert", str(bert_folder), "--output_dir", str(target)])
    (bert_folder / "config_sentence_transformers.json").write_text("{}")
    for _ in range(2):
        main(["convert", str(bert_folder), "--output_dir", str(target), "--overwrite"])
    assert not (target / "training_args.bin").exists()
    assert {"model.safetensors", "config_sentence_transformers.json"} <= {path.name for path in target.iterdir()}
    with pytest.raises(SystemExit, match=r"contains .*bert, which this command reads"):
        main(["convert", str(bert_folder), "--output_dir", str(bert_folder), "--overwrite"])


@pytest.mark.parametrize("kept", [["vocab.txt"], ["tokenizer.json"]])
def test_the_tokenizer_of_an_old_checkpoint_loads_with_the_new_model(bert_folder: Path, kept: list[str]) -> None:
    """Old tokenizers do not name their class, which follows from their model."""
    words = AutoTokenizer.from_pretrained(bert_folder).get_vocab()
    (bert_folder / "vocab.txt").write_text("\n".join(sorted(words, key=words.__getitem__)))
    for name in {"vocab.txt", "tokenizer.json", "tokenizer_config.json"} - set(kept):
        (bert_folder / name).unlink()
    target = bert_folder.parent / "ours"
    main(["convert", str(bert_folder), "--output_dir", str(target)])
    old, new = (AutoTokenizer.from_pretrained(folder) for folder in (bert_folder, target))
    pair = ("the text is short", "a model of a text")
    assert dict(new(*pair)) == dict(old(*pair))
    assert (new.pad_token, new.mask_token) == (old.pad_token, old.mask_token) == ("[PAD]", "[MASK]")


def test_sample_texts_fit_short_models_and_avoid_the_padding_id(tmp_path: Path, randomize: Callable[..., Any]) -> None:
    config = RobertaConfig(
        vocab_size=8,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=8,
        return_dict=False,
    )
    randomize(RobertaModel(config)).save_pretrained(tmp_path / "short")
    main(["convert", str(tmp_path / "short"), "--output_dir", str(tmp_path / "ours")])
    assert (tmp_path / "ours" / "model.safetensors").is_file()


def test_an_unsupported_source_ends_with_a_message_and_writes_nothing(bert_folder: Path) -> None:
    before = sorted(path.name for path in bert_folder.parent.iterdir())
    for source, arguments, message in (
        (bert_folder, ["--to", "modernbert"], "Only a SequenceEncoder can be converted"),
        (bert_folder.parent / "nowhere", [], "There is no folder .*nowhere"),
        (bert_folder / "model.safetensors", [], "a folder or a Hub id, but .*model.safetensors is a file"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["convert", str(source), "--output_dir", str(bert_folder.parent / "ours"), *arguments])
    assert sorted(path.name for path in bert_folder.parent.iterdir()) == before


def test_an_encoder_in_a_subfolder_stays_there(bert_folder: Path) -> None:
    """Older models of sentence-transformers have this layout."""
    encoder = bert_folder / "0_Transformer"
    encoder.mkdir()
    for path in [path for path in bert_folder.iterdir() if path.is_file()]:
        path.rename(encoder / path.name)
    modules = bert_folder / "modules.json"
    modules.write_text(json.dumps([{"path": "0_Transformer"}, {"path": "1_Pooling"}]))
    (encoder / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    target = bert_folder.parent / "ours"
    main(["convert", str(bert_folder), "--output_dir", str(target)])
    assert sorted(path.name for path in target.iterdir()) == ["0_Transformer", "1_Pooling", "modules.json"]
    assert isinstance(AutoModelForMaskedLM.from_pretrained(target / "0_Transformer"), SequenceEncoderForMaskedLM)
    assert (target / "0_Transformer" / "sentence_bert_config.json").is_file()
    assert not (target / "0_Transformer" / "pytorch_model.bin").exists()
    assert (target / "modules.json").read_text() == modules.read_text()
    assert AutoTokenizer.from_pretrained(target / "0_Transformer").mask_token == "[MASK]"


def test_a_missing_tokenizer_is_reported(bert_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in bert_folder.glob("tokenizer*"):
        path.unlink()
    main(["convert", str(bert_folder), "--output_dir", str(bert_folder.parent / "ours")])
    assert "has no tokenizer" in capsys.readouterr().out


def test_broken_files_are_named_and_nothing_is_written(bert_folder: Path) -> None:
    target = bert_folder.parent / "ours"
    tokenizer, weights = (bert_folder / name for name in ("tokenizer.json", "model.safetensors"))
    valid = tokenizer.read_text()
    tokenizer.write_text("{")
    with pytest.raises(SystemExit, match=r"The tokenizer in .*bert cannot be read"):
        main(["convert", str(bert_folder), "--output_dir", str(target)])
    larger = json.loads(valid)
    larger["model"]["vocab"]["more"] = len(larger["model"]["vocab"]) + 7
    tokenizer.write_text(json.dumps(larger))
    with pytest.raises(SystemExit, match=r"has ids up to \d+, but the model has \d+ embeddings"):
        main(["convert", str(bert_folder), "--output_dir", str(target)])
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(SystemExit, match=r"weights of .*bert are damaged"):
        main(["convert", str(bert_folder), "--output_dir", str(target)])
    assert not target.exists()


def test_a_padding_id_that_differs_from_the_tokenizer_is_rejected(
    bert_folder: Path, tiny_config: Callable[..., Any]
) -> None:
    """RoBERTa skips the id of padding when it counts positions."""
    tokenizer = AutoTokenizer.from_pretrained(bert_folder)
    for pad, folder in ((tokenizer.pad_token_id + 1, "wrong"), (tokenizer.pad_token_id, "right")):
        config = tiny_config("roberta", pad_token_id=pad, position_offset=pad + 1)
        config.hidden_dropout = config.embedding_dropout = 0.1
        SequenceEncoderForMaskedLM(config).save_pretrained(bert_folder.parent / folder)
        tokenizer.save_pretrained(bert_folder.parent / folder)
    back = ["--output_dir", str(bert_folder.parent / "back"), "--to", "roberta"]
    with pytest.raises(SystemExit, match=r"pad_token_id is \d+ in the configuration"):
        main(["convert", str(bert_folder.parent / "wrong"), *back])
    main(["convert", str(bert_folder.parent / "right"), *back])


def test_changed_weights_are_detected_by_the_check(bert_folder: Path) -> None:
    model = BertForMaskedLM.from_pretrained(bert_folder)
    texts = [torch.randint(5, 20, (1, 7))]
    right = outputs_of(model, texts)
    assert check_same_outputs(right, outputs_of(model, texts)) == 0
    weight = model.bert.encoder.layer[1].output.dense.weight
    for change in (0.5, float("nan")):
        with torch.no_grad():
            weight[3, 5] += change
        with pytest.raises(ValueError, match="which rounding does not explain"):
            check_same_outputs(right, outputs_of(model, texts))


def test_the_tolerance_scales_with_the_outputs() -> None:
    large, near, far = ([(torch.tensor([1e6 + distance, 1.0]),)] for distance in (0, 10, 10_000))
    assert check_same_outputs(large, near) == 10
    with pytest.raises(ValueError, match=r"differ by 1\.0e\+04"):
        check_same_outputs(large, far)


def test_a_bfloat16_model_is_compared_in_float32_and_unchanged(bert_folder: Path) -> None:
    model = BertForMaskedLM.from_pretrained(bert_folder, dtype=torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    texts = [torch.randint(5, 20, (1, 7))]
    (in_bfloat16,) = outputs_of(model, texts)
    (in_float32,) = outputs_of(copy.deepcopy(model).float(), texts)
    assert torch.equal(in_bfloat16[0], in_float32[0])
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, before[name])


def test_weights_are_released_as_they_are_converted(bert_folder: Path) -> None:
    model = BertForMaskedLM.from_pretrained(bert_folder)
    embeddings = weakref.ref(model.bert.embeddings.word_embeddings.weight)
    converted = convert_and_release(model)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert {parameter.device.type for parameter in converted.parameters()} == {"cpu"}
    assert embeddings() is None or embeddings().device.type == "meta"


def test_a_checkpoint_can_be_a_hub_id(bert_folder: Path, tmp_path: Path) -> None:
    """The checkpoint comes from the cache, so that the test needs no network."""
    snapshot = tmp_path / "cache" / "models--someone--tiny" / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(bert_folder, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(snapshot.name)
    target = tmp_path / "ours"
    subprocess.run(
        [forked_python(), "-m", "sequence_encoder", "convert", "someone/tiny", "--output_dir", str(target)],
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
        check=True,
        capture_output=True,
    )
    assert (target / POOLING).is_file()
    assert AutoTokenizer.from_pretrained(target).get_vocab() == AutoTokenizer.from_pretrained(bert_folder).get_vocab()
    expected = convert(bert_folder).state_dict()
    for name, tensor in AutoModelForMaskedLM.from_pretrained(target).state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_weights_that_are_not_finite_do_not_overwrite_a_model(
    bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "ours"
    main(["convert", str(bert_folder), "--output_dir", str(target)])
    before = (target / "model.safetensors").read_bytes()
    theirs = BertForMaskedLM.from_pretrained(bert_folder)
    with torch.no_grad():
        # No sample text has a second segment.
        theirs.bert.embeddings.token_type_embeddings.weight[1] = float("nan")
    theirs.save_pretrained(tmp_path / "spoiled")
    with pytest.raises(
        SystemExit, match=rf"NaN or infinite in model.embeddings.types.weight, and would replace those in {target}"
    ):
        main(["convert", str(tmp_path / "spoiled"), "--output_dir", str(target), "--overwrite"])
    assert (target / "model.safetensors").read_bytes() == before
