"""`sequence-encoder pretrain` does not touch files that it did not write, and loses none that it wrote."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from transformers import Trainer

from sequence_encoder.__main__ import main
from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.pretraining_runs import command, run_here, write_corpus
from sequence_encoder.training.checkpoints import checkpoints_in, rotate_checkpoints
from sequence_encoder.training.pretraining import pretrain as pretraining
from sequence_encoder.training.pretraining.run import parse


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished") / "out"
    run_here(corpus, output, max_steps=2)
    return output


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    """Copy the folder of a run of two steps, with checkpoint-2."""
    return shutil.copytree(finished, tmp_path / "out")


def test_overwrite_deletes_only_files_of_the_run_and_names_those_it_keeps(
    corpus: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = ["checkpoint-5/notes.txt", "checkpoint-2/my_research.py", "_pretraining/plan.md", "thesis.py", "README.md"]
    for name in mine:
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).write_text("mine")
    run_here(corpus, output, max_steps=1, overwrite=True)
    output_text = capsys.readouterr().out
    for name in mine:
        assert (output / name).read_text() == "mine"
    for named in ("checkpoint-5, which", "my_research.py", "plan.md", "README.md, which"):
        assert named in output_text
    assert [path.name for path in checkpoints_in(output)] == ["checkpoint-1"]
    assert os.listdir(output / "checkpoint-2") == ["my_research.py"]


def test_checkpoint_rotation_keeps_user_files(corpus: Path, tmp_path: Path) -> None:
    run_here(corpus, tmp_path, max_steps=1)
    (tmp_path / "checkpoint-1" / "notes.txt").write_text("mine")
    run_here(corpus, tmp_path, max_steps=3, save_steps=1, save_total_limit=1, resume=True)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-3"]
    assert os.listdir(tmp_path / "checkpoint-1") == ["notes.txt"]


def test_checkpoints_of_another_program_are_not_deleted(corpus: Path, output: Path) -> None:
    shutil.rmtree(output / "_pretraining")
    with pytest.raises(UsageError, match=r"pretrain did not write .*checkpoint-2"):
        run_here(corpus, output, overwrite=True)
    assert (output / "checkpoint-2" / "model.safetensors").exists()


@pytest.mark.parametrize("linked", ["_pretraining", "checkpoint-2"])
@pytest.mark.parametrize("option", ["resume", "overwrite"])
def test_symbolic_links_are_rejected_by_name(corpus: Path, output: Path, linked: str, option: str) -> None:
    shutil.move(output / linked, output.parent / "elsewhere")
    (output / linked).symlink_to(output.parent / "elsewhere")
    with pytest.raises(SystemExit, match=f"{output / linked} is a symbolic link"):
        main(["pretrain", *command(corpus, output, **{option: True, "max_steps": 3})])
    assert os.listdir(output.parent / "elsewhere")


@pytest.mark.parametrize(
    ("given", "output_dir"),
    [
        ("texts", "texts"),
        ("texts", "texts/out"),
        ("texts/corpus.jsonl", "texts"),
        ("texts/corpus.jsonl", "."),
        ("texts/*.jsonl", "texts"),
        ("**/*.jsonl", "out"),
        ("*/*.jsonl", "out"),
    ],
)
def test_an_output_folder_that_overlaps_with_the_corpus_is_rejected(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, output_dir: str
) -> None:
    (tmp_path / "texts").mkdir()
    shutil.copy(corpus, tmp_path / "texts" / "corpus.jsonl")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="overlap"):
        run_here(Path(given), Path(output_dir))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["corpus.jsonl", "texts"]


def test_a_resumed_run_restores_the_arguments_that_are_not_given(corpus: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"mlm_probability": 0.4, "max_steps": 5, "overwrite": True}))
    output, arguments = tmp_path / "out", command(corpus, tmp_path / "out", max_steps=None, save_steps=2)
    pretraining.run_pretraining(parse([str(settings), *arguments, "--seed=3"]))
    resumed = parse(["--resume", "--output-dir", str(output), "--max_steps", "7"])
    assert resumed.corpus.corpus == str(corpus)
    assert resumed.objectives.mlm_probability == 0.4
    assert (resumed.args.seed, resumed.args.save_steps, resumed.args.max_steps) == (3, 2, 7)
    assert pretraining.run_pretraining(resumed).state.global_step == 7
    # Later resumptions use the arguments that were given last.
    assert parse(["--resume", "--output_dir", str(output)]).args.max_steps == 7


@pytest.mark.parametrize("arguments", [["--resume"], ["--resume", "True", "--output_dir", "nowhere"]])
def test_resume_without_an_interrupted_run_needs_a_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"--resume found no interrupted run in .*--corpus"):
        main(["pretrain", *arguments])
    assert not list(tmp_path.iterdir())


def test_a_run_is_not_resumed_on_another_corpus(tmp_path: Path) -> None:
    corpus, output = write_corpus(tmp_path), tmp_path / "out"
    run_here(corpus, output, max_steps=1)
    before = corpus.read_text()
    corpus.write_text(before + before.splitlines()[0])
    with pytest.raises(
        UsageError, match=r"corpus.jsonl has changed: it had \d+ windows of .* tokens, and now has \d+ of"
    ):
        run_here(corpus, output, max_steps=2, resume=True)
    corpus.write_text("".join(reversed(before.splitlines(True))))
    with pytest.raises(UsageError, match=r"has changed: .* with different lengths"):
        run_here(corpus, output, max_steps=2, resume=True)
    corpus.write_text(before)
    run_here(corpus, output, max_steps=2, resume=True)


@pytest.mark.parametrize("name", ["weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "optim"])
def test_arguments_that_the_optimizer_state_would_undo_are_rejected(corpus: Path, output: Path, name: str) -> None:
    with pytest.raises(UsageError, match=rf"these differ: .*{name} \(was .*, is '?(0.5|sgd)'?\)"):
        run_here(corpus, output, max_steps=4, resume=True, **{name: "sgd" if name == "optim" else 0.5})


def test_modules_of_sentence_transformers_go_with_their_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        for name in ("config.json", "1_Pooling/config.json", "2_Normalize/config.json", "3_Dense/model.safetensors"):
            file = tmp_path / f"checkpoint-{step}" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("{}")
    rotate_checkpoints(tmp_path, 1, None)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    assert capsys.readouterr().out == ""


def test_a_second_run_into_the_same_folder_is_rejected(corpus: Path, output: Path) -> None:
    with (
        FileLock(output / "_pretraining" / "lock", timeout=0),
        pytest.raises(FileExistsError, match="Another run is writing to"),
    ):
        run_here(corpus, output, overwrite=True)
    assert (output / "checkpoint-2").exists()
    run_here(corpus, output, overwrite=True, max_steps=1)


def test_a_failure_after_training_keeps_the_model(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any) -> None:
        raise OSError("no room for a picture")

    monkeypatch.setattr(pretraining, "plot_losses", fail)
    with pytest.raises(OSError, match="no room"):
        run_here(corpus, tmp_path, max_steps=2)
    assert load_file(tmp_path / "model.safetensors")


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def interrupted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Send a signal in the third step of the next training."""
    step_of_trainer, left = Trainer.training_step, [None]

    def step(self: Any, *given: Any, **options: Any) -> Any:
        if self.state.global_step == 2 and left:
            left.clear()
            signal.raise_signal(request.param)
        return step_of_trainer(self, *given, **options)

    monkeypatch.setattr(Trainer, "training_step", step)
    yield
    assert not left


def test_an_interrupted_run_saves_a_checkpoint_and_says_how_to_resume(
    corpus: Path, tmp_path: Path, interrupted: None, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"preset": "bert", "ema_decay": 0.5}
    with pytest.raises(SystemExit) as exit_:
        main(["pretrain", *command(corpus, tmp_path / "out", **options)])
    assert exit_.value.code == 130
    output_text = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{tmp_path / 'out' / 'checkpoint-3'} contains the first 3 steps" in output_text
    assert "--resume" in output_text
    assert not (tmp_path / "out" / "config.json").exists()
    tokenizer = tmp_path / "tokenizer"
    shutil.copytree(tmp_path / "out" / "_pretraining" / "tokenizer", tokenizer)
    run_here(corpus, tmp_path / "out", **options, resume=True)
    run_here(corpus, tmp_path / "whole", **options, tokenizer=tokenizer)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_an_interruption_before_training_says_that_nothing_was_saved(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(pretraining, "load_corpus", lambda *given: signal.raise_signal(signal.SIGINT))
    with pytest.raises(SystemExit) as exit_:
        main(["pretrain", *command(corpus, tmp_path)])
    assert exit_.value.code == 130
    assert "interrupted before the first checkpoint; nothing was saved" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
