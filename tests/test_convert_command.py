"""`sequence-encoder convert`: what it writes, what travels along, and that it loses nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertForMaskedLM, RobertaConfig, RobertaModel

from sequence_encoder import SequenceEncoderForMaskedLM
from sequence_encoder.__main__ import main
from sequence_encoder.conversion.command import TOLERANCE, largest_difference

POOLING = "1_Pooling/config.json"


def test_a_folder_is_carried_over_with_all_that_belongs_to_it(
    bert_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = bert_folder.parent / "new" / "ours"
    main(["convert", str(bert_folder), str(target)])
    printed = capsys.readouterr().out
    assert "BertForMaskedLM to SequenceEncoderForMaskedLM" in printed
    assert float(printed.split("at most ")[1].split(".\n")[0]) < 1e-4
    model = AutoModelForMaskedLM.from_pretrained(target)
    assert isinstance(model, SequenceEncoderForMaskedLM)
    ids = AutoTokenizer.from_pretrained(target)("the model", return_tensors="pt")["input_ids"]
    expected = AutoModelForMaskedLM.from_pretrained(bert_folder)(ids).logits
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-5, atol=1e-5)
    assert (target / "modules.json").read_text() == "[]"
    assert (target / POOLING).read_text() == (bert_folder / POOLING).read_text()
    assert not (target / "pytorch_model.bin").exists()
    assert [path.name for path in target.parent.iterdir()] == ["ours"]

    back = bert_folder.parent / "back"
    main(["convert", str(target), str(back), "--to", "bert"])
    assert json.loads((back / "config.json").read_text())["model_type"] == "bert"
    assert (back / "model.safetensors").read_bytes() != b""
    for key, tensor in BertForMaskedLM.from_pretrained(bert_folder).state_dict().items():
        assert torch.equal(BertForMaskedLM.from_pretrained(back).state_dict()[key], tensor), key


def test_nothing_is_overwritten_without_force_and_nothing_but_a_model_with_it(bert_folder: Path) -> None:
    target = bert_folder.parent / "ours"
    target.mkdir()
    (target / "notes.txt").write_text("of long work")
    with pytest.raises(SystemExit, match="ours exists; use --force"):
        main(["convert", str(bert_folder), str(target)])
    with pytest.raises(SystemExit, match="no folder of a saved model"):
        main(["convert", str(bert_folder), str(target), "--force"])
    assert [path.name for path in target.iterdir()] == ["notes.txt"]
    (target / "config.json").write_text("{}")
    main(["convert", str(bert_folder), str(target), "--force"])
    assert not (target / "notes.txt").exists()
    assert (target / "model.safetensors").is_file()


def test_force_never_replaces_where_one_is(bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(SystemExit, match="is where you are"):
        main(["convert", str(bert_folder), ".", "--force"])
    assert [path.name for path in Path.cwd().iterdir()] == ["config.json"]


def test_force_never_replaces_what_holds_the_source(bert_folder: Path) -> None:
    inside = bert_folder / "checkpoint-500"
    inside.mkdir()
    for name in ("config.json", "model.safetensors"):
        (inside / name).write_bytes((bert_folder / name).read_bytes())
    before = sorted(path.name for path in bert_folder.iterdir())
    for source in (inside, bert_folder):
        with pytest.raises(SystemExit, match="holds the source"):
            main(["convert", str(source), str(bert_folder), "--force"])
    assert sorted(path.name for path in bert_folder.iterdir()) == before


@pytest.mark.parametrize("kept", [["vocab.txt"], ["tokenizer.json"]])
def test_the_tokenizer_of_an_old_checkpoint_loads_beside_the_new_model(bert_folder: Path, kept: list[str]) -> None:
    """Old ones do not name their class: it follows from the model that they were made for."""
    words = AutoTokenizer.from_pretrained(bert_folder).get_vocab()
    (bert_folder / "vocab.txt").write_text("\n".join(sorted(words, key=words.__getitem__)))
    for name in {"vocab.txt", "tokenizer.json", "tokenizer_config.json"} - set(kept):
        (bert_folder / name).unlink()
    target = bert_folder.parent / "ours"
    main(["convert", str(bert_folder), str(target)])
    old, new = (AutoTokenizer.from_pretrained(folder) for folder in (bert_folder, target))
    pair = ("the text is short", "a model of a text")
    assert dict(new(*pair)) == dict(old(*pair))
    assert (new.pad_token, new.mask_token) == (old.pad_token, old.mask_token) == ("[PAD]", "[MASK]")


def test_samples_fit_models_of_short_texts_and_avoid_padding(tmp_path: Path, randomize: Callable[..., Any]) -> None:
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
    main(["convert", str(tmp_path / "short"), str(tmp_path / "ours")])
    assert (tmp_path / "ours" / "model.safetensors").is_file()


def test_what_cannot_be_converted_ends_with_a_message_and_writes_nothing(bert_folder: Path) -> None:
    before = sorted(path.name for path in bert_folder.parent.iterdir())
    for source, arguments, message in (
        (bert_folder, ["--to", "modernbert"], "Only a SequenceEncoder can be given back"),
        (bert_folder.parent / "nowhere", [], "nowhere"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["convert", str(source), str(bert_folder.parent / "ours"), *arguments])
    assert sorted(path.name for path in bert_folder.parent.iterdir()) == before


def test_another_function_is_seen_as_a_difference(bert_folder: Path) -> None:
    one, other = (BertForMaskedLM.from_pretrained(bert_folder) for _ in range(2))
    texts = [torch.randint(5, 20, (1, 7))]
    assert largest_difference(one, other, texts) == 0
    with torch.no_grad():
        other.bert.encoder.layer[1].output.dense.weight[3, 5] += 0.5
    assert largest_difference(one, other, texts) > TOLERANCE
    with torch.no_grad():
        other.bert.encoder.layer[1].output.dense.weight[3, 5] = float("nan")
    assert not largest_difference(one, other, texts) <= TOLERANCE
