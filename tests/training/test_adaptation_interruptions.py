"""An interrupted `sequence-encoder adapt` ends with the same model after `--resume`."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer

from sequence_encoder.command_line import UsageError
from sequence_encoder.tests.fixtures.adaptation_runs import (
    FAST,
    arguments,
    run,
    save_encoder,
    write_examples,
    write_rows,
)
from sequence_encoder.tests.fixtures.comparisons import assert_same_weights
from sequence_encoder.training.adaptation.run import parse
from sequence_encoder.training.adaptation.runs import scratch as adaptation_scratch
from sequence_encoder.training.adaptation.runs.scratch import scratch_of

# 8 steps, 4 per epoch, and a checkpoint every 2 steps: within epochs and at their ends.
COUNTS = {"train": 160, "validation": 24, "test": 24}
OPTIONS: dict[str, Any] = {
    **FAST,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 40,
    "save_strategy": "steps",
    "save_steps": 2,
}

Interrupt = Callable[..., None]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"), classifier_dropout=0.1)


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Interrupt]:
    """Return `interrupt(step, seed=0)`, which sends SIGINT once, after so many steps of the training with this seed."""
    step_of_trainer = Trainer.training_step
    at: list[tuple[int, int]] = []

    def step(self: Any, *given: Any, **options: Any) -> Any:
        if (self.args.seed, self.state.global_step) in at:
            at.clear()
            signal.raise_signal(signal.SIGINT)
        return step_of_trainer(self, *given, **options)

    monkeypatch.setattr(Trainer, "training_step", step)
    yield lambda step, seed=0: at.append((seed, step))
    assert not at


def results_of(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "results.json").read_text())
    return {name: value for name, value in found.items() if name not in ("seconds", "peak_memory")}


def assert_same(folder: Path, other: Path) -> None:
    assert_same_weights(folder, other)
    assert results_of(folder) == results_of(other)
    assert not list(folder.parent.glob(".*-adaptation"))


# One task for each trainer, and one method of peft: the others only differ in their data, metrics and heads, and in the
# configuration of peft. Step 3 is within an epoch, and step 4 at the end of one.
@pytest.mark.parametrize(
    ("task", "tuning", "step"),
    [
        ("classification", "full", 4),
        ("embedding", "full", 4),
        ("classification", "adapter", 3),
        ("classification", "lora", 3),
        ("infilling", "full", 3),
    ],
)
def test_a_run_resumes_to_the_same_model(
    encoder: Path, tmp_path: Path, interrupt: Interrupt, task: str, tuning: str, step: int
) -> None:
    options = {**OPTIONS, **write_examples(tmp_path, task, COUNTS), "tuning": tuning}
    run(task, encoder, tmp_path / "whole", **options)
    interrupt(step)
    with pytest.raises(KeyboardInterrupt, match=f"seed 0 up to step {step - step % 2}. Continue .* --resume"):
        run(task, encoder, tmp_path / "halves", **options)
    assert not (tmp_path / "halves").exists()
    run(task, encoder, tmp_path / "halves", **options, resume=True)
    assert_same(tmp_path / "halves", tmp_path / "whole")


def test_a_sentence_encoder_that_learns_texts_alone_resumes_to_the_same_model(
    bert_folder: Path, tmp_path: Path, interrupt: Interrupt
) -> None:
    parts = ["a model of a text", "the text is short", "return the weights of a model"]
    # Different texts, so that the vectors before the training choose the pairs of each batch.
    rows = [{"text": f"{parts[n % 3].capitalize()} {n}. {parts[n % 2].capitalize()} {-n}."} for n in range(1, 109)]
    options = {**OPTIONS, "train_file": write_rows(tmp_path / "texts.jsonl", rows)}
    run("embedding", bert_folder, tmp_path / "whole", **options)
    interrupt(3)
    with pytest.raises(KeyboardInterrupt, match=r"up to step 2\. Continue .* --resume"):
        run("embedding", bert_folder, tmp_path / "halves", **options)
    run("embedding", bert_folder, tmp_path / "halves", **options, resume=True)
    assert_same(tmp_path / "halves", tmp_path / "whole")


def test_a_run_killed_while_it_saves_resumes_to_the_same_model(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, **write_examples(tmp_path, "classification", COUNTS), "tuning": "lora"}
    run("classification", encoder, tmp_path / "whole", **options)
    save = Trainer._save_rng_state

    def killed(self: Any, folder: str) -> None:
        if self.state.global_step == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, folder)

    monkeypatch.setattr(Trainer, "_save_rng_state", killed)
    process = _forked(run, "classification", encoder, tmp_path / "halves", **options)
    assert process.exitcode == -signal.SIGKILL
    monkeypatch.undo()
    run("classification", encoder, tmp_path / "halves", **options, resume=True)
    assert_same(tmp_path / "halves", tmp_path / "whole")


def test_best_weights_and_early_stopping_survive_an_interruption(
    encoder: Path, tmp_path: Path, interrupt: Interrupt
) -> None:
    """The learning rate is so high that an early epoch has the best weights."""
    given = {**OPTIONS, **write_examples(tmp_path, "classification", COUNTS), "num_train_epochs": 6}
    given |= {"learning_rate": 0.5, "lr_scheduler_type": "constant", "early_stopping_patience": 3}
    run("classification", encoder, tmp_path / "whole", **given)
    interrupt(13)
    with pytest.raises(KeyboardInterrupt, match="seed 0 up to step 12"):
        run("classification", encoder, tmp_path / "halves", **given)
    run("classification", encoder, tmp_path / "halves", **given, resume=True)
    assert_same(tmp_path / "halves", tmp_path / "whole")


def test_finished_seeds_are_not_trained_again(
    encoder: Path, tmp_path: Path, interrupt: Interrupt, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, **write_examples(tmp_path, "classification", COUNTS), "seeds": 3}
    run("classification", encoder, tmp_path / "whole", **options)
    interrupt(7, seed=1)
    with pytest.raises(
        KeyboardInterrupt, match="finished training runs of seeds 0 and the training of seed 1 up to step 6"
    ):
        run("classification", encoder, tmp_path / "halves", **options)
    train, seeds = Trainer.train, []

    def watched(self: Any, *args: Any, **given: Any) -> Any:
        seeds.append(self.args.seed)
        return train(self, *args, **given)

    monkeypatch.setattr(Trainer, "train", watched)
    run("classification", encoder, tmp_path / "halves", **options, resume=True)
    assert seeds == [1, 2]
    assert_same(tmp_path / "halves", tmp_path / "whole")


def test_a_search_keeps_its_finished_trials(
    encoder: Path, tmp_path: Path, interrupt: Interrupt, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, **write_examples(tmp_path, "classification", {"train": 32, "validation": 8})}
    options |= {"search_trials": 3, "num_train_epochs": 1, "warmup_steps": 0}
    interrupt(0)
    with pytest.raises(KeyboardInterrupt, match="keeps the finished trials of the search"):
        run("classification", encoder, tmp_path / "out", **options)
    trials: list[int] = []
    monkeypatch.setattr(Trainer, "_hp_search_setup", _counted(trials, Trainer._hp_search_setup))
    run("classification", encoder, tmp_path / "out", **options, resume=True)
    assert len(trials) == 3


def _counted(trials: list[int], setup: Any) -> Any:
    def counted(self: Any, trial: Any) -> Any:
        if trial is not None:
            trials.append(trial.number)
        return setup(self, trial)

    return counted


def test_an_interrupted_run_is_only_discarded_on_request(encoder: Path, tmp_path: Path, interrupt: Interrupt) -> None:
    options = {**OPTIONS, **write_examples(tmp_path, "classification", COUNTS)}
    interrupt(5)
    with pytest.raises(KeyboardInterrupt):
        run("classification", encoder, tmp_path / "out", **options)
    with pytest.raises(FileExistsError, match=r"interrupted run; continue it with --resume, or .* with --overwrite"):
        run("classification", encoder, tmp_path / "out", **options)
    with pytest.raises(UsageError, match=r"these differ: learning_rate \(was 0.008, is 0.1\)"):
        run("classification", encoder, tmp_path / "out", **{**options, "learning_rate": 0.1}, resume=True)
    run("classification", encoder, tmp_path / "out", **options, overwrite=True)
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_an_interruption_before_the_first_checkpoint_leaves_nothing(
    encoder: Path, tmp_path: Path, interrupt: Interrupt
) -> None:
    options = {**OPTIONS, **write_examples(tmp_path, "classification", COUNTS)}
    interrupt(1)
    with pytest.raises(KeyboardInterrupt, match="Interrupted before the first checkpoint; nothing was saved"):
        run("classification", encoder, tmp_path / "out", **options)
    assert not list(tmp_path.glob(".out*"))
    # The next run removes what a killed run leaves.
    scratch = tmp_path / ".out-adaptation"
    (scratch / "base").mkdir(parents=True)
    (scratch / "base" / "model.safetensors").write_text("half a model")
    run("classification", encoder, tmp_path / "out", **options, resume=True)
    assert not scratch.exists()


def test_two_runs_cannot_write_to_one_folder(encoder: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, **write_examples(tmp_path, "classification", COUNTS)}
    first = parse(arguments("classification", encoder, tmp_path / "out", **options))
    with scratch_of(first, {}):
        (first.scratch / "mine").touch()
        process = _forked(_check_rejected, encoder, tmp_path / "out", options)
        assert process.exitcode == 0
        assert (first.scratch / "mine").exists()
    assert not first.scratch.exists()


def test_resuming_a_finished_run_changes_nothing(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """This includes a run that was killed after it published its model, before it removed its scratch folder."""
    options = {**OPTIONS, **write_examples(tmp_path, "classification", {"train": 32, "validation": 8})}
    remove = adaptation_scratch.shutil.rmtree

    def killed(path: Path, *given: Any, **named: Any) -> None:
        if str(path).endswith("-adaptation"):
            os.kill(os.getpid(), signal.SIGKILL)
        remove(path, *given, **named)

    monkeypatch.setattr(adaptation_scratch.shutil, "rmtree", killed)
    process = _forked(run, "classification", encoder, tmp_path / "out", **options)
    assert process.exitcode == -signal.SIGKILL
    monkeypatch.undo()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    for _ in range(2):
        run("classification", encoder, tmp_path / "out", **options, resume=True)
        assert f"The run in {tmp_path / 'out'} is finished." in capsys.readouterr().out
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before
        assert not list(tmp_path.glob(".out*"))
    for changed in ({"learning_rate": 0.1}, {"seeds": 2}):
        with pytest.raises(FileExistsError, match=r"out exists; .* --overwrite"):
            run("classification", encoder, tmp_path / "out", **{**options, **changed}, resume=True)


def test_a_run_is_not_resumed_on_other_examples(encoder: Path, tmp_path: Path, interrupt: Interrupt) -> None:
    options = {**OPTIONS, **write_examples(tmp_path, "classification", COUNTS)}
    interrupt(7)
    with pytest.raises(KeyboardInterrupt):
        run("classification", encoder, tmp_path / "out", **options)
    file = Path(options["train_file"])
    text = file.read_text()
    for changed, count in ((text + text.splitlines()[0], "161"), (text.replace("cat", "dog", 1), "160")):
        file.write_text(changed)
        with pytest.raises(
            UsageError, match=rf"these differ: train examples \(was '160 with .*', is '{count} with the digest \w+'\)"
        ):
            run("classification", encoder, tmp_path / "out", **options, resume=True)
    # A rewritten file with the same content holds the same examples.
    file.write_text(text)
    run("classification", encoder, tmp_path / "out", **options, resume=True)


def test_sigterm_is_handled_like_ctrl_c(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {**OPTIONS, **write_examples(tmp_path, "classification", COUNTS)}
    step_of_trainer = Trainer.training_step

    def step(self: Any, *given: Any, **named: Any) -> Any:
        if self.state.global_step == 7:
            signal.raise_signal(signal.SIGTERM)
        return step_of_trainer(self, *given, **named)

    monkeypatch.setattr(Trainer, "training_step", step)
    with pytest.raises(KeyboardInterrupt, match=r"seed 0 up to step 6\. Continue .* --resume"):
        run("classification", encoder, tmp_path / "out", **options)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def _forked(function: Callable[..., Any], *given: Any, **options: Any) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=function, args=given, kwargs=options)
    process.start()
    process.join()
    return process


def _check_rejected(encoder: Path, output: Path, options: dict[str, Any]) -> None:
    for resume in (False, True):
        with pytest.raises(FileExistsError, match=f"Another run is writing to {output}"):
            run("classification", encoder, output, **options, resume=resume, overwrite=True)
