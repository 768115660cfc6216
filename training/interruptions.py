"""Saves a checkpoint when Ctrl-C or the system stops a training run, and checks a run that continues it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout
from transformers import TrainerCallback

from ..command_line import UsageError

LOCK = "lock"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class GracefulStop(TrainerCallback):
    """A callback that saves a checkpoint and stops training on Ctrl-C or SIGTERM.

    The current step is finished first. A second signal stops at once. The first signal also stops at once if no
    training is running, or if there are several processes, which would not stop at the same step. Add this callback
    before those that read `control` after a step, and train inside `watch`.
    """

    def __init__(self) -> None:
        self.asked = self.training = False
        self.process = os.getpid()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Handle the signals, which only the main thread of a program can do.

        Raises:
            KeyboardInterrupt: On a signal that stops at once.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._request_stop) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def raise_if_stopped(self) -> None:
        """Raise if a signal has stopped the training, to skip the work after it.

        Raises:
            KeyboardInterrupt: If a signal has stopped the training.
        """
        if self.asked:
            raise KeyboardInterrupt

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:
            # This is a worker process. The terminal sends Ctrl-C to it as well, but the training still needs it.
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if self.asked or not self.training:
            raise KeyboardInterrupt
        self.asked = True
        print("\nStopping after this step, with a checkpoint. Press Ctrl-C again to stop at once.", file=sys.stderr)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """From now on, stop with a checkpoint, unless there are several processes."""
        self.training = args.world_size == 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save and stop if a signal came during the step."""
        if self.asked:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """From now on, stop at once, because there is nothing left to save."""
        self.training = False


def acquire_lock(scratch: Path, output: Path) -> FileLock:
    """Lock the scratch folder of an output folder, which is made if necessary, against other runs.

    Raises:
        FileExistsError: If another run uses it.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    lock = FileLock(scratch / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FileExistsError(f"Another run is writing to {output}; choose another --output_dir.") from error
    return lock


def check_unchanged(stored: Mapping[str, Any], settings: Mapping[str, Any], parts: tuple[Any, ...], what: str) -> None:
    """Check that a run has the settings of the interrupted run that it resumes.

    An earlier version may have lacked some of the arguments, whose dataclasses are `parts`. These have their defaults.

    Raises:
        UsageError: If settings differ. The message says with `what` the run must continue.
    """
    defaults = {
        each.name: each.default if each.default_factory is MISSING else each.default_factory()
        for part in parts
        for each in fields(part)
    }
    before = {**defaults, **stored}
    changed = [name for name in settings if before.get(name) != settings[name]]
    if changed:
        differences = ", ".join(f"{name} (was {before.get(name)!r}, is {settings[name]!r})" for name in changed)
        raise UsageError(f"--resume continues {what}, but these differ: {differences}.")
