"""The scratch folder that `sequence-encoder adapt` keeps next to its output folder until the run is finished.

.NAME-adaptation/
  lock             held while a run uses the folder; the system releases it when the process ends
  settings.json    what must not change when the run is resumed; written once the encoder in `base` is complete
  base/            the encoder, if it was converted from another family
  search.db        the finished trials of a hyperparameter search
  budget.json      how the training was shortened to `--seconds`
  linear_head.json the number of examples that the linear head is fitted to within `--seconds`
  labels.json      the labels of the texts that had none
  folds/           the outputs of finished folds for their held-out examples
  trainings/SEED/  the checkpoints and logs of a training run
  models/SEED/     the best model so far; all models if their weights will be averaged
  models/average/  the model with the averaged weights
  results.json     the results of the finished training runs
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

from ....command_line.counts import counted
from ....saving.whole_folders import write_atomically
from ...checkpoints import MARKER, last_complete_checkpoint, step_of
from ...interruptions import LOCK, acquire_lock, check_unchanged
from ..examples.loading import fingerprint
from ..report import Results
from ..run import Adaptation

_SETTINGS, SEARCH, _RESULTS = "settings.json", "search.db", "results.json"
# Prefixes of the arguments that do not affect what is learned.
_MAY_CHANGE = (
    *("output_dir", "overwrite", "resume", "seeds", "push_to_hub", "hub_", "report_to", "run_name", "project"),
    *("trackio_", "disable_tqdm", "log_", "logging_", "save_", "dataloader_", "use_cpu", "local_rank", "ddp_"),
)


class ResumableRun(Protocol):
    """A run with dataclasses of arguments, the last of which are those of `Trainer`."""

    model: Any
    data: Any
    args: Any

    @property
    def output(self) -> Path:
        """The output folder."""

    @property
    def scratch(self) -> Path:
        """The scratch folder."""


@contextlib.contextmanager
def scratch_of(run: ResumableRun, settings: Mapping[str, Any]) -> Iterator[bool]:
    """Lock the scratch folder of a run, and delete it afterwards unless the run can be resumed from it.

    Only processes that save use the folder. The other processes get the same answer.

    Yields:
        Whether the run resumes an earlier one.

    Raises:
        FileExistsError: If another run uses the folder, or it contains an interrupted run and neither `resume` nor
            `overwrite` is set.
        PermissionError: If the folder cannot be created.
        UsageError: If the interrupted run had other settings.
    """
    folder, output = run.scratch, run.output
    if not run.args.should_save:
        yield run.args.resume and (folder / _SETTINGS).exists()
        return
    try:
        lock = acquire_lock(folder, output)
    except OSError as error:
        if error.errno is None:  # another run has the lock
            raise
        raise PermissionError(f"{output} cannot be written: {error.strerror}.") from error
    finished = False
    try:
        yield _prepared(run, settings)
        finished = True
    finally:
        if finished or not has_progress(folder):
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def has_progress(folder: Path) -> bool:
    """Return whether a scratch folder contains anything that a run can continue from."""
    if not (folder / _SETTINGS).exists():
        return False
    return (
        (folder / _RESULTS).exists()
        or (folder / SEARCH).exists()
        or any(folder.glob("folds/*.json"))
        or any(folder.glob("teacher/shard-*"))
        or any(folder.glob(f"trainings/*/checkpoint-*/{MARKER}"))
    )


def progress_of(run: Adaptation) -> str:
    """Describe what an interrupted run has saved, and how to resume it."""
    folder = run.scratch
    if not has_progress(folder):
        return "Interrupted before the first checkpoint; nothing was saved."
    kept, results = [], finished(run)
    if results.trainings:
        kept.append(
            f"the finished training runs of seeds {', '.join(str(result.seed) for result in results.trainings)}"
        )
    elif (folder / SEARCH).exists():
        kept.append("the result of the search" if results.found else "the finished trials of the search")
    if folds := len(list(folder.glob("folds/*.json"))):
        kept.append(counted(folds, "finished fold"))
    for training in sorted(folder.glob("trainings/*")):
        if checkpoint := last_complete_checkpoint(training):
            kept.append(f"the training of seed {training.name} up to step {step_of(checkpoint)}")
    return f"Interrupted. {folder} keeps {' and '.join(kept)}. Continue with the same command and --resume."


def _prepared(run: ResumableRun, settings: Mapping[str, Any]) -> bool:
    """Check what an earlier run left, remove what this run does not need, and return whether this run resumes it."""
    folder, file = run.scratch, run.scratch / _SETTINGS
    resumed = has_progress(folder) and run.args.resume
    if has_progress(folder) and not (run.args.resume or run.args.overwrite):
        raise FileExistsError(
            f"{folder} contains an interrupted run; continue it with --resume, or start over with --overwrite."
        )
    if resumed:
        stored = json.loads(file.read_text(encoding="utf-8"))
        parts = (run.model, run.data, run.args)
        check_unchanged(stored, settings, parts, "a run with the same arguments and examples")
    else:
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
    return resumed


def record_settings(run: ResumableRun, settings: Mapping[str, Any]) -> None:
    """Write the settings of a run once its encoder is complete."""
    if run.args.should_save:
        write_atomically(run.scratch / _SETTINGS, [json.dumps(settings, indent=1)])


def settings_of(
    run: ResumableRun, examples: Mapping[str, Any], unlabelled: Any = None, names: Any = None
) -> dict[str, Any]:
    """Return what must not change when a run is resumed: arguments, examples, names of classes, and processes."""
    given = {**dataclasses.asdict(run.model), **dataclasses.asdict(run.data), **run.args.to_dict()}
    given = {name: value for name, value in given.items() if not name.startswith(_MAY_CHANGE)}
    given |= {f"{split} examples": fingerprint(rows) for split, rows in examples.items()}
    if unlabelled is not None:
        given["unlabelled texts"] = fingerprint(unlabelled)
    if names is not None:
        given["class names"] = names.descriptions
    given["processes"] = run.args.world_size
    return json.loads(json.dumps(given, default=str))


def digest_of(settings: Mapping[str, Any]) -> str:
    """Return the digest that identifies a run in its results, which may be published, while settings contain paths."""
    return blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8).hexdigest()


def is_finished(run: Adaptation, settings: Mapping[str, Any]) -> bool:
    """Return whether the output folder already contains the results of the run."""
    try:
        saved = json.loads((run.output / _RESULTS).read_text(encoding="utf-8"))
        seeds = range(run.args.seed, run.args.seed + run.args.seeds)
        return saved["run"] == digest_of(settings) and set(seeds) <= set(saved["seeds"])
    except (OSError, ValueError, TypeError, KeyError):
        return False


def finished(run: Adaptation) -> Results:
    """Read the results of the finished training runs of an interrupted adaptation."""
    file = run.scratch / _RESULTS
    return Results.read(file) if file.exists() else Results(run.model.task, run.model.tuning, run.args.masked_tuning)


def record(run: Adaptation, results: Results) -> None:
    """Write the results of the finished training runs."""
    if run.args.should_save:
        write_atomically(run.scratch / _RESULTS, [results.as_record()])
