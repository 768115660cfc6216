"""The scripts in `examples/`: each trains, evaluates and saves a model that loads again, with `Trainer` as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers

from sequence_encoder.tests.adaptation_runs import examples_of, save_encoder

SCRIPTS = Path(__file__).parent.parent / "examples"
# The script of each task, the head that it trains, and what it must reach of which metric.
TASKS: dict[str, tuple[str, str, str, float]] = {
    "classification": ("run_classification", "ForSequenceClassification", "eval_accuracy", 0.9),
    "multi-label": ("run_classification", "ForSequenceClassification", "eval_f1", 0.9),
    "regression": ("run_classification", "ForSequenceClassification", "eval_mse", 0.0),
    "ner": ("run_ner", "ForTokenClassification", "eval_f1", 0.95),
    "qa": ("run_qa", "ForQuestionAnswering", "eval_exact_match", 90.0),
    "multiple-choice": ("run_swag", "ForMultipleChoice", "eval_accuracy", 0.8),
    "embedding": ("run_embedding", "Model", "eval_cosine_ndcg@10", 0.9),
    "ranking": ("run_ranking", "ForSequenceClassification", "eval_average_precision", 0.8),
}
OPTIONS = {"multi-label": ["--label_column_name", "labels"], "regression": ["--do_regression", "True"]}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def as_swag(row: dict[str, Any]) -> dict[str, Any]:
    first, second = row["choices"]
    return {"sent1": row["text"], "sent2": "it is", "ending0": first, "ending1": second, "label": row["label"]}


@pytest.mark.parametrize("task", TASKS)
def test_every_script_trains_evaluates_and_saves(encoder: Path, tmp_path: Path, task: str) -> None:
    script, head, metric, goal = TASKS[task]
    for number, (split, count) in enumerate((("train", 240), ("validation", 40))):
        rows = examples_of(task, count, number)
        rows = [as_swag(row) for row in rows] if task == "multiple-choice" else rows
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    choices = ["--ending_column_names", "ending0", "ending1"] if task == "multiple-choice" else []
    command = [sys.executable, str(SCRIPTS / f"{script}.py"), "--model_name_or_path", str(encoder)]
    command += ["--train_file", str(tmp_path / "train.jsonl"), "--validation_file", str(tmp_path / "validation.jsonl")]
    command += ["--do_train", "--do_eval", "--output_dir", str(tmp_path / "out"), "--learning_rate", "3e-3"]
    command += ["--num_train_epochs", "8", "--per_device_train_batch_size", "16", "--use_cpu", "--report_to", "none"]
    command += ["--save_strategy", "no", *choices, *OPTIONS.get(task, [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    found = json.loads((tmp_path / "out" / "eval_results.json").read_text())[metric]
    assert found < 0.3 if task == "regression" else found >= goal
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert config.architectures == [f"SequenceEncoder{head}"]
