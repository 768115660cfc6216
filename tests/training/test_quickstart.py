"""A quickstart of seconds on a small corpus: its output, its saved folder, and the task of the saved model."""

from __future__ import annotations

import ast
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sequence_encoder.command_line import UsageError
from sequence_encoder.data import documentation
from sequence_encoder.tests.fixtures.forked_python import forked_python
from sequence_encoder.training.quickstart import quickstart as module
from sequence_encoder.training.quickstart.quickstart import QuickstartArguments, quickstart

LIBRARIES = ("asyncio", "email", "importlib", "logging", "unittest")


def run(
    arguments: QuickstartArguments, libraries: tuple[str, ...], python: str | None = None
) -> tuple[dict[str, Any], str]:
    """Run the quickstart on packages of the standard library, and return its results and its output."""
    root = Path(sysconfig.get_path("stdlib"))
    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        # A quarter of the length takes a quarter of the time.
        patch.setattr(module, "MAX_LENGTH", 32)
        patch.setattr(module, "HELD_OUT_TEXTS", 64)
        patch.setattr(module, "LABELLED_PER_LIBRARY", 20)
        patch.setattr(module, "TEST_TEXTS", 100)
        patch.setattr(
            documentation, "find_libraries", lambda: {name: sorted((root / name).rglob("*.py")) for name in libraries}
        )
        patch.setattr("builtins.print", lambda *values, **_: printed.append(" ".join(map(str, values))))
        # The process that reloads the model is a fork.
        patch.setattr(sys, "executable", python or forked_python())
        results = quickstart(arguments)
    return results, "\n".join(printed)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, str]:
    """Run a quickstart, and return its results, its folder and its output."""
    output = tmp_path_factory.mktemp("quickstart") / "my-model"
    output.mkdir()
    (output / "config.json").write_text('{"model_type": "sequence_encoder"}')
    (output / "training_args.bin").write_text("of before")
    arguments = QuickstartArguments(output_dir=str(output), overwrite=True, pretraining_steps=12, adaptation_steps=15)
    results, printed = run(arguments, LIBRARIES)
    return results, output, printed


def test_pretraining_lowers_the_held_out_loss(finished: tuple[dict[str, Any], Path, str]) -> None:
    results, _, _ = finished
    before, after = results["mlm_loss"]
    assert after < before
    assert all(0 <= share <= 1 for share in results["sop_accuracy"])
    assert results["tokens_per_second"] > 0


def test_the_saved_classifier_has_the_reported_accuracy(finished: tuple[dict[str, Any], Path, str]) -> None:
    results, output, _ = finished
    # Training and evaluation use bfloat16 where that is faster, but the saved model predicts in float32.
    assert results["reloaded_accuracy"] == pytest.approx(results["accuracy"], abs=0.05)
    assert results["accuracy"] > 0.1
    assert 1 / len(LIBRARIES) <= results["majority_accuracy"] < 1
    model = AutoModelForSequenceClassification.from_pretrained(output)
    assert sorted(model.config.label2id) == list(LIBRARIES)
    tokenizer = AutoTokenizer.from_pretrained(output)
    with torch.inference_mode():
        answer = int(model(**tokenizer("Return the root logger.", return_tensors="pt")).logits.argmax())
    assert model.config.id2label[answer] in LIBRARIES


def test_a_saved_classifier_that_does_not_load_is_an_error(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho it cannot be loaded >&2\nexit 1\n")
    python.chmod(0o700)
    arguments = QuickstartArguments(output_dir=str(tmp_path / "model"), pretraining_steps=1, adaptation_steps=1)
    with pytest.raises(RuntimeError, match=r"saved model failed in a fresh process:\nit cannot be loaded"):
        run(arguments, LIBRARIES[1:3], str(python))
    assert [path.name for path in tmp_path.iterdir()] == ["python"]


def test_the_previous_folder_is_replaced_completely(finished: tuple[dict[str, Any], Path, str]) -> None:
    _, output, _ = finished
    names = {path.name for path in output.iterdir()}
    assert "training_args.bin" not in names
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_an_interruption_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "read_documentation", interrupt)
    with pytest.raises(KeyboardInterrupt, match=r"nothing was saved.* Run the same command to start over"):
        quickstart(QuickstartArguments(output_dir=str(tmp_path / "model")))
    assert not any(tmp_path.iterdir())


