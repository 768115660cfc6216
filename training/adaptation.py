"""The recipe of `sequence-encoder adapt`: from an encoder and examples to a model of a task, in one or many processes.

The output folder holds the model, its tokenizer, its card and `results.json`, and appears as a whole in the end.
"""

from __future__ import annotations

import contextlib
import copy
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..hub.whole_folders import check_replaceable, written_whole
from . import UsageError
from .adaptation_arguments import Adaptation, AdaptationArguments
from .adaptation_data import hold_out, load_examples, warn_of_shared
from .adaptation_report import Result, Results, write_results
from .hardware import peak_memory
from .head_recipe import HeadRecipe
from .similarity_recipe import SimilarityRecipe
from .starting_points import encoder_of
from .tasks import HEAD_TASKS


def adapt(run: Adaptation) -> Results:
    """Runs it all, and returns the metrics.

    Raises:
        FileExistsError: if there is something in the output folder, and not `overwrite`, or it is no model.
        UsageError: for examples that are not as the task needs them, and arguments that contradict each other. Both are
            found before anything is computed.
    """
    args = run.args
    if args.should_save:
        for kept in (run.model.from_checkpoint, run.model.from_adapter):
            check_replaceable(run.output, args.overwrite, "--overwrite", Path(kept) if kept else None)
    recipe = read_examples(run)
    with _scratch(run):
        with args.main_process_first(local=args.save_on_each_node, desc="preparing"):
            any_family = run.model.tuning == "adapter"
            base = run.scratch / "base"
            checkpoint, tokenizer = encoder_of(run.model.from_checkpoint, base, any_family, args.should_save)
            recipe.prepare(checkpoint, tokenizer)
        results = Results(run.model.task, run.model.tuning)
        if args.search_trials:
            results.found = search(run, recipe)
        for number in range(args.seeds):
            train(run, recipe, args.seed + number, results)
        if args.should_save:
            with written_whole(run.output, args.overwrite, "--overwrite") as written:
                shutil.copytree(run.scratch / "best", written, dirs_exist_ok=True)
                if (runs := run.scratch / "logs" / "runs").exists():
                    shutil.copytree(runs, written / "runs")
                write_results(results, written)
    if args.should_save:
        print(results.as_text())
        print(f"Saved in {run.output.resolve()}.")
        if args.push_to_hub:
            push(run)
    return results


def read_examples(run: Adaptation) -> HeadRecipe | SimilarityRecipe:
    """Reads the examples, and checks all that can be checked without an encoder."""
    with run.args.main_process_first(local=run.args.save_on_each_node, desc="reading examples"):
        examples = load_examples(run.data)
        kind = HeadRecipe if run.model.task in HEAD_TASKS else SimilarityRecipe
        recipe = kind(run, examples)
        # After labels were learned: a rare one may be held out.
        recipe.rows = hold_out(recipe.rows, run.data, run.args.seed)
        if run.args.should_save:
            warn_of_shared(recipe.rows, recipe.task.texts)
        return recipe


def train(run: Adaptation, recipe: Any, seed: int, results: Results) -> None:
    """One training; its model is kept in the scratch folder if it is the best so far."""
    trainer = recipe.trainer(_arguments(run, seed, results.found))
    results.parameters = sum(weight.numel() for weight in trainer.model.parameters())
    results.trained = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    metrics = {split: recipe.metrics(trainer, split) for split in ("validation", "test") if split in recipe.rows}
    results.trainings.append(Result(seed, metrics, seconds, recipe.score(metrics["validation"])))
    results.peak_memory = max(results.peak_memory, peak_memory())
    if results.best.seed == seed and run.args.should_save:
        best = run.scratch / "best"
        shutil.rmtree(best, ignore_errors=True)
        best.mkdir(parents=True)
        recipe.write(trainer, results, best)
    trainer.accelerator.wait_for_everyone()


def search(run: Adaptation, recipe: Any) -> dict[str, Any]:
    """The learning rate, epochs and batch size that `Trainer.hyperparameter_search` finds with optuna.

    Raises:
        UsageError: if optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError("--search_trials needs optuna: pip install 'sequence-encoder[adapt]'.") from error
    args = run.args
    metric, rate = str(args.metric_for_best_model or "loss").removeprefix("eval_"), args.learning_rate

    def space(trial: Any) -> dict[str, Any]:
        return {
            "learning_rate": trial.suggest_float("learning_rate", rate / 10, 10 * rate, log=True),
            "num_train_epochs": trial.suggest_int("num_train_epochs", 1, max(2, round(2 * args.num_train_epochs))),
            "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [8, 16, 32, 64]),
        }

    trainer = recipe.trainer(_arguments(run, args.seed, {}), with_model=False)
    best: Any = trainer.hyperparameter_search(
        hp_space=space,
        backend="optuna",
        n_trials=args.search_trials,
        direction="maximize" if args.greater_is_better else "minimize",
        compute_objective=lambda metrics: metrics[f"eval_{metric}"],
        sampler=optuna.samplers.TPESampler(seed=args.seed),
    )
    return dict(best.hyperparameters)


def push(run: Adaptation) -> None:
    """Uploads the output folder in one commit."""
    from huggingface_hub import HfApi

    args = run.args
    api = HfApi(token=args.hub_token)
    repo = api.create_repo(args.hub_model_id or run.output.name, private=args.hub_private_repo, exist_ok=True)
    api.upload_folder(repo_id=repo.repo_id, folder_path=run.output, commit_message=f"Adapted to {run.model.task}")


def _arguments(run: Adaptation, seed: int, found: dict[str, Any]) -> AdaptationArguments:
    """Those of one training, whose `Trainer` is not to push, nor to write into the output folder."""
    args = copy.deepcopy(run.args)
    args.seed, args.push_to_hub, args.output_dir = seed, False, str(run.scratch / "logs")
    for name, value in found.items():
        setattr(args, name, value)
    return args


@contextlib.contextmanager
def _scratch(run: Adaptation) -> Iterator[Path]:
    """The scratch folder, empty at the beginning, gone in the end."""
    if run.args.should_save:
        shutil.rmtree(run.scratch, ignore_errors=True)
        run.scratch.mkdir(parents=True)
    try:
        yield run.scratch
    finally:
        if run.args.should_save:
            shutil.rmtree(run.scratch, ignore_errors=True)
