"""`sequence-encoder convert`: what it writes, what travels along, and that it loses nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertForMaskedLM

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
