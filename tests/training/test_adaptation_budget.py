"""`sequence-encoder adapt --seconds` shortens a training, and changes nothing else."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from sequence_encoder.__main__ import main
from sequence_encoder.command_line.clock import command_start, running_since
from sequence_encoder.tests.fixtures.adaptation_runs import (
    FAST,
    examples_of,
    refusal_of,
    run,
    save_encoder,
    write_examples,
)
from sequence_encoder.tests.fixtures.comparisons import assert_same_weights
from sequence_encoder.training.adaptation import linear_head, steps
from sequence_encoder.training.adaptation.run import parse
from sequence_encoder.training.adaptation.runs import budget, training
from sequence_encoder.training.adaptation.setups.head import HeadSetup

COUNTS = {"train": 64, "validation": 16}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"), classifier_dropout=0.1)


def found(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "results.json").read_text())["hyperparameters_found"])


def sizes_of_searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each evaluation of embeddings adds the number of texts that it searches."""
    sizes: list[int] = []
    evaluate = InformationRetrievalEvaluator.__call__

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        sizes.append(len(self.corpus))
        return evaluate(self, *args, **options)

    monkeypatch.setattr(InformationRetrievalEvaluator, "__call__", counted)
    return sizes


@pytest.mark.parametrize("task", ["classification", "qa", "embedding"])
def test_a_second_shortens_a_long_training(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    options = {**FAST, "num_train_epochs": 5_000, **write_examples(tmp_path, task, COUNTS)}
    run(task, encoder, tmp_path / "out", **options, tuning="full", seconds=1)
    assert 10 / 4 <= found(tmp_path / "out")["num_train_epochs"] < 5_000
    printed = capsys.readouterr().out
    assert (
        "within 1 seconds." in printed
        or "There is no time for 10 steps within 1 seconds, but no training has fewer." in printed
    )


def test_enough_time_leads_to_the_same_model_as_no_limit(encoder: Path, tmp_path: Path) -> None:
    options = {**FAST, **write_examples(tmp_path, "classification", COUNTS)}
    for folder, limit in (("free", {}), ("limited", {"seconds": 100_000})):
        run("classification", encoder, tmp_path / folder, **options, **limit)
    assert found(tmp_path / "limited") == {}
    assert_same_weights(tmp_path / "limited", tmp_path / "free")


def test_without_time_to_train_the_linear_head_is_kept(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(budget, "PLANNED", 0)
    options = write_examples(tmp_path, "classification", {"train": 64})
    results = run("classification", encoder, tmp_path / "out", **options, seconds=5)
    assert results.tuning == "linear"
    assert "5 seconds are too few to train all weights, so only the linear head is kept." in (capsys.readouterr().out)
    assert results.trained == 3 * 32 + 3


@pytest.mark.parametrize("limit", [{}, {"seconds": 100_000}])
def test_one_epoch_of_pairs_is_evaluated_only_before_and_after_it(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: dict[str, Any]
) -> None:
    searched = sizes_of_searches(monkeypatch)
    files = write_examples(tmp_path, "embedding", COUNTS)
    run("embedding", encoder, tmp_path / "out", **files, **FAST | {"num_train_epochs": 1}, **limit)
    assert len(searched) == 2


def test_a_resumed_run_searches_among_as_many_texts_as_before(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(budget, "_SEARCHES", 1e-6)
    searched = sizes_of_searches(monkeypatch)
    options = {**FAST, "num_train_epochs": 5_000, **write_examples(tmp_path, "embedding", COUNTS)}
    options |= {"seconds": 1, "seeds": 2}

    def interrupted(*given: Any) -> None:
        if given[2] == 1:
            raise KeyboardInterrupt
        train(*given)

    with monkeypatch.context() as patched:
        train = training.train
        patched.setattr(steps, "train", interrupted)
        with pytest.raises(KeyboardInterrupt, match="the finished training runs of seeds 0"):
            run("embedding", encoder, tmp_path / "out", **options)
    results = run("embedding", encoder, tmp_path / "out", **options, resume=True)
    assert [result.seed for result in results.trainings] == [0, 1]
    # Only the texts of the validation pairs, which are always among them.
    fewest = len({row["text_pair"] for row in examples_of("embedding", COUNTS["validation"], 1)})
    assert set(searched) == {fewest}
    assert json.loads((tmp_path / "out" / "results.json").read_text())["searched_texts"] == fewest
    assert f"Evaluations search among {fewest} texts instead of " in capsys.readouterr().out


@pytest.mark.parametrize(("affordable", "steps"), [(12, 12), (1, 10)])
def test_a_part_of_a_long_epoch_is_not_rounded_to_nothing(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, affordable: int, steps: int
) -> None:
    count = 2_500
    monkeypatch.setattr(budget, "_affordable_epochs", lambda *given: affordable / count)
    options = {**FAST, **write_examples(tmp_path, "multiple-choice", {"train": count, "validation": 8})}
    options["per_device_train_batch_size"] = 1
    results = run("multiple-choice", encoder, tmp_path / "out", **options, seconds=1_000)
    assert round(results.found["num_train_epochs"] * count) == steps


def test_a_kept_linear_head_is_not_evaluated_again(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "PLANNED", 0)
    judge, judged = HeadSetup.judge, []

    def counted(self: HeadSetup, trainer: Any, split: str) -> Any:
        judged.append(split)
        return judge(self, trainer, split)

    monkeypatch.setattr(HeadSetup, "judge", counted)
    files = write_examples(tmp_path, "classification", {**COUNTS, "test": 16})
    results = run("classification", encoder, tmp_path / "out", **files, seconds=5)
    assert results.tuning == "linear"
    assert judged == ["validation", "test"]
    assert results.best.metrics == results.baselines["linear_head"]
    assert len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()) == 16


def test_the_linear_head_is_fitted_to_as_many_examples_as_there_is_time_for(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(linear_head, "_SHARE_OF_TIME", 0)
    files = write_examples(tmp_path, "classification", {"train": 240, "validation": 40, "test": 40})
    results = run("classification", encoder, tmp_path / "out", **files, **FAST, seconds=100_000)
    assert "The linear head is fitted to 64 of 240 examples." in capsys.readouterr().out
    assert results.tuning == "full"
    assert results.best.metrics["test"]["accuracy"] > 0.9


def test_the_time_before_the_command_runs_counts(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"train_file": write_examples(tmp_path, "ner", COUNTS)["train_file"], "output_dir": tmp_path / "out"}
    options |= {"seconds": 1_000, "num_train_epochs": 50}
    arguments = ["--task", "ner", *(str(part) for name, value in options.items() for part in (f"--{name}", value))]
    # As if importing torch had taken all the time.
    with running_since(time.perf_counter() - 1_000):
        steps.run_adaptation(parse([str(encoder), *arguments]))
    assert "There is no time for 10 steps within 1000 seconds, but no training has fewer." in capsys.readouterr().out


def test_a_command_starts_the_clock_before_it_imports_torch() -> None:
    started: list[float] = []
    before = time.perf_counter()
    with pytest.raises(SystemExit):
        main(
            ["adapt", "nothing/here", "--task", "ner", "--train_file", "no.jsonl"],
            before_run=lambda: started.extend([command_start(), command_start()]),
        )
    assert before <= started[0] == started[1]
    assert command_start() > started[0]


def test_a_search_cannot_be_limited() -> None:
    assert "--seconds cannot bound a search" in refusal_of("ner", "x.jsonl", {"seconds": 60, "search_trials": 2})
    assert "--seconds must be at least 1, got 0.5." in refusal_of("ner", "x.jsonl", {"seconds": 0.5})
    assert "--seconds must be at least 1, got nan." in refusal_of("ner", "x.jsonl", {"seconds": float("nan")})
    assert "--seconds has no effect with --max_steps" in refusal_of("ner", "x.jsonl", {"seconds": 5, "max_steps": 2})
