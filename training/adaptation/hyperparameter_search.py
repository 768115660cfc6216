"""Searches the learning rate, the epochs and the batch size of an adaptation with Optuna."""

from __future__ import annotations

from typing import Any, cast

from transformers import PrinterCallback, ProgressCallback
from transformers.trainer_utils import SaveStrategy

from ...command_line import UsageError
from .callbacks import DivergedError
from .run import Adaptation, training_arguments
from .scratch import SEARCH


def search(run: Adaptation, setup: Any) -> dict[str, Any]:
    """Search the best learning rate, epochs and batch size with `Trainer.hyperparameter_search` and Optuna.

    A resumed search keeps its finished trials. Its later trials differ from those of an uninterrupted search, because
    the state of the sampler's random numbers is not saved.

    Raises:
        UsageError: If all trials diverge.
    """
    import optuna
    from optuna.trial import TrialState

    args = run.args
    metric = str(args.metric_for_best_model or "loss").removeprefix("eval_")
    # `AdaptationArguments` has set them.
    rate, epochs = cast(float, args.learning_rate), cast(float, args.num_train_epochs)
    study: dict[str, Any] = {
        "study_name": "search",
        "storage": f"sqlite:///{run.scratch / SEARCH}",
        "load_if_exists": True,
        "direction": "maximize" if args.greater_is_better else "minimize",
    }
    with args.main_process_first(local=args.save_on_each_node, desc="reading finished trials"):
        trials = optuna.create_study(**study).get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))

    def space(trial: Any) -> dict[str, Any]:
        return {
            "learning_rate": trial.suggest_float("learning_rate", rate / 10, 10 * rate, log=True),
            "num_train_epochs": trial.suggest_int("num_train_epochs", 1, max(2, round(2 * epochs))),
            "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [8, 16, 32, 64]),
        }

    trial_args = training_arguments(run, run.scratch / "search", args.seed, {"save_strategy": SaveStrategy.NO})
    try:
        trainer = setup.trainer(trial_args, with_model=False)
        # Optuna already logs a line for each trial.
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        best: Any = trainer.hyperparameter_search(
            hp_space=space,
            backend="optuna",
            n_trials=max(0, args.search_trials - len(trials)),
            compute_objective=lambda metrics: metrics[f"eval_{metric}"],
            sampler=optuna.samplers.TPESampler(seed=args.seed + len(trials)),
            catch=(DivergedError,),
            **study,
        )
    except ValueError as error:
        raise UsageError(f"--search_trials {args.search_trials}: {error}") from error
    return dict(best.hyperparameters)
