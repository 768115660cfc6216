"""Saves a checkpoint when Ctrl-C or the system stops a training run."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

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

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """From now on, stop with a checkpoint, unless there are several processes."""
        self.training = args.world_size == 1

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop if a signal came during the step."""
        if self.asked:
            control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """From now on, stop at once, because there is nothing left to save."""
        self.training = False