def test_the_table_shows_the_results(finished: tuple[dict[str, Any], Path, str]) -> None:
    results, output, printed = finished
    rows = {
        "held-out loss of masked tokens": "{:.2f} -> {:.2f}".format(*results["mlm_loss"]),
        "held-out accuracy of sentence order": "{:.2f} -> {:.2f}".format(*results["sop_accuracy"]),
        "accuracy of naming the library": f"{results['accuracy']:.3f}",
        "adapted from random weights": f"{results['random_accuracy']:.3f}",
        "always the most frequent one": f"{results['majority_accuracy']:.3f}",
        "reloaded in a fresh process": f"{results['reloaded_accuracy']:.3f}",
        "real tokens a second": f"{results['tokens_per_second']:,.0f}",
        "peak memory": "GiB",
        "saved in": str(output.resolve()),
    }
    lines = [line.strip() for line in printed.splitlines()]
    for name, value in rows.items():
        assert [line for line in lines if line.startswith(name) and value in line] != [], name
    assert [name for name in LIBRARIES if name not in lines[0]] == []


def test_the_printed_code_runs_unchanged(finished: tuple[dict[str, Any], Path, str]) -> None:
    _, _, printed = finished
    lines = printed.split("To use it:")[1].strip()
    finished_process = subprocess.run([forked_python(), "-c", lines], capture_output=True, text=True, check=True)
    (answer,) = ast.literal_eval(finished_process.stdout.splitlines()[-1])
    assert answer["label"] in LIBRARIES


def test_the_card_has_the_metadata_and_the_results(finished: tuple[dict[str, Any], Path, str]) -> None:
    results, output, _ = finished
    card = ModelCard.load(output / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.model_name == "my-model"
    assert f"{round(results['accuracy'], 4)}" in card.text
    assert "on docstrings.jsonl, from docstring-encoder." in card.text


def test_a_checkpoint_of_another_family_is_adapted_instead(bert_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "adapted"
    arguments = QuickstartArguments(output_dir=str(output), model=str(bert_folder), adaptation_steps=10)
    results, printed = run(arguments, LIBRARIES[1:3])
    assert "mlm_loss" not in results
    assert "masked tokens" not in printed
    assert results["accuracy"] > 0
    model = AutoModelForSequenceClassification.from_pretrained(output)
    assert (model.config.hidden_size, model.config.model_type) == (24, "sequence_encoder")
    assert sorted(model.config.label2id) == list(LIBRARIES[1:3])
    assert AutoTokenizer.from_pretrained(output).get_vocab() == AutoTokenizer.from_pretrained(bert_folder).get_vocab()
    # A few small steps away from the checkpoint, and far from the random weights that it is compared with.
    embedding = load_file(bert_folder / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    torch.testing.assert_close(model.get_input_embeddings().weight.detach(), embedding, atol=0.02, rtol=0)
    card = ModelCard.load(output / "README.md")
    assert "on docstrings.jsonl, from bert." in card.text


def test_a_checkpoint_that_cannot_be_converted_is_rejected(bert_folder: Path, tmp_path: Path) -> None:
    config = bert_folder / "config.json"
    config.write_text(config.read_text().replace('"is_decoder": false', '"is_decoder": true'))
    arguments = QuickstartArguments(output_dir=str(tmp_path / "adapted"), model=str(bert_folder))
    with pytest.raises(UsageError, match=r"bert: is_decoder=True"):
        run(arguments, ())  # Before anything is read.
    assert [path.name for path in tmp_path.iterdir()] == ["bert"]


def test_a_checkpoint_without_a_tokenizer_is_rejected(bert_folder: Path, tmp_path: Path) -> None:
    for path in bert_folder.glob("tokenizer*"):
        path.unlink()
    arguments = QuickstartArguments(output_dir=str(tmp_path / "adapted"), model=str(bert_folder))
    with pytest.raises(UsageError, match=r"bert has no tokenizer"):
        run(arguments, ())
