"""Mistakes of a new user end with one line that says what is wrong and what to do, before anything is computed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig

from sequence_encoder import SequenceEncoderModel
from sequence_encoder.__main__ import main
from sequence_encoder.tests.adaptation_runs import save_encoder, write_examples
from sequence_encoder.tests.pretraining_runs import command, write_corpus
from sequence_encoder.training.adaptation.encoder import encoder_of


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end with one line, and returns that line."""

    def run(*arguments: Any) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ending:
            main([str(each) for each in arguments])
        message, shown = str(ending.value.code), "".join(capfd.readouterr())
        assert len(message.splitlines()) == 1, message
        assert shown == "", shown
        return message

    return run


@pytest.fixture
def adapt_from(tmp_path: Path) -> Callable[[str | Path], tuple[Any, ...]]:
    """The arguments of `adapt` from some checkpoint."""
    files = write_examples(tmp_path, "classification", {"train": 30})

    def arguments(checkpoint: str | Path) -> tuple[Any, ...]:
        train = ("--train_file", files["train_file"], "--output_dir", tmp_path / "out")
        return "adapt", "--task", "classification", "--from", checkpoint, *train

    return arguments


def test_a_folder_that_is_no_model_is_named_with_what_it_lacks(
    refused: Callable[..., str], adapt_from: Callable[..., tuple[Any, ...]], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    without = save_encoder(tmp_path / "without")
    for file in without.glob("tokenizer*"):
        file.unlink()
    assert "empty is not a saved model: it has no config.json" in refused(*adapt_from(tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"without holds no tokenizer, such as a tokenizer\.json\.$"):
        encoder_of(str(without), tmp_path / "out", any_family=False, may_write=False)
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_neither_here_nor_on_the_hub_is_refused_at_once(
    refused: Callable[..., str],
    adapt_from: Callable[..., tuple[Any, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    told = r"some/one is not a folder here, and could not be downloaded from the Hub: .+"
    assert re.search(told, refused(*adapt_from("some/one")))
    assert re.search(told, refused("convert", "some/one", tmp_path / "ours"))
    corpus = write_corpus(tmp_path)
    message = refused("pretrain", *command(corpus, tmp_path / "run", tokenizer="some/one"))
    assert re.search(rf"--tokenizer some/one: {told}", message)


def test_pickled_weights_are_named_with_the_remedy(refused: Callable[..., str], tmp_path: Path) -> None:
    BertConfig(vocab_size=40, hidden_size=16, num_attention_heads=2, architectures=["BertModel"]).save_pretrained(
        tmp_path
    )
    torch.save({}, tmp_path / "pytorch_model.bin")
    message = refused("convert", tmp_path, tmp_path / "ours")
    assert "pytorch_model.bin is a pickled file" in message
    assert "Convert the weights to model.safetensors" in message


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("config_overrides", "num_attention_heads=7", "hidden_size=128 is not divisible by num_attention_heads=7"),
        ("config_overrides", "norm=batch", "Field 'norm' expected one of ('layer_norm', 'rms_norm'), got batch"),
        ("config_overrides", "layers=3", "--config_overrides layers: there is no such field"),
        ("config_overrides", "num_hidden_layers=1000000000", "num_hidden_layers must be at most 10,000"),
        ("vocab_size", "-5", "--vocab_size must be at least 7 for --algorithm wordpiece, got -5"),
        ("output_dir", "/proc/x", "--output_dir /proc/x cannot be written"),
    ],
)
def test_pretrain_refuses_before_it_reads_a_text(
    refused: Callable[..., str], tmp_path: Path, option: str, value: str, told: str
) -> None:
    arguments = command(write_corpus(tmp_path), tmp_path / "run", config_overrides=None)
    assert told in refused("pretrain", *arguments, f"--{option}={value}")
    assert not (tmp_path / "run").exists()


def test_a_file_of_another_encoding_is_told_in_one_line(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text\ncafé\n".encode("latin-1"))
    assert "--encoding latin-1" in refused("pretrain", *command(tmp_path / "a.csv", tmp_path / "run"))


def test_a_push_without_a_token_is_refused_before_training(
    refused: Callable[..., str],
    adapt_from: Callable[..., tuple[Any, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    told = "--push_to_hub needs a token of the Hub: log in with `hf auth login`, or set HF_TOKEN."
    assert told in refused(*adapt_from("nowhere"), "--push_to_hub")
    assert told in refused("pretrain", *command(write_corpus(tmp_path), tmp_path / "run"), "--push_to_hub")


def test_a_hub_that_cannot_be_reached_is_one_line(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://localhost:9")
    with pytest.raises(SystemExit, match="--push_to_hub: the repository could not be created: "):
        main(["pretrain", *command(write_corpus(tmp_path), tmp_path / "run"), "--push_to_hub"])


def test_settings_that_are_not_there_are_named(refused: Callable[..., str]) -> None:
    assert "there is no file nowhere.yaml" in refused("adapt", "nowhere.yaml")


@pytest.mark.parametrize("tokenizer", ["quickstart-model", ["a text"]], ids=["a name", "texts"])
def test_encode_refuses_what_is_no_tokenizer(tmp_path: Path, tokenizer: Any) -> None:
    model = SequenceEncoderModel.from_pretrained(save_encoder(tmp_path))
    with pytest.raises(ValueError, match="tokenizer must be a tokenizer of transformers, got"):
        model.encode(["a text"], tokenizer)


def test_help_of_a_task_has_an_example_of_that_task(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["adapt", "--task", "ner", "--help"])
    told = capsys.readouterr().out
    assert "sequence-encoder adapt --task ner --from MODEL" in told
    assert "classification" not in told


def test_resume_says_that_there_is_nothing_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["pretrain", *command(write_corpus(tmp_path), tmp_path / "run", max_steps=1), "--resume"])
    assert "--resume finds no interrupted run in" in capsys.readouterr().out
