"""`sequence_encoder.pretrain` takes what a program has in memory, and trains as the command does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel

from sequence_encoder import PretrainingReport, SequenceEncoderForPreTraining, pretrain
from sequence_encoder.__main__ import main
from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.pretraining_runs import TINY, command, losses, write_corpus
from sequence_encoder.tests.fixtures.texts import TEXTS


def options(*without: str, **others: Any) -> dict[str, Any]:
    return {name: value for name, value in {**TINY, **others}.items() if name not in without}


@pytest.fixture(scope="module")
def by_command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the command on a file, and return its output folder."""
    folder = tmp_path_factory.mktemp("command")
    main(["pretrain", *command(write_corpus(folder), folder / "out", eval_documents=4, eval_steps=4)])
    return folder / "out"


@pytest.mark.parametrize(
    ("corpus_of", "column"),
    [
        (lambda folder: TEXTS, {}),
        (lambda folder: ({"body": text, "number": 1} for text in TEXTS), {"text_column": "body"}),
        (lambda folder: Dataset.from_dict({"n": [*range(len(TEXTS))], "body": TEXTS}), {"text_column": "body"}),
        (write_corpus, {}),
    ],
    ids=["texts", "documents", "dataset", "file"],
)
def test_texts_in_memory_give_the_losses_and_the_weights_of_the_command(
    by_command: Path, tmp_path: Path, corpus_of: Callable[[Path], Any], column: dict[str, str]
) -> None:
    given = options(eval_documents=4, eval_steps=4, output_dir=tmp_path / "out", **column)
    model, tokenizer, report = pretrain(corpus_of(tmp_path), **given)
    assert type(model) is SequenceEncoderForPreTraining
    assert not model.training
    assert report.losses == [entry["loss"] for entry in losses(by_command)]
    for name, weight in AutoModelForMaskedLM.from_pretrained(by_command).state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(by_command).get_vocab()
    assert (report.steps, report.output_dir, report.parameters) == (8, tmp_path / "out", model.num_parameters())
    assert 0 < report.metrics["mlm_loss"] < 10


def test_a_model_in_memory_is_continued_and_does_not_change(by_command: Path, tmp_path: Path) -> None:
    named = options("size", "config_overrides", "vocab_size", max_steps=3)
    expected, _, report = pretrain(TEXTS, by_command, output_dir=tmp_path / "named", **named)
    model, tokenizer = (
        SequenceEncoderForPreTraining.from_pretrained(by_command),
        AutoTokenizer.from_pretrained(by_command),
    )
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    found, _, same = pretrain(TEXTS, model, tokenizer, tmp_path / "in-memory", **named)
    assert same.losses == report.losses
    for name, weight in found.state_dict().items():
        assert torch.equal(weight, expected.state_dict()[name])
        assert torch.equal(model.state_dict()[name], before[name])
    assert not torch.equal(found.model.embed_tokens.weight, model.model.embed_tokens.weight)


def test_a_tokenizer_in_memory_is_that_of_a_new_model(by_command: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(by_command)
    tokenizer.model_max_length = 17
    model, found, _ = pretrain(
        TEXTS, tokenizer=tokenizer, output_dir=tmp_path / "out", **options("vocab_size", max_steps=1)
    )
    assert found.get_vocab() == tokenizer.get_vocab()
    assert model.config.vocab_size == len(tokenizer)
    assert (found.model_max_length, tokenizer.model_max_length) == (48, 17)


def test_defaults_are_those_of_the_command_for_the_given_options(tmp_path: Path) -> None:
    given = options("learning_rate", max_steps=1, preset="bert", output_dir=tmp_path / "out")
    report: PretrainingReport = pretrain(TEXTS, **given)[2]
    card = (report.output_dir / "README.md").read_text()
    assert "AdamW" in card
    assert "MuonWithAdamW" not in card
    assert "texts in memory" in card


def test_a_run_continues_with_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = options("max_steps", output_dir=tmp_path / "out")
    pretrain(TEXTS, max_steps=4, **given)
    with pytest.raises(FileExistsError, match="finished after 4 steps"):
        pretrain(TEXTS, max_steps=6, **given)
    assert pretrain(TEXTS, max_steps=6, resume=True, **given)[2].steps == 6
    assert len(pretrain(TEXTS, max_steps=6, resume=True, **given)[2].losses) == 6
    assert "is finished, after 6 steps" in capsys.readouterr().out
    with pytest.raises(UsageError, match="has changed: it had"):
        pretrain(TEXTS[:-1], max_steps=8, resume=True, **given)


@pytest.mark.parametrize(
    ("corpus", "given", "message"),
    [
        ([], {}, "corpus must have at least one text, got none"),
        (["One text.", 2], {}, r"corpus\[1\] must be a text, got 2 of type int"),
        ([{"text": "One."}, {"body": "Two."}], {}, r"corpus\[1\]\['text'\] must be a text, got None"),
        (7, {}, "corpus must be a file, .*, got a int"),
        ({"text": ["One."]}, {}, "corpus must be a file, .*, got a dict"),
        (DatasetDict(train=Dataset.from_dict({"text": ["One."]})), {}, "pass one of 'train'"),
        (IterableDataset.from_generator(lambda: iter(())), {}, "corpus is a stream; .* streaming=True"),
        (Dataset.from_dict({"body": ["One."]}), {}, "text_column text is not a column of corpus; choose one of body"),
        (TEXTS, {"split": "test"}, "split has no effect with texts in memory"),
        (TEXTS, {"eval_documents": len(TEXTS)}, r"--eval_documents must be less than the \d+ documents"),
        (TEXTS, {"lr": 1}, "there is no option lr; the options are"),
        (TEXTS, {"size": "huge"}, "size must be one of 'tiny'.*got 'huge'"),
        (TEXTS, {"model": "some/model", "size": "tiny"}, "--size has no effect with MODEL"),
        (TEXTS, {"model": 3}, "model must be a name or a PreTrainedModel, got a int"),
        ("no/such/folder", {}, "there is no such file, folder or dataset"),
    ],
)
def test_bad_input_gets_a_clear_error(corpus: Any, given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        pretrain(corpus, output_dir=tmp_path / "out", **given)


def test_a_model_in_memory_needs_its_tokenizer(by_command: Path, tmp_path: Path) -> None:
    model: PreTrainedModel = SequenceEncoderForPreTraining.from_pretrained(by_command)
    with pytest.raises(UsageError, match="tokenizer must be the tokenizer of the model, got None"):
        pretrain(TEXTS, model, output_dir=tmp_path)
