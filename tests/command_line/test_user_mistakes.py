"""Mistakes of new users end with one line that states the problem and what to do, before anything is computed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig

from sequence_encoder import SequenceEncoderModel
from sequence_encoder.__main__ import main
from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.adaptation_runs import save_encoder, write_examples
from sequence_encoder.tests.fixtures.pretraining_runs import command, run_here, write_corpus
from sequence_encoder.training.adaptation.encoder import encoder_of


@pytest.fixture
def error_of(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return `error_of(*arguments)`, which runs a command that must end with one line, and returns that line."""

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
    """Return `adapt_from(checkpoint)`, which returns the arguments of `adapt`."""
    files = write_examples(tmp_path, "classification", {"train": 30})

    def arguments(checkpoint: str | Path) -> tuple[Any, ...]:
        train = ("--train_file", files["train_file"], "--output_dir", tmp_path / "out")
        return "adapt", "--task", "classification", "--model", checkpoint, *train

    return arguments


def test_a_folder_without_a_model_is_rejected_with_the_missing_file(
    error_of: Callable[..., str], adapt_from: Callable[..., tuple[Any, ...]], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    without = save_encoder(tmp_path / "without")
    for file in without.glob("tokenizer*"):
        file.unlink()
    assert "empty is not a saved model: it has no config.json" in error_of(*adapt_from(tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"without has no tokenizer files, such as tokenizer\.json\.$"):
        encoder_of(str(without), tmp_path / "out", any_family=False, may_write=False)
    assert not (tmp_path / "out").exists()


def test_an_unknown_checkpoint_name_is_rejected_at_once(
    error_of: Callable[..., str],
    adapt_from: Callable[..., tuple[Any, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    expected = r"some/one is not a local folder and could not be downloaded from the Hub: .+"
    assert re.search(expected, error_of(*adapt_from("some/one")))
    assert re.search(expected, error_of("convert", "some/one", "--output_dir", tmp_path / "ours"))
    assert re.search(expected, error_of("inspect", "some/one"))
    corpus = write_corpus(tmp_path)
    message = error_of("pretrain", *command(corpus, tmp_path / "run", tokenizer="some/one"))
    assert re.search(rf"--tokenizer some/one: {expected}", message)
    arguments = command(corpus, tmp_path / "other", config_overrides=None, model="some/one")
    assert re.search(rf"pretrain: {expected}", error_of("pretrain", *arguments))


def test_an_exported_model_is_rejected_with_what_can_run_it(
    error_of: Callable[..., str], adapt_from: Callable[..., tuple[Any, ...]], tmp_path: Path
) -> None:
    exported = save_encoder(tmp_path / "exported")
    (exported / "model.safetensors").unlink()
    (exported / "export.json").write_text("{}")
    for arguments in (adapt_from(exported), ("quantize", exported, "--output_dir", tmp_path / "out")):
        assert "exported is an exported model, which only `embed`," in error_of(*arguments)
    with pytest.raises(ValueError, match=r"For anything else, use the model that it was exported from\.$"):
        AutoModel.from_pretrained(exported)
    assert not (tmp_path / "out").exists()


def test_pickled_weights_are_rejected_with_a_remedy(error_of: Callable[..., str], tmp_path: Path) -> None:
    BertConfig(vocab_size=40, hidden_size=16, num_attention_heads=2, architectures=["BertModel"]).save_pretrained(
        tmp_path
    )
    torch.save({}, tmp_path / "pytorch_model.bin")
    message = error_of("convert", tmp_path, "--output_dir", tmp_path / "ours")
    assert "pytorch_model.bin is a pickled file" in message
    assert "convert it to model.safetensors" in message


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[" * 100_000, "{} is not valid JSON: maximum recursion depth"),
        ('{"text": "a \\ud800", "label": "b"}', r"line 1 of {} has '\ud800' in the column text, half of a character"),
    ],
    ids=["too deep", "half a character"],
)
def test_json_that_does_not_fit_a_table_is_rejected_by_name(
    error_of: Callable[..., str], adapt_from: Callable[..., tuple[Any, ...]], tmp_path: Path, line: str, expected: str
) -> None:
    (tmp_path / "odd.jsonl").write_text(line)
    for arguments in (
        (*adapt_from("m"), "--train_file", tmp_path / "odd.jsonl"),
        ("pretrain", *command(tmp_path / "odd.jsonl", tmp_path / "run")),
    ):
        assert expected.format(tmp_path / "odd.jsonl") in error_of(*arguments)


def test_a_cache_that_cannot_be_written_is_not_blamed_on_the_corpus(
    error_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", "/proc/nowhere")
    (tmp_path / "texts.txt").write_text("A text.\n" * 9)
    message = error_of("pretrain", *command(tmp_path / "texts.txt", tmp_path / "run"))
    assert "/proc/nowhere" in message
    assert "texts.txt" not in message


def test_a_tilde_is_expanded_to_the_home_folder(
    error_of: Callable[..., str],
    adapt_from: Callable[..., tuple[Any, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.csv").write_text("text,label\n")
    assert "mine.csv has no examples" in error_of(*adapt_from("m"), "--train_file=~/mine.csv")


def test_holding_out_a_whole_stream_is_rejected(error_of: Callable[..., str], tmp_path: Path) -> None:
    arguments = command(write_corpus(tmp_path), tmp_path / "run", streaming=True, eval_documents=10_000)
    assert "--eval_documents 10000 leaves no document of" in error_of("pretrain", *arguments)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("vocab_size=7", "vocab_size=7: the tokenizer has"),
        ("max_position_embeddings=9", "--max_length must be at most 9"),
    ],
)
def test_an_encoder_too_small_for_tokenizer_or_texts_is_rejected(tmp_path: Path, overrides: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        run_here(write_corpus(tmp_path), tmp_path / "run", preset="bert", config_overrides=overrides)


def test_a_damaged_corpus_is_reported_in_one_line(error_of: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text\n"open\n')
    assert "a.csv is not valid CSV: unexpected end of data" in error_of(
        "pretrain", *command(tmp_path / "a.csv", tmp_path / "run")
    )


def test_a_wrong_encoding_is_reported_in_one_line(error_of: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text\ncafé\n".encode("latin-1"))
    assert "--encoding latin-1" in error_of("pretrain", *command(tmp_path / "a.csv", tmp_path / "run"))


def test_a_push_without_a_token_is_rejected_before_training(
    error_of: Callable[..., str],
    adapt_from: Callable[..., tuple[Any, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    expected = "--push_to_hub needs a token of the Hub: log in with `hf auth login`, or set HF_TOKEN."
    assert expected in error_of(*adapt_from("nowhere"), "--push_to_hub")
    assert expected in error_of("pretrain", *command(write_corpus(tmp_path), tmp_path / "run"), "--push_to_hub")


@pytest.mark.parametrize("tokenizer", ["quickstart-model", ["a text"]], ids=["a name", "texts"])
def test_encode_rejects_invalid_tokenizers(tmp_path: Path, tokenizer: Any) -> None:
    model = SequenceEncoderModel.from_pretrained(save_encoder(tmp_path))
    with pytest.raises(ValueError, match="tokenizer must be a transformers tokenizer, got"):
        model.encode(["a text"], tokenizer)


def test_a_head_for_other_labels_is_rejected_with_the_option_that_replaces_it(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder")
    AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).save_pretrained(folder)
    with pytest.raises(RuntimeError, match=r"encoder do not have the shapes .*; pass ignore_mismatched_sizes=True"):
        AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)


def test_an_unreachable_hub_is_reported_in_one_line(
    error_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://localhost:9")
    with pytest.raises(SystemExit, match="--push_to_hub: the repository could not be created: "):
        main(["pretrain", *command(write_corpus(tmp_path), tmp_path / "run"), "--push_to_hub"])
